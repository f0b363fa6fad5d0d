// Unleash's SDK for browsers, whose impression events are posted as docs/guides/edge.md shows: `node impressions.mjs CONFIG`.
// Prints the status of each report.
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(join(process.env.FLAGSTREAM_TEST_NODE_MODULES, 'sdks.cjs'));
const { UnleashClient, InMemoryStorageProvider } = require('unleash-proxy-client');

const { url, token, flag, user } = JSON.parse(process.argv[2]);
const client = new UnleashClient({
  url,
  clientKey: token,
  appName: 'shop',
  refreshInterval: 0,
  disableMetrics: true,
  storageProvider: new InMemoryStorageProvider(),
  context: { userId: user },
  fetch: globalThis.fetch,
  createAbortController: () => new AbortController(),
});

const reports = [];
client.on('impression', (event) => {
  reports.push(fetch(`${url}/client/events`, {
    method: 'POST',
    headers: { authorization: token, 'content-type': 'application/json' },
    body: JSON.stringify(event),
    keepalive: true,
  }));
});

await client.start();
client.isEnabled(flag);
client.getVariant(flag);
client.isEnabled(flag);
for (const report of reports) console.log((await report).status);
client.stop();
