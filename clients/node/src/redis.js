// Booleans in Redis, under the keys `ff_eval:…`, which services in all languages and flagstream itself share.
'use strict';

const { Breaker } = require('./breaker.js');

/** Time that an evaluation waits for Redis. */
const READ_TIMEOUT_MS = 100;
/** Time for which Redis is skipped after a failure. */
const RECOVERY_MS = 2_000;
/** Longest environment, flag and user together; flagstream writes no longer ones either. */
const MAX_NAMES_BYTES = 1_024;
/** Sets the key unless its value begins with a higher version. Arguments: version, lifetime in milliseconds, value. */
const SET_IF_NEWER = `
local kept = tonumber(string.match(redis.call('GETRANGE', KEYS[1], 0, 47), '^{"%l+_version":(%d+)'))
if kept and kept > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
return 1
`;

/**
 * The commands that a cache uses: `get(keys)` and `setIfNewer(key, version, ttlMs, value)`. The client may be one of
 * `redis` (node-redis), of `ioredis`, or an object with these two functions.
 */
function storeOf(client) {
  if (typeof client?.setIfNewer === 'function') return client;
  // The two keys of a value may be on different nodes of a cluster, so they are not read by one MGET.
  const get = (keys) => Promise.all(keys.map((key) => client.get(key)));
  if (typeof client?.defineCommand === 'function') {
    return { get, setIfNewer: (key, version, ttlMs, value) => client.eval(SET_IF_NEWER, 1, key, version, ttlMs, value) };
  }
  if (typeof client?.mGet === 'function') {
    const setIfNewer = (key, version, ttlMs, value) =>
      client.eval(SET_IF_NEWER, { keys: [key], arguments: [String(version), String(ttlMs), value] });
    return { get, setIfNewer };
  }
  throw new TypeError('redis: expected a client of the package redis or ioredis');
}

class RedisCache {
  #store;
  #ttlMs;
  #breaker;

  constructor(client, ttlMs, now) {
    this.#store = storeOf(client);
    this.#ttlMs = Math.ceil(ttlMs);
    this.#breaker = new Breaker(1, RECOVERY_MS, now);
  }

  /** Reads a value; `null` if there is none, if it is stale, or if Redis does not answer. */
  async get(environment, flag, user) {
    if (!isAllowed(environment, flag, user)) return null;
    try {
      this.#breaker.enter();
    } catch {
      return null;
    }
    try {
      const keys = [keyOf(environment, flag, user), minVersionKey(environment, flag)];
      const [value, minVersion] = await within(READ_TIMEOUT_MS, Promise.resolve(this.#store.get(keys)));
      this.#breaker.succeeded();
      return found(value, minVersion);
    } catch (error) {
      this.#failed(error);
      return null;
    }
  }

  /** Writes an answer, unless Redis has a newer one. It does not wait. */
  put(environment, flag, user, { enabled, flag_version: flagVersion, flags_version: basisVersion, killed }) {
    if (flagVersion === null || killed || this.#breaker.isOpen || !isAllowed(environment, flag, user)) return;
    // The version comes first, where the script and flagstream look for it.
    const value = JSON.stringify({ basis_version: basisVersion, flag_version: flagVersion, enabled, cached_at: new Date().toISOString() });
    const written = async () => this.#store.setIfNewer(keyOf(environment, flag, user), basisVersion, this.#ttlMs, value);
    written().catch((error) => this.#failed(error));
  }

  #failed(error) {
    const wasOpen = this.#breaker.isOpen;
    this.#breaker.failed();
    if (!wasOpen) console.warn(`flagstream: Redis does not answer, its cache is skipped until it does: ${error.message}`);
  }
}

function found(text, minVersion) {
  const value = parsed(text);
  if (typeof value?.enabled !== 'boolean' || !Number.isSafeInteger(value.flag_version)) return null;
  const least = minVersion == null ? 0 : Number(minVersion);
  const basisVersion = Number.isSafeInteger(value.basis_version) ? value.basis_version : null;
  // Also false for a minimum version that is no number.
  if (!((basisVersion ?? value.flag_version) >= least)) return null;
  return { enabled: value.enabled, flagVersion: value.flag_version, basisVersion };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function keyOf(environment, flag, user) {
  return `ff_eval:${[environment, flag, user].map((part) => encoded(part, /[%:]/g)).join(':')}`;
}

/** The key of the version below which values of the flag are stale. */
function minVersionKey(environment, flag) {
  const special = /[%:/{}]/g;
  return `flagstream:warm:{${encoded(environment, special)}/${encoded(flag, special)}}:floor`;
}

function encoded(part, special) {
  return part.replace(special, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

function isAllowed(...parts) {
  return parts.reduce((bytes, part) => bytes + Buffer.byteLength(part), 0) <= MAX_NAMES_BYTES;
}

async function within(ms, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

module.exports = { RedisCache, keyOf, minVersionKey };
