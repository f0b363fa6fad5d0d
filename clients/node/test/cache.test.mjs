// The layers of the cache, without a service and without Redis.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { FeatureFlagsClient } from '../src/index.js';
import { keyOf, minVersionKey } from '../src/redis.js';
import { scripted } from './scripted.mjs';
import { until, vectors } from './live.mjs';

/** Redis as a map; `set` has what the client wrote. */
class Store {
  values = new Map();
  reads = 0;
  isAway = false;

  async get(keys) {
    this.reads += 1;
    if (this.isAway) throw new Error('Redis is away');
    return keys.map((key) => this.values.get(key) ?? null);
  }

  async setIfNewer(key, _version, ttlMs, value) {
    this.values.set(key, value);
    this.ttlMs = ttlMs;
  }
}

async function pair(context, answers, options) {
  const server = await scripted(vectors.answer, answers);
  const store = new Store();
  let aheadMs = 0;
  const now = () => performance.now() + aheadMs;
  const common = { configServiceUrl: server.url, environment: 'production', redis: store, onError: () => {}, now };
  const client = new FeatureFlagsClient({ ...common, ...options });
  context.after(async () => {
    await client.close();
    server.close();
  });
  return { server, store, client, advance: (ms) => (aheadMs += ms) };
}

const KEY = keyOf('production', 'f', 'u');
const value = (members) => JSON.stringify({ ...members, cached_at: '2026-01-15T10:30:00Z' });

test('keys are those that the documentation names', () => {
  assert.equal(keyOf('production', 'a:b%', 'u'), 'ff_eval:production:a%3Ab%25:u');
  assert.equal(minVersionKey('production', 'a/b{c}'), 'flagstream:warm:{production/a%2Fb%7Bc%7D}:floor');
});

test('an answer is written to Redis, and read from there', async (context) => {
  const { server, store, client } = await pair(context, [{}]);
  assert.equal(await client.isEnabled('f', 'u'), true);
  const written = JSON.parse(store.values.get(KEY));
  assert.deepEqual([Object.keys(written)[0], written.basis_version, written.flag_version, written.enabled], ['basis_version', 10, 10, true]);
  assert.equal(store.ttlMs, 300_000);
  assert.equal(await client.isEnabled('f', 'u'), true);
  assert.deepEqual(await client.batchEvaluate(['f'], 'u'), { f: true });
  assert.equal(server.requests.length, 1);
});

test('context, session, other types, errors and killed flags are not in Redis', async (context) => {
  const answers = [{}, {}, { body: { value: 'dark' } }, { body: { reason: 'ERROR', error_code: 'GENERAL' } }, { body: { killed: true, value: false, enabled: false } }, { body: { flag_version: null, error_code: 'FLAG_NOT_FOUND' } }];
  const { store, client } = await pair(context, answers, { onWarning: () => {} });
  await client.isEnabled('f', 'u', false, { context: { a: 1 } });
  await client.isEnabled('f', 'u', false, { sessionId: 's' });
  await client.evaluateFlag('f', 'u', 'light');
  for (let call = 0; call < 3; call += 1) await client.isEnabled('f', 'u');
  assert.equal(store.values.size, 0);
});

describe('which values of Redis are used', () => {
  for (const { name, value: text, minimum, changes = [], is_used: isUsed } of vectors.redis) {
    test(name, async (context) => {
      const { client, server, store } = await pair(context, [{}]);
      store.values.set(KEY, text);
      if (minimum !== undefined) store.values.set(minVersionKey('production', 'f'), minimum);
      changes.forEach((change) => client.applyInvalidation(change));
      // False in Redis, true at the service.
      assert.equal(await client.isEnabled('f', 'u'), !isUsed);
      assert.equal(server.requests.length, isUsed ? 0 : 1);
    });
  }
});

test('with hybrid a value of Redis stays in memory for 60 s, unless a change overtakes it', async (context) => {
  const { client, store, advance } = await pair(context, [{ body: { flags_version: 20, value: true } }], { cache: 'hybrid' });
  store.values.set(KEY, value({ flag_version: 10, enabled: false }));
  assert.deepEqual([await client.isEnabled('f', 'u'), await client.isEnabled('f', 'u'), store.reads], [false, false, 1]);
  advance(60_000);
  assert.deepEqual([await client.isEnabled('f', 'u'), store.reads], [false, 2]);
  client.applyInvalidation({ flag_name: 'f', environment: 'production', version: 20 });
  assert.equal(await client.isEnabled('f', 'u'), true);
});

test('while Redis is away the service is asked, and Redis is skipped for 2 s', async (context) => {
  const { server, client, store, advance } = await pair(context, [{}, {}, {}]);
  store.isAway = true;
  assert.deepEqual([await client.isEnabled('f', 'u'), await client.isEnabled('f', 'u')], [true, true]);
  assert.deepEqual([server.requests.length, store.reads, store.values.size], [2, 1, 0]);
  store.isAway = false;
  advance(2_000);
  assert.equal(await client.isEnabled('f', 'u'), true);
  assert.equal(store.reads, 2);
  await until('the answer is in Redis', () => store.values.has(KEY));
});

test('a store that hangs costs 100 ms, not the call', async (context) => {
  const { client, store } = await pair(context, [{}]);
  store.get = () => new Promise(() => {});
  assert.equal(await client.isEnabled('f', 'u'), true);
});

test('options decide the layers', () => {
  const client = (options) => new FeatureFlagsClient({ configServiceUrl: 'http://x', ...options });
  assert.throws(() => client({ cache: 'redis' }), /redis/);
  assert.throws(() => client({ cache: 'disk' }), /cache/);
  assert.throws(() => client({ redis: {} }), /ioredis/);
  assert.throws(() => client({ cacheTtl: -1 }), /cacheTtl/);
});

test('a lifetime alone turns the cache in memory on', async (context) => {
  const { server, client, advance } = await pair(context, [{}, {}], { redis: null, cacheTtl: 5 });
  assert.deepEqual([(await client.evaluate('f')).cached, (await client.evaluate('f')).cached], [false, true]);
  advance(5_000);
  assert.equal((await client.evaluate('f')).cached, false);
  assert.equal(server.requests.length, 2);
});
