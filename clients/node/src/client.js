// The client: asks, tries again, keeps answers, answers with the default.
import { Breaker } from './breaker.js';
import { Cache } from './cache.js';
import { apply, follow } from './changes.js';
import { FlagstreamError, errorOf } from './errors.js';
import { MANY_PATH, ONE_PATH, boolean, encode, failed, given, keyOf, many, member, one } from './evaluation.js';
import { pause, post } from './http.js';
import { settings } from './options.js';

/** Combinations of environment and error code that are warned of, each once. */
const MAX_WARNINGS_COUNT = 100;

/**
 * Asks flagstream. Make one, share it, close it.
 *
 * `isEnabled`, `evaluateFlag`, `batchEvaluate` and `bulkEvaluateFlags` always answer: with the default if the service
 * does not. `evaluate` and `evaluateMany` reject with a `FlagstreamError` instead.
 */
export class FeatureFlagsClient {
  #settings;
  #cache;
  #breaker;
  #closing = new AbortController();
  #isFollowing = false;
  #waiting = [];
  #warned = new Set();

  constructor(options) {
    const known = settings(options);
    this.#settings = known;
    this.#cache = new Cache(known.cache || known.followChanges ? known.cacheMaxEntries : 0, known.cacheTtl * 1000, known.now);
    this.#breaker = new Breaker(known.failureThreshold, known.recoveryTimeoutMs, known.now);
    if (known.followChanges) follow(known, this.#cache, this.#breaker, (yes) => this.#heard(yes), this.#closing.signal);
  }

  async isEnabled(flagName, userId, defaultValue = false, options = {}) {
    try {
      return boolean(await this.evaluate(flagName, userId, defaultValue, options));
    } catch (error) {
      this.#hide(error, flagName);
      return defaultValue;
    }
  }

  async evaluateFlag(flagName, userId, defaultValue = null, options = {}) {
    try {
      return (await this.evaluate(flagName, userId, defaultValue, options)).value;
    } catch (error) {
      this.#hide(error, flagName);
      return defaultValue;
    }
  }

  async batchEvaluate(flagNames, userId, defaultValue = false, options = {}) {
    const defaultValues = Object.fromEntries(flagNames.map((flag) => [flag, defaultValue]));
    const said = {};
    for (const [flag, found] of Object.entries(await this.bulkEvaluateFlags(flagNames, userId, { ...options, defaultValues }))) {
      try {
        said[flag] = boolean(found);
      } catch (error) {
        this.#hide(error, flag);
        said[flag] = defaultValue;
      }
    }
    return said;
  }

  async bulkEvaluateFlags(flagNames, userId, options = {}) {
    // No answer is kept under this key.
    let keys = new Map(flagNames.map((flag) => [flag, '']));
    try {
      keys = this.#keys(flagNames, userId, options);
      return await this.evaluateMany(flagNames, userId, options);
    } catch (error) {
      this.#hide(error, flagNames.join(', '));
      const kept = ([flag, key]) => [flag, this.#cache.get(key) ?? failed(flag, member(options.defaultValues, flag), error)];
      return Object.fromEntries([...keys].map(kept));
    }
  }

  async evaluate(flagName, userId, defaultValue = null, options = {}) {
    const question = this.#question(userId, options);
    const key = keyOf(flagName, question, defaultValue, options.valueType);
    const kept = this.#kept(key, options);
    if (kept) return kept;
    const body = { flag_name: flagName, ...given({ ...question, default_value: defaultValue, value_type: options.valueType }) };
    const evaluation = one(await this.#exchange(ONE_PATH, body, options));
    this.#warn(evaluation);
    this.#cache.put(key, evaluation);
    return evaluation;
  }

  async evaluateMany(flagNames, userId, options = {}) {
    const keys = this.#keys(flagNames, userId, options);
    const found = new Map([...keys].map(([flag, key]) => [flag, this.#kept(key, options)]));
    const missing = [...keys.keys()].filter((flag) => !found.get(flag));
    if (missing.length > 0) {
      const body = { flag_names: missing, ...given(this.#question(userId, options)) };
      for (const [name, values] of [['default_values', options.defaultValues], ['value_types', options.valueTypes]]) {
        const asked = given(Object.fromEntries(missing.map((flag) => [flag, member(values, flag)])));
        if (Object.keys(asked).length > 0) body[name] = asked;
      }
      for (const [flag, evaluation] of many(await this.#exchange(MANY_PATH, body, options), missing)) {
        this.#warn(evaluation);
        this.#cache.put(keys.get(flag), evaluation);
        found.set(flag, evaluation);
      }
    }
    return Object.fromEntries(found);
  }

  invalidate(version, environment = null) {
    this.#cache.invalidate(version, environment);
  }

  applyInvalidation(message) {
    return apply(this.#cache, message);
  }

  clearCache() {
    this.#cache.clear();
  }

  get isFollowing() {
    return this.#isFollowing;
  }

  async waitUntilFollowing(signal) {
    if (this.#isFollowing) return;
    await new Promise((resolve, reject) => {
      this.#waiting.push(resolve);
      signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
  }

  async close() {
    this.#closing.abort(new FlagstreamError('connection_failed', 'the client is closed'));
  }

  #question(userId, { sessionId, context, environment }) {
    return { user_id: userId, session_id: sessionId, context, environment: environment ?? this.#settings.environment };
  }

  #keys(flagNames, userId, options) {
    const question = this.#question(userId, options);
    const key = (flag) => keyOf(flag, question, member(options.defaultValues, flag), member(options.valueTypes, flag));
    return new Map(flagNames.map((flag) => [flag, key(flag)]));
  }

  #kept(key, { minVersion = 0 }) {
    const kept = this.#cache.get(key);
    return kept && kept.flags_version >= minVersion ? kept : undefined;
  }

  async #exchange(path, body, { minVersion = 0, signal }) {
    const encoded = encode(body);
    const { timeoutMs, maxRetries, now } = this.#settings;
    const deadline = now() + timeoutMs;
    const signals = [signal, this.#closing.signal];
    // An instance that has not heard of a change yet waits for it. If it takes too long, an older answer, which is not
    // kept, is better than none: retries don't ask for it.
    let wanted = Math.max(minVersion, this.#cache.newest);
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.#attempt(path, encoded, wanted, deadline - now(), signals);
      } catch (error) {
        const wait = this.#pause(attempt, error);
        if (!error.isPassing || attempt >= maxRetries || now() + wait >= deadline || this.#breaker.isOpen) throw error;
        await pause(wait, signals);
      }
      wanted = minVersion;
    }
  }

  async #attempt(path, body, wanted, remainingMs, signals) {
    const { configServiceUrl, headers, attemptTimeoutMs } = this.#settings;
    this.#breaker.enter();
    let reply;
    try {
      const asked = wanted ? { ...headers, 'if-flags-version': String(wanted) } : headers;
      reply = await post(configServiceUrl + path, asked, body, Math.min(attemptTimeoutMs, remainingMs), signals);
    } catch (error) {
      if (error.isPassing && !signals.some((signal) => signal?.aborted)) this.#breaker.failed();
      else this.#breaker.abandoned();
      throw error;
    }
    if (reply.status >= 500) this.#breaker.failed();
    else this.#breaker.succeeded();
    if (reply.status !== 200) throw errorOf(reply.status, reply.headers, reply.text);
    try {
      return JSON.parse(reply.text);
    } catch (cause) {
      throw new FlagstreamError('invalid_answer', `not JSON: ${cause.message}`, { status: 200, cause });
    }
  }

  /** Exponential with full jitter, so that clients don't come back together. */
  #pause(attempt, error) {
    const { backoffBaseMs, backoffCapMs } = this.#settings;
    return (error.retryAfterMs ?? 0) + Math.random() * Math.min(backoffCapMs, backoffBaseMs * 2 ** attempt);
  }

  /** The service has answered, with a default because of an error: once for each environment and code. */
  #warn({ flag_name: flag, reason, environment, error_code: code, error_message: message }) {
    const key = JSON.stringify([environment, code]);
    if (reason !== 'ERROR' || this.#warned.has(key) || this.#warned.size >= MAX_WARNINGS_COUNT) return;
    this.#warned.add(key);
    const once = 'logged once for this environment and code';
    this.#settings.onWarning(`${flag} in environment ${environment} is answered with its default: ${code}: ${message} (${once})`);
  }

  /** The caller's own cancelling is not hidden. */
  #hide(error, flags) {
    if (!(error instanceof FlagstreamError)) throw error;
    // Whatever opened the circuit was told.
    if (error.kind !== 'circuit_open') this.#settings.onError(error, flags);
  }

  #heard(yes) {
    this.#isFollowing = yes;
    if (yes) this.#waiting.splice(0).forEach((resolve) => resolve());
  }
}
