// OpenFeature in Node. Nothing of flagstream is needed.
import { OFREPProvider } from '@openfeature/ofrep-provider';
import { OpenFeature } from '@openfeature/server-sdk';

const baseUrl = process.env.FLAGSTREAM_URL ?? 'http://localhost:8082';
// An API token would be one more header: ['Authorization', 'Bearer fst_…'].
await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl, headers: [['Flags-Environment', 'production']] }));
const client = OpenFeature.getClient();

const user = { targetingKey: 'user-1', subscription_tier: 'premium' };
console.log('premium', await client.getBooleanValue('premium', false, user));
console.log('theme', await client.getStringValue('theme', 'light', user));
console.log('max-retries', await client.getNumberValue('max-retries', 3, user));
console.log('first region', (await client.getObjectValue('config', { regions: ['none'] }, user)).regions[0]);
console.log('unknown', (await client.getBooleanDetails('unknown', true, user)).errorCode);
await OpenFeature.close();
