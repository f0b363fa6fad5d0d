// A client for tests of services, which needs no server.
'use strict';

const { AnswerCache } = require('./cache.js');
const { mocked, unknown } = require('./evaluation.js');
const { FOLLOWING, Flags } = require('./flags.js');

const OFF = { memoryTtlMs: null, maxEntries: 0, redis: null, redisTtlMs: null };

/** Answers with the values of a mock, and remembers what it was asked. */
class MockTransport {
  constructor(mock) {
    this.mock = mock;
  }

  async one({ flag, defaultValue }, { user_id: user, environment }) {
    const { asked, flags, variants } = this.mock();
    asked.push([flag, user]);
    if (!Object.hasOwn(flags, flag)) return unknown(flag, defaultValue, environment);
    return mocked(flag, flags[flag], environment, Object.hasOwn(variants, flag) ? variants[flag] : null);
  }

  async many(queries, subject) {
    return new Map(await Promise.all(queries.map(async (query) => [query.flag, await this.one(query, subject)])));
  }

  async expose({ flag }, { user_id: user }) {
    this.mock().exposures.push([flag, user]);
  }

  async convert(conversion) {
    this.mock().conversions.push(conversion);
  }

  async track(metric, { user_id: user }, { value, ...details }) {
    this.mock().tracked.push({ metric, userId: user, value, ...details });
  }

  async request(queries, { user_id: user }) {
    this.mock().requests.push([queries.map(({ flag }) => flag), user]);
    return `mock-${this.mock().requests.length}`;
  }
}

/** `new MockFeatureFlagsClient({ new_ui: true, theme: 'dark' })`: `flags` may be changed at any time. */
class MockFeatureFlagsClient extends Flags {
  #transport;

  constructor(flags = {}) {
    const transport = new MockTransport(() => this);
    super({ environment: null, onError: () => {}, onWarning: () => {} }, new AnswerCache(OFF, () => 0), transport);
    this.#transport = transport;
    this.flags = { ...flags };
    /** The variants of flags, for `getVariant`. */
    this.variants = {};
    /** Every `[flag, user]` that was asked for, in order. */
    this.asked = [];
    this.exposures = [];
    this.conversions = [];
    this.tracked = [];
    this.requests = [];
    this[FOLLOWING](true);
  }

  /** Sets a flag, and reports the change to the listeners. */
  set(flagName, value) {
    this.flags[flagName] = value;
    this.#changed('FEATURE_FLAG_UPDATED', flagName);
  }

  /** Sets the variant of a flag, whose value it is too. */
  setVariant(flagName, variant) {
    this.variants[flagName] = variant;
    this.set(flagName, variant);
  }

  /** Removes a flag, and reports the change to the listeners. */
  remove(flagName) {
    delete this.flags[flagName];
    delete this.variants[flagName];
    this.#changed('FEATURE_FLAG_DELETED', flagName);
  }

  /** Sets whether changes arrive, and reports it to the listeners. */
  setFollowing(isFollowing) {
    this[FOLLOWING](isFollowing);
  }

  /** As that of the client over Kafka. */
  async request(flagNames, userId) {
    const queries = [flagNames].flat().map((flag) => ({ flag }));
    return this.#transport.request(queries, { user_id: userId });
  }

  get lateReplies() {
    return 0;
  }

  get pendingRequests() {
    return 0;
  }

  async waitUntilReady() {}

  async close() {}

  #changed(event_type, flag_name) {
    this.applyInvalidation({ event_type, flag_name, version: Date.now() });
  }
}

module.exports = { MockFeatureFlagsClient };
