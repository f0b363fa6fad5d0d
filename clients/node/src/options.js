// What a client can be told, and what it takes without.

const DEFAULTS = {
  configServiceUrl: undefined,
  environment: null,
  token: null,
  timeoutMs: 5_000,
  attemptTimeoutMs: 3_000,
  maxRetries: 2,
  backoffBaseMs: 100,
  backoffCapMs: 2_000,
  failureThreshold: 5,
  recoveryTimeoutMs: 60_000,
  cache: false,
  cacheTtl: 300,
  cacheMaxEntries: 10_000,
  followChanges: false,
  onError: (error, flags) => console.warn(`flagstream: ${flags} answered with the default: ${error.message}`),
  onWarning: (message) => console.warn(`flagstream: ${message}`),
  /** Replaced in tests. */
  now: () => performance.now(),
};
const MORE_THAN_ZERO = ['timeoutMs', 'attemptTimeoutMs', 'failureThreshold'];

export function settings(options) {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const unknown = given.find(([name]) => !Object.hasOwn(DEFAULTS, name));
  if (unknown) throw new TypeError(`${unknown[0]}: there is no such option`);
  const settings = { ...DEFAULTS, ...Object.fromEntries(given) };
  for (const [name, value] of Object.entries(settings)) {
    if (typeof DEFAULTS[name] !== 'number') continue;
    const least = MORE_THAN_ZERO.includes(name) ? Number.MIN_VALUE : 0;
    if (!(value >= least)) throw new RangeError(`${name}: expected ${least ? 'more than 0' : '0 or more'}, got ${value}`);
  }
  if (!/^https?:$/.test(protocol(settings.configServiceUrl))) {
    throw new TypeError(`configServiceUrl: expected http://… or https://…, got ${settings.configServiceUrl}`);
  }
  settings.configServiceUrl = settings.configServiceUrl.replace(/\/+$/, '');
  settings.headers = { 'content-type': 'application/json', 'user-agent': 'flagstream-client-node/0.1.0' };
  if (settings.token !== null) settings.headers.authorization = `Bearer ${settings.token}`;
  return settings;
}

function protocol(url) {
  try {
    return new URL(url).protocol;
  } catch {
    return '';
  }
}
