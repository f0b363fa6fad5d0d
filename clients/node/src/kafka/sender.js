// Produces messages, in batches of what was sent meanwhile.
'use strict';

const { setTimeout: sleep } = require('node:timers/promises');

const { FlagstreamError } = require('../errors.js');
const { connection, load, why } = require('./connect.js');

const RETRY_INTERVAL_MS = 1_000;
/** A broker refuses a batch as a whole, so batches are smaller than any usual limit; a larger message is a batch of its own. */
const MAX_BATCH_BYTES = 256 << 10;
const MAX_BATCH_COUNT = 1_000;
const MAX_IN_FLIGHT = 5;
const ACKS_ALL = -1;
/** Errors that a retry does not change. */
const FINAL = ['MESSAGE_TOO_LARGE', 'RECORD_LIST_TOO_LARGE', 'INVALID_RECORD', 'TOPIC_AUTHORIZATION_FAILED', 'INVALID_TOPIC_EXCEPTION'];

class Sender {
  #options;
  #producer = null;
  #queue = [];
  #inFlight = 0;
  #isScheduled = false;
  #ready = new Map();
  #known = new Set();
  #closing = new AbortController();

  /** Why messages cannot be sent, or `null`. */
  problem = null;

  constructor(options) {
    this.#options = options;
  }

  /** Number of messages that wait to be sent. */
  get waiting() {
    return this.#queue.length;
  }

  /** Resolves when the topic's metadata is known. */
  ready(topic) {
    if (!this.#ready.has(topic)) this.#ready.set(topic, this.#awaitMetadata(topic));
    return this.#ready.get(topic);
  }

  isReady(topic) {
    return this.#known.has(topic);
  }

  /** Sends a message; resolves when Kafka has it. It is retried until `deadline` (`performance.now()`). */
  send(message, deadline) {
    return new Promise((resolve, reject) => {
      if (this.#closing.signal.aborted) return reject(closed());
      this.#queue.push({ message, deadline, resolve, reject });
      this.#schedule();
    });
  }

  async close() {
    this.#closing.abort();
    this.#queue.splice(0).forEach(({ reject }) => reject(closed()));
    const producer = await this.#producer?.catch(() => null);
    await producer?.close().catch(() => {});
  }

  #connect() {
    this.#producer ??= load().then(({ Producer }) => new Producer({ ...connection(this.#options), acks: ACKS_ALL }));
    return this.#producer;
  }

  #schedule() {
    if (this.#isScheduled || this.#inFlight >= MAX_IN_FLIGHT || this.#queue.length === 0) return;
    this.#isScheduled = true;
    // What is sent in the same turn of the event loop shares a batch.
    setImmediate(() => {
      this.#isScheduled = false;
      while (this.#queue.length > 0 && this.#inFlight < MAX_IN_FLIGHT) this.#flush();
    });
  }

  #flush() {
    let bytes = 0;
    let count = 0;
    while (count < Math.min(this.#queue.length, MAX_BATCH_COUNT)) {
      bytes += this.#queue[count].message.value.length;
      if (count > 0 && bytes > MAX_BATCH_BYTES) break;
      count += 1;
    }
    const batch = this.#queue.splice(0, count);
    this.#inFlight += 1;
    this.#deliver(batch).finally(() => {
      this.#inFlight -= 1;
      this.#schedule();
    });
  }

  async #deliver(batch) {
    for (let rest = batch; rest.length > 0; ) {
      try {
        const producer = await this.#connect();
        await producer.send({ messages: rest.map(({ message }) => message), acks: ACKS_ALL });
        this.problem = null;
        rest.forEach(({ resolve }) => resolve());
        return;
      } catch (error) {
        rest = await this.#afterFailure(rest, error);
      }
    }
  }

  /** Rejects the messages for which it is too late, and returns the others after a while. */
  async #afterFailure(batch, error) {
    const detail = why(error);
    this.problem = detail;
    const isFinal = FINAL.some((id) => error.findBy?.('apiId', id)) || typeof error.findBy !== 'function';
    const isLate = ({ deadline }) => isFinal || this.#closing.signal.aborted || performance.now() + RETRY_INTERVAL_MS >= deadline;
    const kind = isFinal ? 'invalid_request' : 'connection_failed';
    batch.filter(isLate).forEach(({ reject }) => reject(new FlagstreamError(kind, `Kafka: ${detail}`, { cause: error })));
    const rest = batch.filter((item) => !isLate(item));
    if (rest.length > 0) await sleep(RETRY_INTERVAL_MS, undefined, { signal: this.#closing.signal }).catch(() => {});
    return rest;
  }

  async #awaitMetadata(topic) {
    while (!this.#closing.signal.aborted) {
      try {
        const producer = await this.#connect();
        await producer.metadata({ topics: [topic], forceUpdate: true });
        this.problem = null;
        this.#known.add(topic);
        return;
      } catch (error) {
        const problem = `topic ${topic}: ${why(error)}`;
        if (problem !== this.problem && !this.#closing.signal.aborted) console.warn(`flagstream: ${problem}`);
        this.problem = problem;
        await sleep(RETRY_INTERVAL_MS, undefined, { signal: this.#closing.signal }).catch(() => {});
      }
    }
  }
}

function closed() {
  return new FlagstreamError('connection_failed', 'the client is closed');
}

module.exports = { Sender };
