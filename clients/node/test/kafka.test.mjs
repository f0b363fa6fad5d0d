// Requests and replies through Kafka.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { describe, test } from 'node:test';

import { Admin, Producer } from '@platformatic/kafka';

import { FeatureFlagsClient } from 'flagstream-client';
import { AvroFormat, KafkaChanges, KafkaFeatureFlagsClient } from 'flagstream-client/kafka';
import { PendingReplies } from '../src/kafka/pending.js';
import { readersCount } from '../src/kafka/replies.js';
import { TopicReader, committed } from '../src/kafka/topic-reader.js';
import { Breaker } from '../src/breaker.js';
import { JSON_FORMAT } from '../src/kafka/format.js';
import { FLAG, LIMIT_MS, eventsTopic, kafka, replyTopic, topics, turn, until, url, vectors } from './live.mjs';

const servers = { bootstrapBrokers: (kafka ?? '').split(','), clientId: 'test' };
const USER = { context: { subscription_tier: 'premium' } };

function client(context, options) {
  const common = { bootstrapServers: kafka, environment: 'production', replyTopic, timeoutMs: LIMIT_MS, onError: () => {}, ...topics };
  const flags = new KafkaFeatureFlagsClient({ ...common, ...options });
  context.after(() => flags.close());
  return flags;
}

async function createTopic(topic, partitions = 1) {
  const admin = new Admin(servers);
  if (!(await admin.listTopics()).includes(topic)) await admin.createTopics({ topics: [topic], partitions, replicas: 1 });
  await admin.close();
}

describe('without Kafka', () => {
  const pendingOf = (maxPending = 2, now = () => 0) => new PendingReplies(maxPending, JSON_FORMAT, new Breaker(2, 1_000, now));

  test('replies find their requests, late ones are counted, too many requests are refused', async () => {
    const pending = pendingOf();
    const [one, two] = [pending.nextId(), pending.nextId()];
    const replies = [pending.add(one), pending.add(two)];
    assert.throws(() => pending.add(pending.nextId()), { kind: 'rate_limited' });
    pending.reply(two, Buffer.from('{"n":2}'));
    pending.reply(one, Buffer.from([0, 0, 0, 0, 1]));
    assert.deepEqual(await replies[1], { n: 2 });
    await assert.rejects(replies[0], { kind: 'invalid_answer', message: /not JSON/ });
    pending.reply(two, Buffer.from('{}'));
    assert.deepEqual([pending.late, pending.size], [1, 0]);
  });

  test('requests without a reply open the circuit breaker, and a late reply lets one through', async () => {
    const pending = pendingOf();
    for (const id of [pending.nextId(), pending.nextId()]) {
      const reply = pending.add(id);
      pending.fail(id, Object.assign(new Error('late'), { kind: 'timed_out' }));
      await assert.rejects(reply, /late/);
    }
    assert.throws(() => pending.add('x'), { kind: 'circuit_open' });
    pending.reply(`${pending.client}.0`, Buffer.from('{}'));
    const reply = pending.add('y');
    pending.reply('y', Buffer.from('{"is":"well"}'));
    assert.deepEqual(await reply, { is: 'well' });
    assert.equal(pending.add('z') instanceof Promise, true);
  });

  test('records of aborted transactions and markers are left out', () => {
    const [TRANSACTIONAL, CONTROL] = [0b1_0000, 0b11_0000];
    const marker = (offset, producerId, type) => ({ firstOffset: BigInt(offset), lastOffsetDelta: 0, producerId, attributes: CONTROL, records: [{ key: Buffer.from([0, 0, 0, type]) }] });
    const batch = (offset, producerId, attributes = TRANSACTIONAL) => ({ firstOffset: BigInt(offset), lastOffsetDelta: 0, producerId, attributes, records: [] });
    const batches = [
      batch(0, 1n), batch(1, 2n), batch(2, -1n, 0), marker(3, 1n, 0), // 1 is aborted, 2 goes on
      batch(4, 1n), marker(5, 2n, 1), marker(6, 1n, 1), // both are committed
      marker(7, 3n, 0), // aborted without records
      batch(8, 1n), marker(9, 1n, 0), batch(10, 2n), // 1 is aborted again; 2 is, too, with its marker beyond
    ];
    const aborted = [{ producerId: 1n, firstOffset: 8n }, { producerId: 1n, firstOffset: 0n }, { producerId: 2n, firstOffset: 10n }];
    assert.deepEqual([...committed(batches, aborted)].map(({ firstOffset }) => Number(firstOffset)), [1, 2, 4]);
  });

  test('what the service would refuse, or not answer, is an error at once', async () => {
    const flags = new KafkaFeatureFlagsClient({ bootstrapServers: '127.0.0.1:1', environment: 'production', onError: () => {} });
    await assert.rejects(flags.evaluate('f'), { kind: 'invalid_request', message: /replyTopic/ });
    await assert.rejects(flags.request(''), { kind: 'invalid_request', message: /flag_name/ });
    await assert.rejects(flags.request([]), { kind: 'invalid_request', message: /flag_names/ });
    assert.equal(await flags.track('purchase', 'u'), false);
    await flags.close();
    assert.throws(() => new KafkaFeatureFlagsClient({ bootstrapServers: '' }), /KAFKA_BOOTSTRAP_SERVERS/);
    assert.throws(() => new KafkaFeatureFlagsClient({ bootstrapServers: 'x:1', maxPending: 0 }), /maxPending/);
  });

  test('Kafka that is unreachable costs the default, and is named', async (context) => {
    const failures = [];
    const flags = client(context, { bootstrapServers: '127.0.0.1:1', timeoutMs: 1_500, onError: (error) => failures.push(error) });
    assert.equal(await flags.evaluateFlag('theme', 'u', 'light'), 'light');
    assert.equal(failures[0].kind, 'timed_out');
    assert.match(failures[0].message, /ECONNREFUSED|connect/);
  });
});

/** A schema registry in memory. */
async function registry(context) {
  const schemas = [];
  const calls = [];
  const server = createServer(async (request, response) => {
    calls.push(`${request.method} ${request.url}`);
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const id = Number(/ids\/(\d+)$/.exec(request.url)?.[1]);
    if (request.method === 'POST') response.end(JSON.stringify({ id: schemas.push(JSON.parse(Buffer.concat(chunks)).schema) }));
    else if (schemas[id - 1]) response.end(JSON.stringify({ schema: schemas[id - 1] }));
    else response.writeHead(404).end('{}');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  context.after(() => server.close());
  return { url: `http://127.0.0.1:${server.address().port}/`, schemas, calls };
}

describe('Avro', () => {
  const schemaOf = (name) => readFileSync(new URL(`../../../schemas/${name}.avsc`, import.meta.url), 'utf8');

  test('the schemas are those of the service', () => {
    for (const name of ['evaluation-request', 'conversion']) {
      assert.equal(readFileSync(new URL(`../src/kafka/${name}.avsc`, import.meta.url), 'utf8'), schemaOf(name));
    }
  });

  test('what is written is read again, with one lookup for each schema', async (context) => {
    const { url: address, calls } = await registry(context);
    const [writer, reader] = [new AvroFormat(address), new AvroFormat(address)];
    const body = {
      request_id: 'r', flag_names: ['a', 'b'], user_id: 7, context: { n: [1, { x: null }] }, default_values: { a: 'light', b: { c: 1 } },
      value_types: { a: 'string' }, environment: 'production', requested_at: '2026-01-15T10:30:00.123Z',
    };
    const messages = await Promise.all([1, 2].map(() => writer.encode('requests', 'EvaluationRequest', body)));
    assert.deepEqual(messages[0], messages[1]);
    const [decoded] = await Promise.all(messages.map((message) => reader.decode(message)));
    const micros = Date.parse(body.requested_at) * 1_000;
    for (const [name, value] of Object.entries({ ...body, user_id: '7', requested_at: micros, flag_name: null })) assert.deepEqual(decoded[name], value, name);
    assert.deepEqual(calls, ['POST /subjects/requests-value/versions', 'GET /schemas/ids/1']);
    const conversion = { experiment: 'e', user_id: 'u', metric: 'm', value: 2, occurred_at: body.requested_at, event_id: 'o' };
    const read = await reader.decode(await writer.encode('c', 'Conversion', conversion));
    assert.deepEqual([read.value, read.metadata], [2, null]);
    const metadata = { plan: 'gold', items: [1, null] };
    assert.deepEqual((await reader.decode(await writer.encode('c', 'Conversion', { ...conversion, metadata }))).metadata, metadata);
    const notJson = writer.encode('c', 'Conversion', { ...conversion, metadata: { total: NaN } });
    await assert.rejects(notJson, { kind: 'invalid_request', message: /metadata: not JSON/ });
    assert.deepEqual(await reader.decode(Buffer.from('{"in":"json"}')), { in: 'json' });
    await assert.rejects(writer.encode('requests', 'EvaluationRequest', { flag_names: 'no list' }), { kind: 'invalid_request' });
    await assert.rejects(reader.decode(Buffer.from([0, 0, 0, 0, 9, 1])), { kind: 'unavailable', message: /ids\/9.*404/ });
  });

  test('a reply is read with its values', async (context) => {
    const { url: address, schemas } = await registry(context);
    const { Type } = (await import('avsc')).default;
    schemas.push(schemaOf('reply'));
    const result = { value: '{"a":[1]}', enabled: true, variant: 'v', reason: 'TARGETING_MATCH', killed: false, error_code: null, error_message: null, flag_version: 5 };
    const reply = { request_id: 'r', correlation_id: 'c', user_id: null, environment: 'production', results: { one: result, two: { ...result, value: null } }, flags_version: 6, evaluated_at: 1 };
    const message = Buffer.concat([Buffer.from([0, 0, 0, 0, 1]), Type.forSchema(JSON.parse(schemas[0]), { wrapUnions: 'never' }).toBuffer(reply)]);
    const { results, flags_version: version, user_id: user } = await new AvroFormat(address).decode(message);
    assert.deepEqual([results.one.value, results.two.value, results.one.flag_version, version, user], [{ a: [1] }, null, 5, 6, null]);
  });
});

describe('with Kafka', { skip: (!url || !kafka) && 'KAFKA_BOOTSTRAP_SERVERS is not set' }, () => {
  test('values, types and defaults are those of the service', async (context) => {
    await createTopic(replyTopic, 3);
    const flags = client(context);
    for (const row of vectors.live.filter(({ error }) => !error)) {
      const { flag, user_id: user, session_id: sessionId, context: attributes, environment, value_type: valueType } = row;
      const answer = await flags.evaluate(flag, user, row.default, { sessionId, context: attributes, environment, valueType });
      for (const [name, expected] of Object.entries(row.expect)) assert.deepEqual(answer[name], expected, `${flag}: ${name}`);
    }
    const many = await flags.bulkEvaluateFlags(['theme', 'max-retries', 'unknown'], 'u', { defaultValues: { theme: 'light', 'max-retries': 3 } });
    assert.deepEqual(Object.values(many).map(({ value }) => value), ['dark', 5, false]);
  });

  test('hundreds of requests at once get their own replies', async (context) => {
    const flags = client(context);
    const users = Array.from({ length: 300 }, (_, number) => `user-${number}`);
    const values = await Promise.all(users.map((user) => flags.evaluateFlag('unknown', user, `of ${user}`)));
    assert.deepEqual(values, users.map((user) => `of ${user}`));
    assert.deepEqual([flags.pendingRequests, flags.lateReplies], [0, 0]);
  });

  test('one consumer reads for all clients of the process', async (context) => {
    const [one, two] = [client(context), client(context)];
    assert.ok((await one.isEnabled('on', 'u')) && (await two.isEnabled('on', 'u')));
    assert.equal(readersCount(), 1);
    await one.close();
    assert.ok(await two.isEnabled('on', 'v'));
    await two.close();
    assert.equal(readersCount(), 0);
  });

  test('a request without a reply becomes events', async (context) => {
    const events = [];
    const reader = new TopicReader({ bootstrapServers: kafka, kafka: {} }, eventsTopic, 0, (record) => events.push(record));
    context.after(() => reader.close());
    await reader.ready;
    const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
    const flags = client(context, { replyTopic: null, traceparent: () => traceparent });
    const id = await flags.request(['theme', 'max-retries'], 'u', { ...USER, defaultValues: { theme: 'light' }, valueTypes: { 'max-retries': 'integer' } });
    const ours = () => events.filter(({ value }) => JSON.parse(value).request_id === id);
    await until('both events', () => ours().length === 2);
    assert.deepEqual(ours().map(({ value }) => JSON.parse(value).value), ['dark', '5']);
    for (const { key, headers } of ours()) {
      assert.equal(key.toString(), 'u');
      assert.equal(new Map(headers.map(([name, text]) => [name.toString(), text.toString()])).get('traceparent'), traceparent);
    }
  });

  test('a reply topic that does not exist is named, and cancelling cancels', async (context) => {
    const flags = client(context, { replyTopic: `${replyTopic}-missing`, timeoutMs: 3_000 });
    await assert.rejects(flags.evaluate('on', 'u'), { kind: 'timed_out', message: /-missing/ });
    const reason = new Error('the visitor left');
    const caller = new AbortController();
    const asked = flags.isEnabled('on', 'u', false, { signal: caller.signal });
    caller.abort(reason);
    await assert.rejects(asked, reason);
    assert.equal(flags.pendingRequests, 0);
  });

  test('only committed records are read, whatever transactions do', async (context) => {
    const topic = `${replyTopic}-transactions`;
    await createTopic(topic);
    const received = [];
    const reader = new TopicReader({ bootstrapServers: kafka, kafka: {} }, topic, 0, ({ value }) => received.push(value.toString()));
    context.after(() => reader.close());
    await reader.ready;
    const producer = new Producer({ ...servers, transactionalId: `${topic}-${process.pid}`, idempotent: true });
    context.after(() => producer.close());
    for (const [text, isCommitted] of [['a', true], ['b', false], ['c', false], ['d', true], ['e', false], ['f', true]]) {
      const transaction = await producer.beginTransaction();
      await transaction.send({ messages: [{ topic, value: Buffer.from(text), partition: 0 }] });
      await (isCommitted ? transaction.commit() : transaction.abort());
    }
    await until('the last one', () => received.includes('f'));
    assert.deepEqual(received, ['a', 'd', 'f']);
  });

  test('partitions that are added later are read', async (context) => {
    const topic = `${replyTopic}-growing-${process.pid}`;
    await createTopic(topic);
    const flags = client(context, { replyTopic: topic });
    assert.ok(await flags.isEnabled('on', 'u'));
    const admin = new Admin(servers);
    await admin.createPartitions({ topics: [{ name: topic, count: 4 }] });
    await admin.close();
    const users = Array.from({ length: 50 }, (_, number) => `user-${number}`);
    assert.ok((await Promise.all(users.map((user) => flags.isEnabled('on', user)))).every(Boolean));
  });

  test('a version is waited for, and changes from Kafka invalidate a client over either path', async (context) => {
    const throughKafka = client(context, { followChanges: true });
    const overHttp = new FeatureFlagsClient({ configServiceUrl: url, environment: 'production', cache: true });
    const changes = KafkaChanges.start(overHttp, { bootstrapServers: kafka, topic: topics.updatesTopic });
    context.after(() => Promise.all([changes.close(), overHttp.close()]));
    await Promise.all([changes.waitUntilFollowing(), throughKafka.waitUntilFollowing(AbortSignal.timeout(LIMIT_MS))]);
    for (const flags of [throughKafka, overHttp]) {
      const received = [];
      flags.onChange(({ flag_name: flag }) => received.push(flag));
      await until('on', () => flags.isEnabled(FLAG, 'u'));
      assert.equal((await flags.evaluate(FLAG, 'u', false)).cached, true);
      const killed = await turn(FLAG, 'kill');
      assert.equal((await flags.evaluate(FLAG, 'u', true, { minVersion: killed })).reason, 'DISABLED');
      await until('killed', async () => !(await flags.isEnabled(FLAG, 'u')));
      const restored = await turn(FLAG, 'restore');
      assert.equal((await flags.evaluate(FLAG, 'u', false, { minVersion: restored })).value, true);
      await until('restored', () => flags.isEnabled(FLAG, 'u'));
      await until('both changes', () => received.length >= 2);
      assert.deepEqual(received, [FLAG, FLAG]);
    }
    const short = client(context, { timeoutMs: 1_000 });
    await short.waitUntilReady();
    await assert.rejects(short.evaluate('on', 'u', false, { minVersion: Number.MAX_SAFE_INTEGER }), { isPassing: true });
  });
});

const { SCHEMA_REGISTRY_URL: registryUrl, AVRO_REQUESTS: requestsTopic, AVRO_REPLY_TOPIC: avroReplies, AVRO_UPDATES: updatesTopic, AVRO_URL: avroUrl } = process.env;
describe('with Kafka in Avro', { skip: !requestsTopic && 'AVRO_REQUESTS is not set' }, () => {
  test('requests, replies and changes are in Avro', async (context) => {
    const format = new AvroFormat(registryUrl);
    const flags = client(context, { format, requestsTopic, replyTopic: avroReplies, updatesTopic, followChanges: true });
    await flags.waitUntilFollowing(AbortSignal.timeout(LIMIT_MS));
    assert.equal(await flags.evaluateFlag('theme', 'u', 'light', USER), 'dark');
    assert.equal(await flags.evaluateFlag('max-retries', 'u', 3, USER), 5);
    assert.deepEqual(await flags.evaluateFlag('config', 'u', {}, USER), { threshold: 0.8, regions: ['us', 'eu'] });
    const many = await flags.bulkEvaluateFlags(['theme', 'premium'], 'u', { ...USER, defaultValues: { theme: 'light' } });
    assert.deepEqual(Object.values(many).map(({ value }) => value), ['dark', true]);
    assert.ok((await flags.evaluate('theme', 'u', 'light', USER)).cached);
    const body = JSON.stringify({ reason: 'a test' });
    const killed = await fetch(`${avroUrl}/api/v1/feature-flags/${FLAG}/kill?environment=production`, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    assert.equal(killed.status, 200);
    await until('the change', async () => !(await flags.evaluate('theme', 'u', 'light', USER)).cached);
  });
});
