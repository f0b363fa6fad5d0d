// Calls of the service through Kafka: requests with replies, requests without, conversions.
'use strict';

const { setTimeout: sleep } = require('node:timers/promises');

const { FlagstreamError } = require('../errors.js');
const { bodyOfMany, bodyOfOne, many } = require('../evaluation.js');
const { until } = require('../http.js');
const { acquire } = require('./replies.js');

const MAX_NAME_BYTES = 255;
const MAX_FLAGS_COUNT = 1_000;
const REQUEST = 'EvaluationRequest';
const CONVERSION = 'Conversion';
/** Wait between two requests of a call that needs a version which the service does not have yet. */
const VERSION_RETRY_MS = 100;
/** Time for which a message without a reply is retried while Kafka is unreachable. */
const DELIVERY_TIMEOUT_MS = 120_000;

class KafkaTransport {
  #settings;
  #pending;
  #sender;
  #replies;

  constructor(settings, pending, sender) {
    this.#settings = settings;
    this.#pending = pending;
    this.#sender = sender;
    sender.ready(settings.requestsTopic);
    this.#replies = settings.replyTopic === null ? null : acquire(settings, pending);
  }

  /** Resolves when requests can be sent and replies will be read. */
  async ready() {
    await Promise.all([this.#sender.ready(this.#settings.requestsTopic), this.#replies?.ready]);
  }

  async one(query, subject, options) {
    return (await this.many([query], subject, options)).get(query.flag);
  }

  async many(queries, subject, { minVersion = 0, signal } = {}) {
    const deadline = performance.now() + this.#settings.timeoutMs;
    for (;;) {
      const reply = await this.#exchange(queries, subject, deadline, signal);
      if ((reply.flags_version ?? 0) >= minVersion) return many(reply, queries.map(({ flag }) => flag));
      // Kafka's requests cannot wait for a version, so a reply with an older one is requested again.
      if (deadline - performance.now() <= VERSION_RETRY_MS) {
        const detail = `flags version ${minVersion} is not in force yet; the current version is ${reply.flags_version}`;
        throw new FlagstreamError('unavailable', detail);
      }
      await until([signal], (own) => sleep(VERSION_RETRY_MS, undefined, { signal: own }));
    }
  }

  /** Sends a request without a reply; returns its id. */
  async request(queries, subject) {
    const requestId = this.#pending.nextId();
    await this.#sendLater(this.#settings.requestsTopic, REQUEST, subject.user_id, bodyOf(queries, subject, requestId));
    return requestId;
  }

  async expose(query, subject) {
    await this.request([query], subject);
  }

  async convert(conversion) {
    await this.#sendLater(this.#settings.conversionsTopic, CONVERSION, conversion.user_id, conversion);
  }

  async track() {
    const detail = 'Kafka needs the name of the experiment: use trackConversion, or a client over HTTP';
    throw new FlagstreamError('invalid_request', detail);
  }

  async close() {
    this.#pending.close();
    await Promise.all([this.#replies?.release(this.#pending), this.#sender.close()]);
  }

  /** Sends a request and returns its reply. */
  async #exchange(queries, subject, deadline, signal) {
    if (!this.#replies) throw new FlagstreamError('invalid_request', 'no reply topic is set: set replyTopic, or use request');
    signal?.throwIfAborted();
    const { requestsTopic, replyTopic } = this.#settings;
    const id = this.#pending.nextId();
    const body = bodyOf(queries, subject, id);
    const reply = this.#pending.add(id);
    const timer = setTimeout(() => this.#pending.fail(id, this.#timedOut()), Math.max(0, deadline - performance.now()));
    const aborted = () => this.#pending.fail(id, signal.reason);
    signal?.addEventListener('abort', aborted, { once: true });
    this.#sendWhenReady(id, async () => {
      const headers = { 'reply-to': replyTopic, 'correlation-id': id };
      await this.#sender.send(await this.#message(requestsTopic, REQUEST, subject.user_id, body, headers), deadline);
    });
    try {
      return await reply;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', aborted);
    }
  }

  async #sendWhenReady(id, send) {
    try {
      if (!this.#isReady) await this.ready();
      if (this.#pending.has(id)) await send();
    } catch (error) {
      this.#pending.fail(id, error);
    }
  }

  get #isReady() {
    return this.#replies.isReady && this.#sender.isReady(this.#settings.requestsTopic);
  }

  async #sendLater(topic, record, key, body) {
    if (this.#sender.waiting >= this.#settings.maxPending) {
      const detail = `${this.#sender.waiting} messages wait for Kafka, which is unreachable: ${this.#sender.problem}`;
      throw new FlagstreamError('rate_limited', detail);
    }
    await this.#sender.send(await this.#message(topic, record, key, body, {}), performance.now() + DELIVERY_TIMEOUT_MS);
  }

  async #message(topic, record, key, body, headers) {
    const trace = this.#settings.traceparent?.();
    const value = await this.#settings.format.encode(topic, record, body);
    const all = Object.entries(trace ? { ...headers, traceparent: trace } : headers);
    const bytes = new Map(all.map(([name, text]) => [Buffer.from(name), Buffer.from(text)]));
    return { topic, key: key == null ? undefined : Buffer.from(String(key)), value: Buffer.from(value), headers: bytes };
  }

  #timedOut() {
    const problem = this.#replies?.problem ?? this.#sender.problem;
    return new FlagstreamError('timed_out', `no reply within ${this.#settings.timeoutMs} ms${problem ? `: ${problem}` : ''}`);
  }
}

function bodyOf(queries, subject, requestId) {
  if (queries.length < 1 || queries.length > MAX_FLAGS_COUNT) {
    throw new FlagstreamError('invalid_request', `flag_names: expected 1 to ${MAX_FLAGS_COUNT} flags, got ${queries.length}`);
  }
  for (const { flag } of queries) {
    const length = Buffer.byteLength(String(flag));
    // The service would write a dead letter, and no reply.
    if (length === 0 || length > MAX_NAME_BYTES) {
      throw new FlagstreamError('invalid_request', `flag_name: expected a name of 1 to ${MAX_NAME_BYTES} bytes, got ${length}`);
    }
  }
  const asked = queries.length === 1 ? bodyOfOne(queries[0], subject) : bodyOfMany(queries, subject);
  return { request_id: requestId, ...asked, requested_at: new Date().toISOString() };
}

module.exports = { KafkaTransport };
