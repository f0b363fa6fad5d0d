// Compiled, not run: the types say what the client does.
import FeatureFlagsClient, { type Evaluation, FlagstreamError, MockFeatureFlagsClient } from 'flagstream-client';

const flags = new FeatureFlagsClient({ configServiceUrl: 'http://flagstream:8082', environment: 'production', cacheTtl: 300 });
const enabled: boolean = await flags.isEnabled('new_ui', 'user123');
const batch: { [flag: string]: boolean } = await flags.batchEvaluate(['new_ui', 'dark_mode'], 'user123');
const theme: string = await flags.evaluateFlag('theme', 'u', 'light', { context: { tier: 'premium', tags: [1, 'b'] } });
const retries: number = await flags.evaluateFlag('max-retries', 'u', 3);
const details: Evaluation<boolean> = await flags.evaluate('new_ui', 'u', false, { minVersion: 5 });
const bulk: { [flag: string]: Evaluation } = await flags.bulkEvaluateFlags(['theme'], null, { defaultValues: { theme: 'light' } });
const mock: Pick<FeatureFlagsClient, 'isEnabled' | 'batchEvaluate'> = new MockFeatureFlagsClient({ new_ui: true });
const kind = (error: unknown) => error instanceof FlagstreamError && error.kind === 'circuit_open' && error.errors[0]?.field;
// @ts-expect-error A number is no default of a boolean.
await flags.isEnabled('new_ui', 'u', 1);
// @ts-expect-error There is no such option.
new FeatureFlagsClient({ configServiceUrl: 'http://x', cacheTTL: 5 });
export { batch, bulk, details, enabled, kind, mock, retries, theme };
