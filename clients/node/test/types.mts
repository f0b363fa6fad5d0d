// Compiled, not run: what TypeScript sees of an ES module's imports.
import FeatureFlagsClient, { type Evaluation, type FlagChange, FlagstreamError, MockFeatureFlagsClient, mockFlag } from 'flagstream-client';
import { flagsMiddleware } from 'flagstream-client/express';
import { AvroFormat, KafkaChanges, KafkaFeatureFlagsClient } from 'flagstream-client/kafka';
import { FlagstreamProvider, TelemetryHook } from 'flagstream-client/openfeature';
import { OpenFeature } from '@openfeature/server-sdk';
import { Redis } from 'ioredis';
import { createClient } from 'redis';

const flags = new FeatureFlagsClient({ configServiceUrl: 'http://flagstream:8082', environment: 'production', cacheTtl: 300 });
const enabled: boolean = await flags.isEnabled('new_ui', 'user123');
const batch: { [flag: string]: boolean } = await flags.batchEvaluate(['new_ui', 'dark_mode'], 'user123');
const theme: string = await flags.evaluateFlag('theme', 'u', 'light', { context: { tier: 'premium', tags: [1, 'b'] } });
const retries: number = await flags.evaluateFlag('max-retries', 'u', 3);
const details: Evaluation<boolean> = await flags.evaluate('new_ui', 'u', false, { minVersion: 5 });
const bulk: { [flag: string]: Evaluation } = await flags.bulkEvaluateFlags(['theme'], null, { defaultValues: { theme: 'light' } });
const variant: string = await flags.getVariant('checkout-test', 'u', 'classic');
const accepted: boolean = await flags.trackConversion('checkout-test', 'u', 'purchase', { value: 12.5, eventId: 'order-77', metadata: { plan: 'gold', items: [1] } });
const tracked: boolean = await flags.track('purchase', 'u', 12.5, { metadata: { plan: 'gold' } });
const stop: () => void = flags.onChange((change: FlagChange) => change.flag_name?.length);
const mock: Pick<FeatureFlagsClient, 'isEnabled' | 'batchEvaluate'> = new MockFeatureFlagsClient({ new_ui: true });
const mocked: number = await mockFlag('new_ui', true, async () => 1);
const restore: () => void = mockFlag('new_ui', true);
const kind = (error: unknown) => error instanceof FlagstreamError && error.kind === 'circuit_open' && error.errors[0]?.field;
const shared = new FeatureFlagsClient({ redis: new Redis('redis://redis'), cache: 'hybrid', localTtl: 30 });
const alsoShared = new FeatureFlagsClient({ redis: createClient({ url: 'redis://redis' }) });
const throughKafka = new KafkaFeatureFlagsClient({ bootstrapServers: 'kafka:9092', replyTopic: 'feature-flag-replies-shop', format: new AvroFormat('http://registry:8081') });
const requestId: string = await throughKafka.request(['theme'], 'u', { defaultValues: { theme: 'light' } });
const changes: KafkaChanges = KafkaChanges.start(flags, { bootstrapServers: ['kafka:9092'] });
await OpenFeature.setProviderAndWait(new FlagstreamProvider(throughKafka));
OpenFeature.addHooks(new TelemetryHook());
const middleware = flagsMiddleware(flags, { resolve: (request: { headers: { [name: string]: string } }) => ({ userId: request.headers['x-user'] }) });
// @ts-expect-error A number is no default of a boolean.
await flags.isEnabled('new_ui', 'u', 1);
// @ts-expect-error Metadata is an object.
await flags.trackConversion('checkout-test', 'u', 'purchase', { metadata: 'gold' });
// @ts-expect-error There is no such option.
new FeatureFlagsClient({ configServiceUrl: 'http://x', cacheTTL: 5 });
// @ts-expect-error An object is no client of Redis.
new FeatureFlagsClient({ redis: {} });
export { accepted, alsoShared, batch, bulk, changes, details, enabled, kind, middleware, mock, mocked, requestId, restore, retries, shared, stop, theme, tracked, variant };
