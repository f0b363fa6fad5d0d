export { FeatureFlagsClient, FeatureFlagsClient as default } from './client.js';
export { MockFeatureFlagsClient } from './mock.js';
export { FlagstreamError } from './errors.js';
