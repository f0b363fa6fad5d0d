// The format of messages.
'use strict';

const { encode } = require('../evaluation.js');

/** JSON. A format for Avro has the same two functions, which may return promises. */
const JSON_FORMAT = {
  encode: (_topic, _record, body) => Buffer.from(encode(body)),
  decode: (message) => {
    try {
      return JSON.parse(Buffer.from(message).toString());
    } catch {
      return null;
    }
  },
};

module.exports = { JSON_FORMAT };
