// The official web provider, followed over server-sent events: `node ofrep_web.mjs URL` prints a line of JSON with the
// value of the flag `late` when it is ready, and one at each change. It ends when its input does.
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(join(process.env.FLAGSTREAM_TEST_NODE_MODULES, 'ofrep.cjs'));
const { EventSource } = require('eventsource');
globalThis.EventSource = EventSource;
const { OpenFeature, ProviderEvents } = require('@openfeature/web-sdk');
const { OFREPWebProvider } = require('@openfeature/ofrep-web-provider');

const headers = [['Flags-Environment', 'production']];
const provider = new OFREPWebProvider({ baseUrl: process.argv[2], headers, cacheMode: 'disabled' });
await OpenFeature.setProviderAndWait(provider, { targetingKey: 'user-1', region: 'us-west' });
const client = OpenFeature.getClient();
const tell = (event) => {
  const details = {
    event,
    late: client.getBooleanDetails('late', false),
    theme: client.getStringDetails('theme', 'light'),
    retries: client.getNumberDetails('max-retries', 3),
    config: client.getObjectDetails('feature-config', {}),
    unknown: client.getBooleanDetails('nobody-made-it', true),
    offVariant: client.getStringDetails('off-variant', 'mine'),
  };
  process.stdout.write(`${JSON.stringify(details)}\n`);
};
OpenFeature.addHandler(ProviderEvents.ConfigurationChanged, () => tell('changed'));
tell('ready');
process.stdin.on('end', () => process.exit(0)).resume();
