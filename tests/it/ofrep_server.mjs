// What the official server provider for Node says: `node ofrep_server.mjs URL` prints, for each call, the details.
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(join(process.env.FLAGSTREAM_TEST_NODE_MODULES, 'ofrep.cjs'));
const { OpenFeature } = require('@openfeature/server-sdk');
const { OFREPProvider } = require('@openfeature/ofrep-provider');

const headers = [['Flags-Environment', 'production']];
await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl: process.argv[2], headers }));
const client = OpenFeature.getClient();
const context = { targetingKey: 'user-1', region: 'us-west' };
const asked = {
  boolean: client.getBooleanDetails('on', false, context),
  targeted: client.getBooleanDetails('west', false, context),
  missed: client.getBooleanDetails('west', true, { targetingKey: 'user-1' }),
  off: client.getBooleanDetails('off', true, context),
  string: client.getStringDetails('theme', 'light', context),
  integer: client.getNumberDetails('max-retries', 3, context),
  float: client.getNumberDetails('request-timeout', 5.5, context),
  object: client.getObjectDetails('feature-config', {}, context),
  split: client.getStringDetails('split', 'none', context),
  bare: client.getStringDetails('bare', 'none', context),
  offVariant: client.getStringDetails('off-variant', 'mine', context),
  unknown: client.getBooleanDetails('nobody-made-it', true, context),
  mismatch: client.getNumberDetails('theme', 7, context),
};
const said = {};
for (const [name, details] of Object.entries(asked)) said[name] = await details;
process.stdout.write(JSON.stringify(said), () => process.exit(0));
