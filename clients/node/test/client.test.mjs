// What one language has of its own: cancelling, options, the stream of changes.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { ChangeReader, MAX_LINE_CHARS } from '../src/changes.js';
import { FeatureFlagsClient, FlagstreamError, MockFeatureFlagsClient } from '../src/index.js';
import { scripted } from './scripted.mjs';

/** A server and a client of it, both closed at the end of the test. */
async function pair(context, answers, options) {
  const server = await scripted(answer, answers);
  const client = new FeatureFlagsClient({ configServiceUrl: server.url, onError: () => {}, ...options });
  context.after(async () => {
    await client.close();
    server.close();
  });
  return { server, client };
}

const { answer } = JSON.parse(readFileSync(new URL('../../vectors.json', import.meta.url)));
const url = process.env.FLAGSTREAM_URL;
const SOON_MS = 60_000;

test('a cancelled attempt lets the next one try', async (context) => {
  const options = { failureThreshold: 1, maxRetries: 0, recoveryTimeoutMs: 0 };
  const { server, client } = await pair(context, [{ status: 500 }, { hang: true }, {}], options);
  await assert.rejects(client.evaluate('f'), { kind: 'unavailable' });
  const caller = new AbortController();
  const probe = client.isEnabled('f', 'u', false, { signal: caller.signal });
  await assert.rejects(client.evaluate('f'), { kind: 'circuit_open' });
  while (server.requests.length < 2) await new Promise(setImmediate);
  const reason = new Error('the visitor left');
  caller.abort(reason);
  await assert.rejects(probe, reason);
  assert.equal(await client.isEnabled('f'), true);
});

test('errors that the service answers are warned of once', async (context) => {
  const error = { reason: 'ERROR', error_code: 'PROVIDER_NOT_READY', error_message: 'not served', environment: 'e' };
  const answers = [{ body: error }, { body: error }, { body: { ...error, error_code: 'TYPE_MISMATCH' } }, {}];
  const warned = [];
  const { client } = await pair(context, answers, { onWarning: (message) => warned.push(message) });
  for (let call = 0; call < 4; call += 1) await client.isEnabled('f');
  assert.equal(warned.length, 2);
  assert.match(warned[0], /in environment e is answered with its default: PROVIDER_NOT_READY: not served/);
});

test('a conversion has metadata', async (context) => {
  const errors = [];
  const refusal = { status: 422, problem: { detail: 'metadata: expected an object' } };
  const { server, client } = await pair(context, [{ status: 202 }, { status: 202 }, refusal], { onError: (error) => errors.push(error) });
  const metadata = { plan: 'gold', cart: { items: [1, 2.5] }, first: true, coupon: null };
  const convert = (options) => client.trackConversion('e', 'ann', 'purchase', options);
  assert.equal(await convert({ metadata }), true);
  assert.equal(await convert({ metadata: undefined }), true);
  assert.equal(await convert({ metadata: ['gold'] }), false, 'the service decides');
  assert.equal(await convert({ metadata: { total: NaN } }), false);
  assert.deepEqual(server.requests.map(({ body }) => body.metadata), [metadata, undefined, ['gold']]);
  assert.deepEqual(errors.map(({ kind, status }) => [kind, status]), [['invalid_request', 422], ['invalid_request', null]]);
});

test('a tracking event has its metadata among its details', async (context) => {
  const errors = [];
  const { server, client } = await pair(context, [{ status: 202 }, { status: 202 }], { onError: (error) => errors.push(error) });
  assert.equal(await client.track('purchase', 'ann', 12.5, { eventId: 'i', metadata: { plan: 'gold', coupon: null } }), true);
  assert.equal(await client.track('purchase', 'ann', undefined, { eventId: 'i' }), true);
  assert.equal(await client.track('purchase', 'ann', 1, { metadata: { plan: 'gold', experiment: 'e', eventId: 'i' } }), false);
  assert.equal(await client.track('purchase', 'ann', 1, { metadata: ['plan'] }), false);
  const details = server.requests.map(({ body }) => body.trackingEventDetails);
  assert.deepEqual(details, [{ value: 12.5, eventId: 'i', plan: 'gold', coupon: null }, { eventId: 'i' }]);
  assert.deepEqual(errors.map(({ kind }) => kind), ['invalid_request', 'invalid_request']);
  assert.match(errors[0].message, /experiment, eventId/);
});

test('connections are used again', async (context) => {
  const { server, client } = await pair(context, Array(20).fill({}));
  for (let call = 0; call < 20; call += 1) await client.isEnabled('f');
  // fetch may open a second one before the first is free again.
  assert.ok(new Set(server.requests.map(({ port }) => port)).size <= 2);
});

test('closing ends what is under way', async (context) => {
  const { client } = await pair(context, [{ hang: true }]);
  const asked = client.evaluateFlag('f', 'u', 'light');
  await client.close();
  assert.equal(await asked, 'light');
  assert.equal(await client.isEnabled('f', 'u', true), true);
});

test('what is not JSON is not sent', async () => {
  const told = [];
  const client = new FeatureFlagsClient({ configServiceUrl: 'http://127.0.0.1:1', onError: (error) => told.push(error) });
  const cycle = {};
  cycle.self = cycle;
  await assert.rejects(client.evaluate('f', 'u', null, { context: cycle }), { kind: 'invalid_request', status: null });
  const bulk = await client.bulkEvaluateFlags(['f', 'constructor'], 'u', { context: { nan: NaN }, defaultValues: { f: 1 } });
  assert.deepEqual(Object.values(bulk).map(({ value, reason }) => [value, reason]), [[1, 'ERROR'], [null, 'ERROR']]);
  assert.equal(await client.isEnabled('f', 'u', true, { context: { big: 1n } }), true);
  assert.deepEqual(told.map(({ kind }) => kind), ['invalid_request', 'invalid_request']);
  assert.ok(told[0] instanceof FlagstreamError);
});

test('wrong options are named', () => {
  const configServiceUrl = 'http://x';
  assert.throws(() => new FeatureFlagsClient({ configServiceUrl: 'flagstream:8082' }), /configServiceUrl/);
  assert.throws(() => new FeatureFlagsClient({ configServiceUrl, timeoutMs: 0 }), /timeoutMs/);
  assert.throws(() => new FeatureFlagsClient({ configServiceUrl, maxRetries: -1 }), /maxRetries/);
  assert.throws(() => new FeatureFlagsClient({ configServiceUrl, timeout: 5 }), /timeout/);
});

test('the mock says what it was told', async () => {
  const mock = new MockFeatureFlagsClient({ new_ui: true, theme: 'dark' });
  assert.equal(await mock.isEnabled('new_ui', 'user123'), true);
  assert.equal(await mock.isEnabled('unknown', 'user123', true), true);
  assert.equal(await mock.evaluateFlag('theme', 'u', 'light'), 'dark');
  assert.deepEqual(await mock.batchEvaluate(['new_ui', 'other'], 'u'), { new_ui: true, other: false });
  assert.equal((await mock.bulkEvaluateFlags(['theme'], 'u')).theme.value, 'dark');
  assert.deepEqual(mock.asked[0], ['new_ui', 'user123']);
});

test('the stream of changes is read however it is cut', () => {
  const changes = [];
  const begins = [];
  const reader = new ChangeReader((change) => changes.push(change), (version) => begins.push(version));
  const event = '{"event_type":"FEATURE_FLAG_UPDATED","flag_name":"é","environment":"p","version":7}';
  const text = Buffer.from(`retry: 1000\nid: 5\n\n: heartbeat\n\nid: 7\r\ndata: ${event}\r\n\r\n`);
  const known = [...text].map((byte) => reader.feed(Uint8Array.of(byte)));
  assert.equal(known.indexOf(true), text.indexOf('\n\n') + 1);
  assert.deepEqual([begins, changes], [[5], [JSON.parse(event)]]);
  assert.equal(reader.headers()['last-event-id'], '7');
  reader.feed(Buffer.from('id: 9\ndata: {"event_type":"RESET","version":9}\n\nid: 10\ndata: what'));
  assert.deepEqual([changes.at(-1).version, reader.lastId], [9, '9']);
  reader.headers();
  reader.feed(Buffer.from('id: 11\n\n'));
  assert.equal(reader.lastId, '11', 'half an event of a broken connection is forgotten');
  assert.throws(() => reader.feed(Buffer.alloc(MAX_LINE_CHARS + 1, 'x')), { kind: 'invalid_answer' });
});

test('a killed flag is off at once', { skip: !url && 'FLAGSTREAM_URL is not set' }, async (context) => {
  const flag = 'killed-in-node';
  const client = new FeatureFlagsClient({ configServiceUrl: url, environment: 'production', followChanges: true });
  context.after(() => client.close());
  const turn = async (action) => {
    const body = JSON.stringify({ reason: 'a test' });
    const headers = { 'content-type': 'application/json' };
    const turned = await fetch(`${url}/api/v1/feature-flags/${flag}/${action}?environment=production`, { method: 'POST', headers, body });
    return (await turned.json()).version;
  };
  const becomes = async (wanted) => {
    const deadline = performance.now() + SOON_MS;
    while ((await client.isEnabled(flag, 'u')) !== wanted) {
      assert.ok(performance.now() < deadline, `${wanted} in time`);
      // What is kept is answered without a look at the network.
      await new Promise(setImmediate);
    }
  };
  await client.waitUntilFollowing(AbortSignal.timeout(SOON_MS));
  await becomes(true);
  await client.evaluate(flag, 'u', false);
  assert.equal((await client.evaluate(flag, 'u', false)).cached, true);
  const version = await turn('kill');
  await becomes(false);
  const killed = await client.evaluate(flag, 'u', false);
  assert.equal(killed.reason, 'DISABLED');
  assert.ok(killed.flags_version >= version);
  const restored = await turn('restore');
  await becomes(true);
  assert.equal((await client.evaluate(flag, 'u', false, { minVersion: restored })).value, true);
});
