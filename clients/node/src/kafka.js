// The client that sends requests through Kafka.
'use strict';

const { Breaker } = require('./breaker.js');
const { AnswerCache } = require('./cache.js');
const { subjectOf } = require('./evaluation.js');
const { queriesOf, Flags } = require('./flags.js');
const { AvroFormat } = require('./kafka/avro.js');
const { KafkaChanges, UPDATES_TOPIC } = require('./kafka/changes.js');
const { serversOf } = require('./kafka/connect.js');
const { JSON_FORMAT } = require('./kafka/format.js');
const { PendingReplies } = require('./kafka/pending.js');
const { Sender } = require('./kafka/sender.js');
const { KafkaTransport } = require('./kafka/transport.js');
const { COMMON, checked, layers } = require('./options.js');

const DEFAULTS = {
  ...COMMON,
  requestsTopic: 'feature-flag-evaluation-requests',
  replyTopic: null,
  conversionsTopic: 'feature-flag-conversions',
  updatesTopic: UPDATES_TOPIC,
  format: JSON_FORMAT,
  maxPending: 10_000,
  kafka: {},
};

/**
 * Evaluates flags through Kafka: each call is a request with `reply-to` and `correlation-id`, and completes when its reply
 * arrives. One consumer reads the reply topic for all clients of the process. Create one client, and close it.
 */
class KafkaFeatureFlagsClient extends Flags {
  #environment;
  #transport;
  #pending;
  #changes;

  constructor(options = {}) {
    const known = checked(options, { ...DEFAULTS, bootstrapServers: process.env.KAFKA_BOOTSTRAP_SERVERS });
    known.bootstrapServers = serversOf(known.bootstrapServers);
    const breaker = new Breaker(known.failureThreshold, known.recoveryTimeoutMs, known.now);
    const cache = new AnswerCache(layers(known), known.now);
    const pending = new PendingReplies(known.maxPending, known.format, breaker);
    const transport = new KafkaTransport(known, pending, new Sender(known));
    super(known, cache, transport);
    this.#environment = known.environment;
    this.#transport = transport;
    this.#pending = pending;
    const { bootstrapServers, kafka, format, updatesTopic: topic } = known;
    this.#changes = known.followChanges ? new KafkaChanges(this, { bootstrapServers, kafka, format, topic }) : null;
  }

  /**
   * Sends a request without waiting for an answer, for services that read the results from the events topic. Returns the
   * request's id, which its events carry, when Kafka has the request; else rejects with a `FlagstreamError`.
   */
  async request(flagNames, userId, options = {}) {
    const queries = queriesOf([flagNames].flat(), options);
    return this.#transport.request(queries, subjectOf(userId, options, this.#environment));
  }

  /** Resolves when requests can be sent and replies will be read. Without it, the first evaluations wait. */
  async waitUntilReady() {
    await this.#transport.ready();
  }

  /** How many replies arrived after their deadline. */
  get lateReplies() {
    return this.#pending.late;
  }

  /** How many requests wait for a reply. */
  get pendingRequests() {
    return this.#pending.size;
  }

  async close() {
    await Promise.all([this.#changes?.close(), this.#transport.close()]);
  }
}

module.exports = { AvroFormat, KafkaChanges, KafkaFeatureFlagsClient };
