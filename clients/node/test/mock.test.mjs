// Mocks, overrides, and what the package exports.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';

import FeatureFlagsClient, { FlagstreamError, MockFeatureFlagsClient, mockFlag } from 'flagstream-client';
import { KafkaFeatureFlagsClient } from 'flagstream-client/kafka';

const require = createRequire(import.meta.url);

/** The public members of a class, with those that it inherits. */
function members(type) {
  const names = [];
  for (let proto = type.prototype; proto !== Object.prototype; proto = Object.getPrototypeOf(proto)) {
    names.push(...Object.getOwnPropertyNames(proto));
  }
  return new Set(names);
}

test('require returns the class, and the same module as import', () => {
  const required = require('flagstream-client');
  assert.equal(required, FeatureFlagsClient);
  assert.equal(required.FlagstreamError, FlagstreamError);
  assert.equal(required.default, required);
  assert.equal(require('flagstream-client/kafka').KafkaFeatureFlagsClient, KafkaFeatureFlagsClient);
  assert.ok(require('flagstream-client/package.json').version);
});

test('the mock has every call of the clients, with the same parameters', () => {
  for (const client of [FeatureFlagsClient, KafkaFeatureFlagsClient]) {
    assert.deepEqual([...members(client)].filter((name) => !members(MockFeatureFlagsClient).has(name)), []);
  }
  assert.equal(Object.getPrototypeOf(MockFeatureFlagsClient), Object.getPrototypeOf(FeatureFlagsClient));
});

test('the mock remembers what it was asked and told', async () => {
  const mock = new MockFeatureFlagsClient({ new_ui: true, retries: 3 });
  mock.setVariant('checkout', 'one-page');
  assert.equal(await mock.getVariant('checkout', 'u', 'classic'), 'one-page');
  assert.equal(await mock.getVariant('new_ui', 'u', 'classic'), 'classic');
  assert.equal(await mock.evaluateFlag('retries', 'u', 5), 3);
  assert.equal((await mock.evaluate('unknown', 'u', 1)).error_code, 'FLAG_NOT_FOUND');
  assert.deepEqual(mock.asked, [['checkout', 'u'], ['new_ui', 'u'], ['retries', 'u'], ['unknown', 'u']]);
  assert.equal(await mock.trackExposure('checkout', 'u'), true);
  assert.equal(await mock.trackConversion('checkout', 'u', 'purchase', { value: 2, eventId: 'o', metadata: { plan: 'gold' } }), true);
  assert.equal(await mock.trackConversion('checkout', '', 'purchase'), false, 'a conversion needs a user');
  assert.equal(await mock.track('purchase', 'u', 2, { eventId: 'o', metadata: { plan: 'gold' } }), true);
  assert.equal(await mock.track('purchase', 'u', 2, { eventId: 'p' }), true);
  assert.equal(await mock.track('purchase', 'u', 2, { metadata: { experiment: 'checkout' } }), false, 'not metadata');
  assert.deepEqual(mock.exposures, [['checkout', 'u']]);
  const [{ occurred_at: occurredAt, ...conversion }] = mock.conversions;
  assert.deepEqual(conversion, { experiment: 'checkout', user_id: 'u', metric: 'purchase', value: 2, event_id: 'o', metadata: { plan: 'gold' } });
  assert.ok(Date.parse(occurredAt));
  const tracked = { metric: 'purchase', userId: 'u', value: 2 };
  assert.deepEqual(mock.tracked, [{ ...tracked, eventId: 'o', metadata: { plan: 'gold' } }, { ...tracked, eventId: 'p' }]);
});

test('listeners receive changes until they end', () => {
  const mock = new MockFeatureFlagsClient();
  const received = [];
  const stop = mock.onChange(({ event_type: type, flag_name: flag }) => received.push([type, flag]));
  mock.onChange(() => {
    throw new Error('a listener that fails disturbs no other');
  });
  const following = [];
  mock.onFollowing((is) => following.push(is));
  mock.set('a', true);
  mock.remove('a');
  stop();
  mock.set('b', true);
  mock.setFollowing(false);
  assert.deepEqual(received, [['FEATURE_FLAG_UPDATED', 'a'], ['FEATURE_FLAG_DELETED', 'a']]);
  assert.deepEqual(following, [false]);
});

test('mockFlag overrides a flag in every client, and restores it', async () => {
  const clients = [
    new MockFeatureFlagsClient({ f: false }),
    new FeatureFlagsClient({ configServiceUrl: 'http://127.0.0.1:1', maxRetries: 0, onError: () => {} }),
  ];
  for (const client of clients) {
    const result = await mockFlag('f', true, async () => {
      assert.equal(await client.isEnabled('f', 'u'), true);
      const inner = mockFlag('f', 'dark');
      assert.equal((await client.bulkEvaluateFlags(['f'], 'u')).f.value, 'dark');
      inner();
      inner();
      assert.deepEqual(await client.batchEvaluate(['f'], 'u'), { f: true });
      return 'done';
    });
    assert.equal(result, 'done');
    assert.equal(await client.isEnabled('f', 'u'), false);
    await assert.rejects(mockFlag('f', true, () => Promise.reject(new Error('test'))), /test/);
    assert.equal(await client.isEnabled('f', 'u'), false, 'restored after a failure');
    await client.close();
  }
});

test('CONFIG_SERVICE_URL and ENVIRONMENT are the defaults', async (context) => {
  const { scripted } = await import('./scripted.mjs');
  const { vectors } = await import('./live.mjs');
  const server = await scripted(vectors.answer, [{}, {}]);
  const { CONFIG_SERVICE_URL: before, ENVIRONMENT: environment } = process.env;
  context.after(() => {
    server.close();
    for (const [name, value] of Object.entries({ CONFIG_SERVICE_URL: before, ENVIRONMENT: environment })) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  });
  delete process.env.CONFIG_SERVICE_URL;
  assert.throws(() => new FeatureFlagsClient(), /CONFIG_SERVICE_URL/);
  process.env.CONFIG_SERVICE_URL = server.url;
  process.env.ENVIRONMENT = 'staging';
  await new FeatureFlagsClient().isEnabled('f');
  await new FeatureFlagsClient({ environment: null }).isEnabled('f');
  assert.deepEqual(server.requests.map(({ body }) => body.environment), ['staging', undefined]);
});
