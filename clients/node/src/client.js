// The client that calls the service over HTTP.
'use strict';

const { Breaker } = require('./breaker.js');
const { AnswerCache } = require('./cache.js');
const { ChangeReader, follow } = require('./changes.js');
const { FlagstreamError } = require('./errors.js');
const { FOLLOWING, Flags } = require('./flags.js');
const { layers, settings } = require('./options.js');
const { HttpTransport } = require('./transport.js');

/** Evaluates flags over HTTP. Create one client for the whole process, and close it. */
class FeatureFlagsClient extends Flags {
  #closing;

  constructor(options = {}) {
    const known = settings(options);
    const closing = new AbortController();
    const cache = new AnswerCache(layers(known), known.now);
    const breaker = new Breaker(known.failureThreshold, known.recoveryTimeoutMs, known.now);
    super(known, cache, new HttpTransport(known, breaker, closing.signal));
    this.#closing = closing;
    if (known.followChanges) {
      const reader = new ChangeReader((change) => this.applyInvalidation(change), (version) => cache.begin(version));
      follow(known, reader, breaker, (isFollowing) => this[FOLLOWING](isFollowing), closing.signal);
    }
  }

  async close() {
    this.#closing.abort(new FlagstreamError('connection_failed', 'the client is closed'));
  }
}

module.exports = { FeatureFlagsClient };
