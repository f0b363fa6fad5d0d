// One reader of a reply topic for all clients of the process.
'use strict';

const { isDeepStrictEqual } = require('node:util');

const { serversOf } = require('./connect.js');
const { SEPARATOR } = require('./pending.js');
const { TopicReader, headerOf } = require('./topic-reader.js');

const shared = new Set();

/** Gives each reply to the client that the correlation id names. Replies to other processes are in the topic, too. */
class ReplyReader {
  #reader;
  #sinks = new Map();

  constructor(key) {
    this.key = key;
    const { topic, ...options } = key;
    this.#reader = new TopicReader(options, topic, 0, (record) => this.#dispatch(record));
  }

  get ready() {
    return this.#reader.ready;
  }

  get isReady() {
    return this.#reader.isReady;
  }

  get problem() {
    return this.#reader.problem;
  }

  add(pending) {
    this.#sinks.set(pending.client, pending);
  }

  /** Removes a client; the last one ends the reader. */
  async release(pending) {
    this.#sinks.delete(pending.client);
    if (this.#sinks.size > 0) return;
    shared.delete(this);
    await this.#reader.close();
  }

  #dispatch(record) {
    const id = headerOf(record, 'correlation-id');
    const end = id === null ? -1 : id.indexOf(SEPARATOR);
    if (end >= 0) this.#sinks.get(id.slice(0, end))?.reply(id, record.value);
  }
}

/** The process's reader of a topic, with one more client. */
function acquire({ bootstrapServers, kafka, replyTopic: topic }, pending) {
  const key = { bootstrapServers: serversOf(bootstrapServers), kafka, topic };
  let reader = [...shared].find((known) => isDeepStrictEqual(known.key, key));
  if (!reader) {
    reader = new ReplyReader(key);
    shared.add(reader);
  }
  reader.add(pending);
  return reader;
}

/** Number of readers in this process. */
function readersCount() {
  return shared.size;
}

module.exports = { acquire, readersCount };
