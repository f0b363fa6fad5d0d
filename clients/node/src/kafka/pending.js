// Requests of one client that wait for replies, and its circuit breaker.
'use strict';

const { randomBytes } = require('node:crypto');

const { FlagstreamError } = require('../errors.js');

/** Separates a client's id from the number of its request in a correlation id. */
const SEPARATOR = '.';

class PendingReplies {
  #maxPending;
  #format;
  #breaker;
  #waiting = new Map();
  #numbers = 0;
  #isClosed = false;
  /** Identifies the client in the correlation ids of its requests. */
  client = randomBytes(8).toString('hex');
  /** Number of replies that arrived after their deadline. */
  late = 0;

  constructor(maxPending, format, breaker) {
    this.#maxPending = maxPending;
    this.#format = format;
    this.#breaker = breaker;
  }

  get size() {
    return this.#waiting.size;
  }

  /** An id that no other request of any client has. */
  nextId() {
    return `${this.client}${SEPARATOR}${this.#numbers++}`;
  }

  /** Registers a request; throws if too many wait, or if the circuit breaker is open. The promise gets the reply. */
  add(id) {
    if (this.#isClosed) throw new FlagstreamError('connection_failed', 'the client is closed');
    if (this.#waiting.size >= this.#maxPending) {
      throw new FlagstreamError('rate_limited', `${this.#maxPending} requests wait for replies, which is the limit`);
    }
    this.#breaker.enter();
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  has(id) {
    return this.#waiting.has(id);
  }

  /** Fails a request, which counts against the service if the service may be the cause. */
  fail(id, failure) {
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    this.#waiting.delete(id);
    if (failure?.kind === 'timed_out' || failure?.kind === 'connection_failed') this.#breaker.failed();
    else this.#breaker.abandoned();
    waiting.reject(failure);
  }

  /** Receives a reply. */
  reply(id, message) {
    const waiting = this.#waiting.get(id);
    if (!waiting) {
      this.late += 1;
      this.#breaker.mayBeWell();
      return;
    }
    this.#waiting.delete(id);
    this.#breaker.succeeded();
    waiting.resolve(this.#decoded(message));
  }

  async #decoded(message) {
    let body;
    try {
      body = await this.#format.decode(message);
    } catch (cause) {
      throw new FlagstreamError('invalid_answer', `the reply cannot be decoded: ${cause.message}`, { cause });
    }
    if (body === null || typeof body !== 'object') {
      throw new FlagstreamError('invalid_answer', 'the reply is not JSON; set the option format for replies in Avro');
    }
    return body;
  }

  close() {
    this.#isClosed = true;
    const closed = new FlagstreamError('connection_failed', 'the client is closed');
    for (const { reject } of this.#waiting.values()) reject(closed);
    this.#waiting.clear();
  }
}

module.exports = { PendingReplies, SEPARATOR };
