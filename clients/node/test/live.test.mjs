// Redis and experiments with a service, and the examples of the README.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { promisify } from 'node:util';

import { Redis } from 'ioredis';
import { createClient } from 'redis';

import { FeatureFlagsClient } from 'flagstream-client';
import { KafkaFeatureFlagsClient } from 'flagstream-client/kafka';
import { FLAG, LIMIT_MS, kafka, post, redisUrl, replyTopic, topics, turn, until, url } from './live.mjs';

const live = { skip: (!url || !kafka || !redisUrl) && 'FLAGSTREAM_URL, KAFKA_BOOTSTRAP_SERVERS and CLIENT_REDIS_URL are not set' };
const EXPERIMENT = 'node-experiment';
const folder = new URL('../', import.meta.url);

/** Runs code that may import the package by its name. */
function run(type, code) {
  return promisify(execFile)(process.execPath, [`--input-type=${type}`, '--eval', code], { cwd: folder, timeout: LIMIT_MS });
}

function client(context, options) {
  const flags = new FeatureFlagsClient({ configServiceUrl: url, environment: 'production', ...options });
  context.after(() => flags.close());
  return flags;
}

async function clientsOfRedis(context) {
  const [ioredis, nodeRedis] = [new Redis(redisUrl), createClient({ url: redisUrl })];
  await nodeRedis.connect();
  context.after(() => Promise.all([ioredis.quit(), nodeRedis.close()]));
  return { ioredis, nodeRedis };
}

test('services share values in Redis, with either package', live, async (context) => {
  for (const [name, redis] of Object.entries(await clientsOfRedis(context))) {
    const key = `ff_eval:production:on:shared-${name}`;
    assert.ok(await client(context, { redis }).isEnabled('on', `shared-${name}`));
    await until('the value is in Redis', async () => (await redis.get(key)) !== null);
    const written = JSON.parse(await redis.get(key));
    assert.deepEqual([written.enabled, typeof written.flag_version, typeof written.cached_at], [true, 'number', 'string']);
    // Another process, with a service that is not there: what Redis has is served.
    const reads = client(context, { configServiceUrl: 'http://127.0.0.1:1', redis, cache: 'hybrid', maxRetries: 0, onError: () => {} });
    assert.equal(await reads.isEnabled('on', `shared-${name}`), true);
    assert.deepEqual(await reads.batchEvaluate(['on'], `shared-${name}`), { on: true });
    assert.equal(await reads.isEnabled('on', `shared-${name}`, false, { context: { plan: 'gold' } }), false, 'a context is not in Redis');
  }
});

test('an older value does not replace a newer one in Redis', live, async (context) => {
  const { RedisCache } = await import('../src/redis.js');
  for (const [name, redis] of Object.entries(await clientsOfRedis(context))) {
    const cache = new RedisCache(redis, 60_000, () => 0);
    const write = (version) => cache.put('test', `newer-${name}`, 'u', { enabled: version === 7, flag_version: 5, flags_version: version, killed: false });
    const read = async () => (await cache.get('test', `newer-${name}`, 'u'))?.basisVersion;
    write(7);
    await until('the newer value', async () => (await read()) === 7);
    // One connection: whatever is read afterwards was written before.
    write(6);
    assert.equal(await read(), 7);
    write(8);
    assert.equal(await read(), 8);
  }
});

test('no layer serves what a change has overtaken', live, async (context) => {
  const { ioredis: redis } = await clientsOfRedis(context);
  const flags = client(context, { redis, cache: 'hybrid', followChanges: true });
  await flags.waitUntilFollowing(AbortSignal.timeout(LIMIT_MS));
  for (let round = 0; round < 3; round += 1) {
    await until('on', () => flags.isEnabled(FLAG, 'hybrid'));
    const version = await turn(FLAG, 'kill');
    await until('the change is known', async () => !(await flags.isEnabled(FLAG, 'hybrid')));
    // A service that is late writes its old answer: it is never served.
    await redis.set(`ff_eval:production:${FLAG}:hybrid`, `{"flag_version":${version - 1},"enabled":true,"cached_at":"2026-01-15T10:30:00Z"}`);
    flags.clearCache();
    for (let call = 0; call < 10; call += 1) assert.equal(await flags.isEnabled(FLAG, 'hybrid'), false);
    await turn(FLAG, 'restore');
  }
});

test('variants, exposures and conversions become results', live, async (context) => {
  const metrics = [{ name: 'purchase' }, { name: 'revenue', kind: 'mean' }];
  await post('/api/v1/experiments', { name: EXPERIMENT, environment: 'production', control: 'light', metrics }, [201, 409]);
  const failures = [];
  const onError = (error) => failures.push(error);
  const overHttp = client(context, { onError });
  const throughKafka = new KafkaFeatureFlagsClient({ bootstrapServers: kafka, environment: 'production', replyTopic, timeoutMs: LIMIT_MS, onError, ...topics });
  context.after(() => throughKafka.close());
  const variant = await overHttp.getVariant(EXPERIMENT, 'ann', 'none');
  assert.ok(['dark', 'light'].includes(variant), variant);
  assert.equal(await throughKafka.getVariant(EXPERIMENT, 'ann', 'none'), variant);
  assert.equal(await overHttp.getVariant('on', 'ann', 'none'), 'none');
  assert.ok(await overHttp.trackExposure(EXPERIMENT, 'ann'));
  assert.ok(await throughKafka.trackExposure(EXPERIMENT, 'bob'));
  assert.ok(await overHttp.trackConversion(EXPERIMENT, 'ann', 'purchase', { eventId: 'order-1', metadata: { plan: 'gold' } }));
  assert.ok(await throughKafka.trackConversion(EXPERIMENT, 'ann', 'purchase', { eventId: 'order-1', metadata: { plan: 'gold' } }));
  assert.ok(await throughKafka.trackConversion(EXPERIMENT, 'bob', 'purchase', { eventId: 'order-2', metadata: { plan: 'gold' } }));
  assert.ok(await overHttp.track('revenue', 'ann', 12.5, { eventId: 'order-3', metadata: { plan: 'gold' } }));
  assert.deepEqual(failures, []);
  assert.equal(await overHttp.trackConversion(EXPERIMENT, 'ann', 'purchase', { occurredAt: 'yesterday' }), false);
  assert.equal(await overHttp.trackConversion(EXPERIMENT, 'ann', 'purchase', { metadata: ['gold'] }), false);
  assert.deepEqual(failures.map(({ kind, status }) => [kind, status]), [['invalid_request', 422], ['invalid_request', 422]]);
  await until('two users, three conversions', async () => {
    const answer = await fetch(`${url}/api/v1/experiments/${EXPERIMENT}/results?environment=production`);
    const text = await answer.text();
    // 503 until they were computed for the first time.
    return answer.status === 200 && JSON.parse(text).conversions.attributed >= 3;
  });
});

test('a service that uses require and a shared Redis needs no other code', live, async () => {
  const code = `
    const FeatureFlagsClient = require('flagstream-client');
    const Redis = require('ioredis');
    const redis = new Redis(process.env.CLIENT_REDIS_URL);
    const ffClient = new FeatureFlagsClient({ configServiceUrl: process.env.FLAGSTREAM_URL, environment: 'production', cacheTtl: 300, redis: redis });
    (async () => {
      const enabled = await ffClient.isEnabled('on', 'user123');
      const results = await ffClient.batchEvaluate(['on', 'off', 'unknown'], 'user123');
      console.log(JSON.stringify({ enabled, results }));
      await redis.quit();
    })();`;
  const { stdout } = await run('commonjs', code);
  assert.deepEqual(JSON.parse(stdout), { enabled: true, results: { on: true, off: false, unknown: false } });
});

test('the examples of the README run', live, async () => {
  const readme = readFileSync(new URL('README.md', folder), 'utf8');
  const examples = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) => code);
  assert.ok(examples.length >= 8);
  for (const example of examples) {
    const code = example
      .replaceAll('http://flagstream:8082', url)
      .replaceAll('kafka:9092', kafka)
      .replaceAll('redis://redis:6379', redisUrl)
      .replace("'feature-flag-replies-shop'", `'${replyTopic}', ...${JSON.stringify(topics)}`);
    const type = /^import /m.test(code) ? 'module' : 'commonjs';
    await run(type, code);
  }
});
