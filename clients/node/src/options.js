// Options of the clients, and their defaults.
'use strict';

/** Options of all clients. */
const COMMON = {
  environment: null,
  failureThreshold: 5,
  recoveryTimeoutMs: 60_000,
  timeoutMs: 5_000,
  cache: undefined,
  cacheTtl: undefined,
  localTtl: 60,
  cacheMaxEntries: 10_000,
  redis: null,
  followChanges: false,
  traceparent: null,
  onError: (error, flags) => console.warn(`flagstream: ${flags} answered with the default: ${error.message}`),
  onWarning: (message) => console.warn(`flagstream: ${message}`),
  /** Replaced in tests. */
  now: () => performance.now(),
};
const HTTP = {
  ...COMMON,
  configServiceUrl: undefined,
  token: null,
  attemptTimeoutMs: 3_000,
  maxRetries: 2,
  backoffBaseMs: 100,
  backoffCapMs: 2_000,
};
const DEFAULT_TTL = 300;
const MORE_THAN_ZERO = ['timeoutMs', 'attemptTimeoutMs', 'failureThreshold', 'maxPending'];
const NUMBERS = ['cacheTtl'];
const CACHES = ['none', 'memory', 'redis', 'hybrid'];

/** The settings of a client over HTTP. */
function settings(options) {
  const known = checked(options, { ...HTTP, configServiceUrl: process.env.CONFIG_SERVICE_URL });
  if (!/^https?:$/.test(protocol(known.configServiceUrl))) {
    const source = options.configServiceUrl === undefined ? ' (or the variable CONFIG_SERVICE_URL)' : '';
    throw new TypeError(`configServiceUrl${source}: expected http://… or https://…, got ${known.configServiceUrl}`);
  }
  known.configServiceUrl = known.configServiceUrl.replace(/\/+$/, '');
  known.headers = { 'content-type': 'application/json', 'user-agent': 'flagstream-client-node/0.1.0' };
  if (known.token !== null) known.headers.authorization = `Bearer ${known.token}`;
  return known;
}

/** The options, with `defaults` for those that are not given. */
function checked(options, defaults) {
  const all = { ...defaults, environment: process.env.ENVIRONMENT || null };
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const unknown = given.find(([name]) => !Object.hasOwn(all, name));
  if (unknown) throw new TypeError(`${unknown[0]}: there is no such option`);
  const known = { ...all, ...Object.fromEntries(given) };
  for (const [name, value] of Object.entries(known)) {
    if (value === undefined || (typeof all[name] !== 'number' && !NUMBERS.includes(name))) continue;
    const least = MORE_THAN_ZERO.includes(name) ? Number.MIN_VALUE : 0;
    if (!(value >= least)) throw new RangeError(`${name}: expected ${least ? 'more than 0' : '0 or more'}, got ${value}`);
  }
  return known;
}

/** The layers of the cache. A lifetime alone turns on the cache in memory, and a client of Redis that in Redis. */
function layers({ cache: given, cacheTtl, localTtl, cacheMaxEntries: maxEntries, redis, followChanges }) {
  const implied = redis ? 'redis' : cacheTtl !== undefined || followChanges ? 'memory' : 'none';
  const cache = given === true ? (implied === 'none' ? 'memory' : implied) : given === false ? 'none' : (given ?? implied);
  if (!CACHES.includes(cache)) throw new TypeError(`cache: expected ${CACHES.join(', ')} or a boolean, got ${cache}`);
  const usesRedis = cache === 'redis' || cache === 'hybrid';
  if (usesRedis && !redis) throw new TypeError(`cache: ${cache} needs the option redis, a client of the package redis or ioredis`);
  const ttlMs = (cacheTtl ?? DEFAULT_TTL) * 1000;
  return {
    memoryTtlMs: cache === 'memory' ? ttlMs : cache === 'hybrid' ? localTtl * 1000 : null,
    maxEntries,
    redis: usesRedis ? redis : null,
    redisTtlMs: usesRedis ? ttlMs : null,
  };
}

function protocol(url) {
  try {
    return new URL(url).protocol;
  } catch {
    return '';
  }
}

module.exports = { COMMON, checked, layers, settings };
