// Unleash's SDKs for Node.js and for browsers: `node sdks.mjs CONFIG`, with a JSON list of SDKs
// ({name, kind, url, token, flags, …}). Each prints a line of JSON whenever one of its flags changes, and for its errors.
// It ends when its input does.
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(join(process.env.FLAGSTREAM_TEST_NODE_MODULES, 'sdks.cjs'));
const { Unleash, InMemStorageProvider } = require('unleash-client');
const { UnleashClient, InMemoryStorageProvider } = require('unleash-proxy-client');

const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** Calls `tell` when the flags differ from those before. */
function watch(sdk, read) {
  let before = '';
  const look = () => {
    const flags = Object.fromEntries(sdk.flags.map((flag) => [flag, read(flag)]));
    const now = JSON.stringify(flags);
    if (now !== before) print({ sdk: sdk.name, flags });
    before = now;
  };
  return look;
}

function backend(sdk) {
  const client = new Unleash({
    url: sdk.url,
    appName: sdk.name,
    customHeaders: { Authorization: sdk.token },
    refreshInterval: sdk.interval ?? 300,
    metricsInterval: sdk.metrics ?? 0,
    disableMetrics: !sdk.metrics,
    storageProvider: new InMemStorageProvider(),
    ...(sdk.streaming && { experimentalMode: { type: 'streaming' } }),
    ...(sdk.streaming === false && { experimentalMode: { type: 'polling', format: 'full' } }),
  });
  const look = watch(sdk, (flag) => client.isEnabled(flag, sdk.context ?? { userId: 'user-1' }));
  client.on('changed', look);
  client.on('synchronized', () => { print({ sdk: sdk.name, ready: true }); look(); });
  // The client does not pass this event on.
  client.repository.on('mode', (mode) => print({ sdk: sdk.name, mode: mode.to }));
  client.on('error', (error) => print({ sdk: sdk.name, error: error.message }));
  client.on('warn', (warning) => print({ sdk: sdk.name, warning: String(warning) }));
  if (sdk.evaluate) {
    const evaluate = () => { for (let n = 0; n < sdk.evaluate; n += 1) sdk.flags.forEach((flag) => client.isEnabled(flag, { userId: 'user-1' })); };
    client.once('synchronized', evaluate);
  }
  return () => client.destroyWithFlush();
}

function frontend(sdk) {
  const client = new UnleashClient({
    url: sdk.url,
    clientKey: sdk.token,
    appName: sdk.name,
    refreshInterval: (sdk.interval ?? 300) / 1000,
    disableMetrics: !sdk.metrics,
    metricsInterval: sdk.metrics ? sdk.metrics / 1000 : undefined,
    metricsIntervalInitial: sdk.metrics ? sdk.metrics / 1000 : undefined,
    usePOSTrequests: sdk.post ?? false,
    storageProvider: new InMemoryStorageProvider(),
    context: sdk.context ?? { userId: 'user-1', properties: { region: 'eu' } },
    fetch: globalThis.fetch,
    createAbortController: () => new AbortController(),
  });
  const look = watch(sdk, (flag) => client.isEnabled(flag));
  client.on('update', look);
  client.on('ready', () => { print({ sdk: sdk.name, ready: true, variant: client.getVariant(sdk.flags[0]) }); look(); });
  client.on('error', (error) => print({ sdk: sdk.name, error: JSON.stringify(error) }));
  client.start();
  return () => client.stop();
}

const stops = JSON.parse(process.argv[2]).map((sdk) => (sdk.kind === 'frontend' ? frontend(sdk) : backend(sdk)));
process.stdin.on('end', async () => {
  await Promise.all(stops.map((stop) => stop()));
  process.exit(0);
}).resume();
