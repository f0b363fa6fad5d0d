// The service and Kafka go away and come back while a client over Kafka uses them. FLAGSTREAM_TEST_CONTROL stops and starts them.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Producer } from '@platformatic/kafka';

import { KafkaFeatureFlagsClient } from 'flagstream-client/kafka';
import { LIMIT_MS, control, kafka, replyTopic, topics, until } from './live.mjs';

const servers = { bootstrapBrokers: kafka.split(','), clientId: 'test' };

function client(context, options) {
  const failures = [];
  const onError = (error) => failures.push(error.kind);
  const common = { bootstrapServers: kafka, environment: 'production', replyTopic, timeoutMs: LIMIT_MS, onError, ...topics };
  const flags = new KafkaFeatureFlagsClient({ ...common, ...options });
  context.after(() => flags.close());
  return { flags, failures };
}

const theme = (flags, user) => flags.evaluateFlag('theme', user, 'light');

test('the service is killed and started again', async (context) => {
  const { flags, failures } = client(context, { timeoutMs: 500, failureThreshold: 2, recoveryTimeoutMs: 600_000 });
  await flags.waitUntilReady();
  await until('a reply in time', () => flags.isEnabled('on', 'u'));
  const late = flags.lateReplies;
  failures.length = 0;
  await control('service stop');
  for (let call = 0; call < 3; call += 1) assert.equal(await theme(flags, 'u'), 'light');
  // An open circuit breaker is not reported: what opened it was.
  assert.deepEqual(failures, ['timed_out', 'timed_out']);
  await assert.rejects(flags.evaluate('theme', 'u'), { kind: 'circuit_open' });
  await control('service start');
  // The requests waited in Kafka. Their late replies are counted, and let the next request through.
  await until('the service is asked again', async () => (await theme(flags, 'u')) === 'dark');
  assert.ok(flags.lateReplies > late);
});

test('Kafka is restarted, and nothing has to be started again', async (context) => {
  const options = { timeoutMs: 1_000, failureThreshold: 2, recoveryTimeoutMs: 200 };
  const { flags, failures } = client(context, { ...options, followChanges: true });
  const changes = [];
  flags.onChange(({ version }) => changes.push(version));
  await Promise.all([flags.waitUntilFollowing(AbortSignal.timeout(LIMIT_MS)), flags.waitUntilReady()]);
  await until('an answer is cached', async () => (await flags.evaluate('on', 'u', false)).cached);
  failures.length = 0;
  await control('kafka stop');
  assert.ok(await flags.isEnabled('on', 'u'), 'from the cache');
  for (let call = 0; call < 4; call += 1) assert.equal(await theme(flags, `new-${call}`), 'light');
  assert.ok(failures.every((kind) => kind === 'timed_out' || kind === 'connection_failed') && failures.length >= 2, failures);
  // A client that starts meanwhile is ready once Kafka is.
  const { flags: meanwhile } = client(context, options);
  assert.equal(await theme(meanwhile, 'u'), 'light');
  const sent = meanwhile.request('on', 'u');
  await control('kafka start');
  await until('replies arrive again', async () => (await theme(flags, 'after')) === 'dark');
  await until('also those of the new client', async () => (await theme(meanwhile, 'after')) === 'dark');
  assert.match(await sent, /\./);
  const version = Date.now();
  const producer = new Producer(servers);
  context.after(() => producer.close());
  const change = { event_type: 'FEATURE_FLAG_UPDATED', flag_name: 'on', environment: 'elsewhere', version };
  await producer.send({ messages: [{ topic: topics.updatesTopic, key: Buffer.from('elsewhere/on'), value: Buffer.from(JSON.stringify(change)) }] });
  await until('changes arrive again', () => changes.includes(version));
});

test('a reply of an aborted transaction is not taken', async (context) => {
  const { flags } = client(context, {});
  assert.equal(await theme(flags, 'u'), 'dark');
  const producer = new Producer({ ...servers, transactionalId: `forged-${process.pid}`, idempotent: true });
  context.after(() => producer.close());
  // Its ids are numbered, and only its own requests advance them.
  const id = nextId(await flags.request('on', 'u'));
  const metadata = await producer.metadata({ topics: [replyTopic] });
  await control('service freeze');
  const value = theme(flags, 'u');
  await until('the request waits', () => flags.pendingRequests === 1);
  const result = { value: 'forged', enabled: true, variant: null, reason: 'TARGETING_MATCH' };
  const reply = Buffer.from(JSON.stringify({ request_id: id, environment: 'production', flags_version: 1, results: { theme: result } }));
  const headers = new Map([[Buffer.from('correlation-id'), Buffer.from(id)]]);
  const transaction = await producer.beginTransaction();
  const partitions = [...metadata.topics.get(replyTopic).partitions.keys()];
  await transaction.send({ messages: partitions.map((partition) => ({ topic: replyTopic, value: reply, headers, partition })) });
  await transaction.abort();
  await control('service thaw');
  // The forged reply stands before the service's in the same partition.
  assert.equal(await value, 'dark');
});

function nextId(id) {
  const [client, number] = id.split('.');
  return `${client}.${Number(number) + 1}`;
}
