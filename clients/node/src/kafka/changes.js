// Changes of flags from `feature-flag-updates`.
'use strict';

const { changeOf } = require('../changes.js');
const { EARLIER, FOLLOWING } = require('../flags.js');
const { serversOf } = require('./connect.js');
const { JSON_FORMAT } = require('./format.js');
const { TopicReader } = require('./topic-reader.js');

const UPDATES_TOPIC = 'feature-flag-updates';
/** Records before the end that are read first, so that answers from before the start are compared with them. */
const LOOK_BACK_RECORDS = 100;

/**
 * Reports each change to a client, which invalidates its cache and calls its listeners. Each process needs every message, so
 * there is no consumer group.
 */
class KafkaChanges {
  #flags;
  #format;
  #topic;
  #reader;
  #isReading = false;
  /** Decoding may wait for a schema registry; changes stay in order. */
  #last = Promise.resolve();

  constructor(flags, { bootstrapServers = process.env.KAFKA_BOOTSTRAP_SERVERS, topic = UPDATES_TOPIC, format = JSON_FORMAT, kafka = {} } = {}) {
    this.#flags = flags;
    this.#format = format;
    this.#topic = topic;
    const options = { bootstrapServers: serversOf(bootstrapServers), kafka };
    const receive = (record) => {
      this.#last = this.#last.then(() => this.#take(record));
    };
    this.#reader = new TopicReader(options, topic, LOOK_BACK_RECORDS, receive, (isReading) => {
      this.#isReading = isReading;
      flags[FOLLOWING](isReading);
    });
  }

  /** Starts to report changes to a client that was created with a cache. */
  static start(flags, options) {
    return new KafkaChanges(flags, options);
  }

  /** Whether changes arrive. Those of an interruption are reported after it. */
  get isFollowing() {
    return this.#isReading;
  }

  /** Resolves when every later change will be reported. */
  async waitUntilFollowing() {
    await this.#reader.ready;
  }

  async close() {
    await this.#reader.close();
    this.#isReading = false;
    this.#flags[FOLLOWING](false);
  }

  async #take(record) {
    let change = null;
    try {
      change = changeOf(await this.#format.decode(record.value));
    } catch {
      // Reported below.
    }
    if (change === null) {
      // What it makes outdated is unknown.
      const where = `${this.#topic} partition ${record.partition} offset ${record.offset}`;
      console.warn(`flagstream: ${where}: not a change that this client can read; all cached answers are dropped`);
      this.#flags.clearCache();
    } else if (record.isEarlier) {
      this.#flags[EARLIER](change);
    } else {
      this.#flags.applyInvalidation(change);
    }
  }
}

module.exports = { KafkaChanges, UPDATES_TOPIC };
