// Compiled, not run: what TypeScript sees of `require`.
import FeatureFlagsClient = require('flagstream-client');
import kafka = require('flagstream-client/kafka');

const flags = new FeatureFlagsClient({ configServiceUrl: 'http://config-service:8082', cacheTtl: 300 });
const mock: FeatureFlagsClient.Flags = new FeatureFlagsClient.MockFeatureFlagsClient({ new_ui: true });
const enabled: Promise<boolean> = flags.isEnabled('new_ui', 'user123');
const reason: Promise<string> = flags.evaluate('new_ui').then((evaluation: FeatureFlagsClient.Evaluation) => evaluation.reason);
const throughKafka: FeatureFlagsClient.Flags = new kafka.KafkaFeatureFlagsClient();
export = { enabled, mock, reason, throughKafka };
