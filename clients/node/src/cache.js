// The layers of a client's cache.
'use strict';

const { Announcements } = require('./announcements.js');
const { RedisCache } = require('./redis.js');

/** Marks booleans that come from Redis: they are no complete answers. */
const BOOLEAN_PREFIX = 'b:';

/** Answers in memory, until they expire. Bounded: the least recently used one is evicted. */
class MemoryCache {
  #entries = new Map();
  #maxEntries;
  #ttlMs;
  #now;

  constructor(maxEntries, ttlMs, now) {
    this.#maxEntries = maxEntries;
    this.#ttlMs = ttlMs;
    this.#now = now;
  }

  get(key) {
    const entry = this.#entries.get(key);
    if (!entry) return undefined;
    this.#entries.delete(key);
    if (this.#now() >= entry.until || !entry.isCurrent()) return undefined;
    this.#entries.set(key, entry);
    return entry.evaluation;
  }

  /** Keeps an answer for as long as `isCurrent` returns true, at most for its lifetime. */
  put(key, evaluation, isCurrent) {
    if (this.#maxEntries === 0 || !isCurrent()) return;
    this.#entries.delete(key);
    this.#entries.set(key, { evaluation: asCached(evaluation), isCurrent, until: this.#now() + this.#ttlMs });
    if (this.#entries.size > this.#maxEntries) this.#entries.delete(this.#entries.keys().next().value);
  }

  clear() {
    this.#entries.clear();
  }
}

/**
 *     question ─► memory ─► Redis (booleans of users without context) ─► service
 *                    ▲         ▲
 *     change ────────┴─────────┴── announced versions: an older answer is not used
 */
class AnswerCache {
  #announcements = new Announcements();
  #memory;
  #redis;

  constructor({ memoryTtlMs, maxEntries, redis, redisTtlMs }, now) {
    this.#memory = memoryTtlMs === null ? null : new MemoryCache(maxEntries, memoryTtlMs, now);
    this.#redis = redis === null ? null : new RedisCache(redis, redisTtlMs, now);
  }

  get hasRedis() {
    return this.#redis !== null;
  }

  /** The newest announced version of all environments, or 0. */
  get newest() {
    return this.#announcements.newest;
  }

  /** The complete answer to a question, from memory. */
  get(key) {
    return this.#memory?.get(key);
  }

  /** Keeps a complete answer in memory. */
  put(key, evaluation) {
    if (evaluation.reason !== 'ERROR') this.#memory?.put(key, evaluation, () => this.#isCurrent(evaluation));
  }

  /** A boolean of a user without context, from memory or Redis; `undefined` if neither has it. */
  async getBoolean(key, environment, flag, user) {
    const kept = this.#memory?.get(BOOLEAN_PREFIX + key);
    if (kept || !this.#redis) return kept;
    const found = await this.#redis.get(environment, flag, user);
    if (!found) return undefined;
    const isCurrent = () =>
      found.basisVersion === null
        ? found.flagVersion >= this.#announcements.ofFlag(environment, flag)
        : found.basisVersion >= this.#announcements.of(environment);
    // Compared after the value was read: a change may have been announced meanwhile.
    if (!isCurrent()) return undefined;
    const evaluation = asCached({
      flag_name: flag,
      value: found.enabled,
      enabled: found.enabled,
      variant: null,
      reason: 'CACHED',
      error_code: null,
      error_message: null,
      killed: false,
      flag_version: found.flagVersion,
      environment,
      flags_version: found.basisVersion ?? found.flagVersion,
    });
    this.#memory?.put(BOOLEAN_PREFIX + key, evaluation, isCurrent);
    return evaluation;
  }

  /** Writes a boolean of a user without context to Redis. */
  putBoolean(environment, flag, user, evaluation) {
    const isUsable = evaluation.reason !== 'ERROR' && typeof evaluation.value === 'boolean' && evaluation.environment === environment;
    if (isUsable && this.#isCurrent(evaluation)) this.#redis?.put(environment, flag, user, evaluation);
  }

  /** Makes answers that are older than a change unusable. */
  announce(change) {
    this.#announcements.add(change);
  }

  /** Records the version with which a stream of changes begins. */
  begin(version) {
    this.#announcements.begin(version);
  }

  /** Drops all answers in memory. */
  clear() {
    this.#memory?.clear();
  }

  #isCurrent({ flags_version, environment }) {
    return flags_version >= this.#announcements.of(environment);
  }
}

function asCached(evaluation) {
  return evaluation.cached ? evaluation : Object.freeze({ ...evaluation, cached: true });
}

module.exports = { AnswerCache };
