// What all clients have in common, however they reach the service: defaults, caches, warnings, listeners.
'use strict';

const { randomUUID } = require('node:crypto');

const { changeOf } = require('./changes.js');
const { FlagstreamError } = require('./errors.js');
const { boolean, checkEventMetadata, failed, given, isPlain, keyOf, like, member, subjectOf } = require('./evaluation.js');
const { overridden } = require('./overrides.js');

/** Combinations of environment and error code that are warned of, each once. */
const MAX_WARNINGS_COUNT = 100;
/** Reports whether changes arrive. */
const FOLLOWING = Symbol('following');
/** Records a change from before the client began to follow changes; listeners do not receive it. */
const EARLIER = Symbol('earlier');

/**
 * The calls of every client. A transport does the rest: `one` and `many` evaluate, `expose`, `convert` and `track` report.
 *
 * `isEnabled`, `evaluateFlag`, `batchEvaluate`, `bulkEvaluateFlags` and `getVariant` always return a value: the default if
 * the service does not answer. `evaluate` and `evaluateMany` reject with a `FlagstreamError` instead.
 */
class Flags {
  #settings;
  #cache;
  #transport;
  #isFollowing = false;
  #waiting = new Set();
  #warned = new Set();
  #listeners = new Set();
  #followers = new Set();

  constructor(settings, cache, transport) {
    this.#settings = settings;
    this.#cache = cache;
    this.#transport = transport;
  }

  async isEnabled(flagName, userId, defaultValue = false, options = {}) {
    try {
      return boolean(await this.#boolean({ flag: flagName, defaultValue }, userId, options));
    } catch (error) {
      this.#hide(error, flagName);
      return defaultValue;
    }
  }

  async evaluateFlag(flagName, userId, defaultValue = null, options = {}) {
    try {
      const found = await this.evaluate(flagName, userId, defaultValue, options);
      return options.valueType == null ? like(found, defaultValue) : found.value;
    } catch (error) {
      this.#hide(error, flagName);
      return defaultValue;
    }
  }

  async batchEvaluate(flagNames, userId, defaultValue = false, options = {}) {
    const queries = [...new Set(flagNames)].map((flag) => ({ flag, defaultValue }));
    const values = {};
    for (const [flag, found] of await this.#bulk(queries, userId, options, (asked) => this.#booleans(asked, userId, options))) {
      try {
        values[flag] = boolean(found);
      } catch (error) {
        this.#hide(error, flag);
        values[flag] = defaultValue;
      }
    }
    return values;
  }

  async bulkEvaluateFlags(flagNames, userId, options = {}) {
    const queries = queriesOf(flagNames, options);
    return Object.fromEntries(await this.#bulk(queries, userId, options, (asked) => this.#many(asked, userId, options)));
  }

  async getVariant(flagName, userId, defaultVariant, options = {}) {
    try {
      // Every variant is a string, so the type always fits.
      return (await this.evaluate(flagName, userId, null, { ...options, valueType: 'string' })).variant ?? defaultVariant;
    } catch (error) {
      this.#hide(error, flagName);
      return defaultVariant;
    }
  }

  async evaluate(flagName, userId, defaultValue = null, options = {}) {
    const query = { flag: flagName, defaultValue, valueType: options.valueType };
    const subject = this.#subject(userId, options);
    const key = keyOf(query, subject);
    const known = overridden(query, subject) ?? this.#kept(key, options);
    if (known) return known;
    return this.#taken(key, query, subject, await this.#transport.one(query, subject, this.#asking(options)));
  }

  async evaluateMany(flagNames, userId, options = {}) {
    return Object.fromEntries(await this.#many(queriesOf(flagNames, options), userId, options));
  }

  async trackExposure(flagName, userId, options = {}) {
    return this.#report(flagName, () => {
      const query = { flag: flagName, valueType: 'string' };
      return this.#transport.expose(query, this.#subject(userId, options), { signal: options.signal });
    });
  }

  async trackConversion(experiment, userId, metric, options = {}) {
    return this.#report(metric, () => {
      if (userId == null || userId === '') throw new FlagstreamError('invalid_request', 'a conversion needs a user');
      const { environment } = this.#subject(userId, options);
      const { value, eventId = randomUUID(), occurredAt = new Date(), metadata, signal } = options;
      const occurred_at = occurredAt instanceof Date ? occurredAt.toISOString() : occurredAt;
      const conversion = { experiment, environment, user_id: String(userId), metric, value, occurred_at, event_id: eventId, metadata };
      return this.#transport.convert(given(conversion), { signal });
    });
  }

  async track(metric, userId, value, options = {}) {
    return this.#report(metric, () => {
      // A retry after a lost answer must not count twice.
      const { eventId = randomUUID(), metadata, signal } = options;
      checkEventMetadata(metadata);
      return this.#transport.track(metric, this.#subject(userId, options), { value, eventId, ...given({ metadata }) }, { signal });
    });
  }

  onChange(listener) {
    return subscribed(this.#listeners, listener);
  }

  onFollowing(listener) {
    return subscribed(this.#followers, listener);
  }

  invalidate(version, environment = null) {
    this.applyInvalidation({ version, environment });
  }

  applyInvalidation(message) {
    const change = changeOf(message);
    if (change === null) return false;
    this.#cache.announce(change);
    notify(this.#listeners, change);
    return true;
  }

  clearCache() {
    this.#cache.clear();
  }

  get isFollowing() {
    return this.#isFollowing;
  }

  async waitUntilFollowing(signal) {
    if (this.#isFollowing) return;
    signal?.throwIfAborted();
    await new Promise((resolve, reject) => {
      const done = () => {
        signal?.removeEventListener('abort', aborted);
        this.#waiting.delete(done);
        resolve();
      };
      const aborted = () => {
        this.#waiting.delete(done);
        reject(signal.reason);
      };
      this.#waiting.add(done);
      signal?.addEventListener('abort', aborted, { once: true });
    });
  }

  [FOLLOWING](isFollowing) {
    if (isFollowing === this.#isFollowing) return;
    this.#isFollowing = isFollowing;
    if (isFollowing) [...this.#waiting].forEach((done) => done());
    notify(this.#followers, isFollowing);
  }

  [EARLIER](change) {
    this.#cache.announce(change);
  }

  #subject(userId, options) {
    return subjectOf(userId, options, this.#settings.environment);
  }

  #asking({ minVersion = 0, signal }) {
    return { minVersion, newest: this.#cache.newest, signal };
  }

  #kept(key, { minVersion = 0 }) {
    const kept = this.#cache.get(key);
    return kept && kept.flags_version >= minVersion ? kept : undefined;
  }

  /** Evaluates many flags, with the cache in memory. */
  async #many(queries, userId, options) {
    const subject = this.#subject(userId, options);
    const lookUp = (query) => overridden(query, subject) ?? this.#kept(keyOf(query, subject), options);
    const found = new Map(queries.map((query) => [query.flag, lookUp(query)]));
    return this.#missing(queries, found, subject, options);
  }

  /** Evaluates a boolean, with all layers of the cache. */
  async #boolean(query, userId, options) {
    const found = this.#usesRedis(userId, options) ? await this.#found(query, this.#subject(userId, options), options) : undefined;
    return found ?? this.evaluate(query.flag, userId, query.defaultValue, options);
  }

  /** Evaluates booleans in one request, with all layers of the cache. */
  async #booleans(queries, userId, options) {
    if (!this.#usesRedis(userId, options)) return this.#many(queries, userId, options);
    const subject = this.#subject(userId, options);
    const found = queries.map(async (query) => [query.flag, await this.#found(query, subject, options)]);
    return this.#missing(queries, new Map(await Promise.all(found)), subject, options);
  }

  #usesRedis(userId, options) {
    const subject = this.#subject(userId, options);
    return this.#cache.hasRedis && userId != null && userId !== '' && subject.environment != null && isPlain(subject);
  }

  /** A boolean that an override or a layer of the cache has. */
  async #found(query, subject, options) {
    const key = keyOf(query, subject);
    const known = overridden(query, subject) ?? this.#kept(key, options);
    return known ?? this.#cache.getBoolean(key, subject.environment, query.flag, String(subject.user_id));
  }

  /** Completes what caches have by what the service answers. */
  async #missing(queries, found, subject, options) {
    const missing = queries.filter(({ flag }) => !found.get(flag));
    if (missing.length > 0) {
      const answers = await this.#transport.many(missing, subject, this.#asking(options));
      for (const query of missing) {
        found.set(query.flag, this.#taken(keyOf(query, subject), query, subject, answers.get(query.flag)));
      }
    }
    return found;
  }

  /** Evaluates many flags; if that fails, with what the cache has, and the defaults. */
  async #bulk(queries, userId, options, evaluate) {
    try {
      return await evaluate(queries);
    } catch (error) {
      this.#hide(error, queries.map(({ flag }) => flag).join(', '));
      const kept = (query) => (error.kind === 'invalid_request' ? undefined : this.#cache.get(keyOf(query, this.#subject(userId, options))));
      return new Map(queries.map((query) => [query.flag, kept(query) ?? failed(query.flag, query.defaultValue, error)]));
    }
  }

  /** Keeps an answer of the service. */
  #taken(key, { flag, defaultValue, valueType }, subject, evaluation) {
    this.#warn(evaluation);
    this.#cache.put(key, evaluation);
    const { user_id: user, environment } = subject;
    const isBoolean = (valueType ?? 'boolean') === 'boolean' && typeof (defaultValue ?? false) === 'boolean';
    if (isBoolean && user != null && user !== '' && environment != null && isPlain(subject)) {
      this.#cache.putBoolean(environment, flag, String(user), evaluation);
    }
    return evaluation;
  }

  /** Reports something; returns whether it was accepted. */
  async #report(what, send) {
    try {
      await send();
      return true;
    } catch (error) {
      this.#hide(error, what);
      return false;
    }
  }

  /** Warns of an answer that is the default because of an error, once for each environment and code. */
  #warn({ flag_name: flag, reason, environment, error_code: code, error_message: message }) {
    const key = JSON.stringify([environment, code]);
    if (reason !== 'ERROR' || this.#warned.has(key) || this.#warned.size >= MAX_WARNINGS_COUNT) return;
    this.#warned.add(key);
    const once = 'logged once for this environment and code';
    this.#settings.onWarning(`${flag} in environment ${environment} is answered with its default: ${code}: ${message} (${once})`);
  }

  /** Reports a failure that a default hides. The caller's own cancelling is not hidden. */
  #hide(error, flags) {
    if (!(error instanceof FlagstreamError)) throw error;
    // Whatever opened the circuit was reported.
    if (error.kind !== 'circuit_open') this.#settings.onError(error, flags);
  }
}

function queriesOf(flagNames, { defaultValues, valueTypes }) {
  const query = (flag) => ({ flag, defaultValue: member(defaultValues, flag), valueType: member(valueTypes, flag) });
  return [...new Set(flagNames)].map(query);
}

function subscribed(listeners, listener) {
  // Wrapped, so that a listener that is added twice is called twice.
  const entry = { listener };
  listeners.add(entry);
  return () => void listeners.delete(entry);
}

function notify(listeners, what) {
  for (const { listener } of listeners) {
    try {
      listener(what);
    } catch (error) {
      console.warn('flagstream: a listener failed:', error);
    }
  }
}

module.exports = { EARLIER, FOLLOWING, Flags, queriesOf };
