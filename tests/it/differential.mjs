// Evaluates flags with Unleash's official Node SDK: `node differential.mjs FEATURES CONTEXTS` prints, for each flag,
// a list with one [enabled, variant name or null, payload or null] for each context, as JSON.
//
// FEATURES is an answer of /api/client/features, CONTEXTS a list of contexts. The SDK is found in the folder that
// FLAGSTREAM_TEST_NODE_MODULES names.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(join(process.env.FLAGSTREAM_TEST_NODE_MODULES, 'differential.cjs'));
const { Unleash, InMemStorageProvider } = require('unleash-client');

const [features, contexts] = process.argv.slice(2).map((path) => JSON.parse(readFileSync(path, 'utf8')));

const unleash = new Unleash({
  appName: 'flagstream',
  environment: 'development',
  // Nobody listens there: everything comes from the bootstrap.
  url: 'http://127.0.0.1:9/api/',
  bootstrap: { data: features.features, segments: features.segments },
  storageProvider: new InMemStorageProvider(),
  refreshInterval: 0,
  disableMetrics: true,
  disableAutoStart: false,
  skipInstanceCountWarning: true,
});
unleash.on('error', () => {});
unleash.on('warn', () => {});

await new Promise((resolve) => unleash.once('ready', resolve));
const results = {};
for (const { name } of features.features) {
  results[name] = contexts.map((context) => {
    const variant = unleash.getVariant(name, context);
    const chosen = variant.feature_enabled && variant.enabled ? variant : undefined;
    return [unleash.isEnabled(name, context), chosen?.name ?? null, chosen?.payload?.value ?? null];
  });
}
process.stdout.write(JSON.stringify(results), () => process.exit(0));
