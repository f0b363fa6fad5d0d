// OpenFeature, OpenTelemetry and Express, with a mock and a scripted server.
import assert from 'node:assert/strict';
import { AsyncLocalStorage } from 'node:async_hooks';
import { test } from 'node:test';

import { ErrorCode, OpenFeature, ProviderEvents } from '@openfeature/server-sdk';
import { ROOT_CONTEXT, context as otelContext, trace } from '@opentelemetry/api';
import express from 'express';

import { FeatureFlagsClient, MockFeatureFlagsClient } from 'flagstream-client';
import { flagsMiddleware } from 'flagstream-client/express';
import { FlagstreamProvider, TelemetryHook } from 'flagstream-client/openfeature';
import { scripted } from './scripted.mjs';
import { vectors } from './live.mjs';

async function openFeature(context, flags) {
  await OpenFeature.setProviderAndWait(new FlagstreamProvider(flags));
  context.after(() => OpenFeature.close());
  return OpenFeature.getClient();
}

test('the provider sends the type, the user and the context', async (context) => {
  const server = await scripted(vectors.answer, [{ body: { value: 5, variant: 'five', flag_version: 9 } }, {}, { body: { value: 'dark' } }, { body: { value: { a: 1 } } }]);
  context.after(() => server.close());
  const client = await openFeature(context, new FeatureFlagsClient({ configServiceUrl: server.url, maxRetries: 0 }));
  const user = { targetingKey: 'u', tier: 'premium', session_id: 's' };
  const details = await client.getNumberDetails('f', 3, user);
  const { value, variant, reason, flagMetadata } = details;
  assert.deepEqual([value, variant, reason, flagMetadata], [5, 'five', 'TARGETING_MATCH', { enabled: true, flagsVersion: 10, version: 9 }]);
  assert.equal(await client.getBooleanValue('f', false), true);
  assert.equal(await client.getStringValue('f', 'light', user), 'dark');
  assert.deepEqual(await client.getObjectValue('f', {}, user), { a: 1 });
  const types = server.requests.map(({ body }) => [body.value_type, body.default_value]);
  assert.deepEqual(types, [['number', 3], ['boolean', false], ['string', 'light'], ['object', {}]]);
  const { user_id: userId, context: sent } = server.requests[0].body;
  assert.deepEqual([userId, sent], ['u', { tier: 'premium', session_id: 's' }]);
  assert.ok(!('user_id' in server.requests[1].body || 'context' in server.requests[1].body));
});

test('failures are the default with a code', async (context) => {
  const answers = [{ status: 500 }, { status: 422 }, { body: { value: 'text' } }, { body: { value: 7, reason: 'ERROR', error_code: 'TYPE_MISMATCH', error_message: 'no number' } }];
  const server = await scripted(vectors.answer, answers);
  context.after(() => server.close());
  const flags = new FeatureFlagsClient({ configServiceUrl: server.url, maxRetries: 0, onWarning: () => {} });
  const client = await openFeature(context, flags);
  const codes = [];
  for (let call = 0; call < answers.length; call += 1) {
    const { value, reason, errorCode } = await client.getNumberDetails('f', 3);
    assert.deepEqual([value, reason], [3, 'ERROR']);
    codes.push(errorCode);
  }
  assert.deepEqual(codes, [ErrorCode.GENERAL, ErrorCode.INVALID_CONTEXT, ErrorCode.TYPE_MISMATCH, ErrorCode.TYPE_MISMATCH]);
});

test('cached answers, changes and their absence are visible', async (context) => {
  const server = await scripted(vectors.answer, [{}]);
  context.after(() => server.close());
  const cached = await openFeature(context, new FeatureFlagsClient({ configServiceUrl: server.url, cache: true }));
  await cached.getBooleanValue('f', false);
  assert.equal((await cached.getBooleanDetails('f', false)).reason, 'CACHED');
  const mock = new MockFeatureFlagsClient({ f: true });
  const client = await openFeature(context, mock);
  const events = [];
  for (const event of [ProviderEvents.ConfigurationChanged, ProviderEvents.Stale, ProviderEvents.Ready]) {
    client.addHandler(event, (details) => events.push([event, details?.flagsChanged ?? details?.message]));
  }
  events.length = 0;
  mock.set('f', false);
  mock.setFollowing(false);
  mock.setFollowing(true);
  assert.deepEqual(events.map(([event]) => event), [ProviderEvents.ConfigurationChanged, ProviderEvents.Stale, ProviderEvents.Ready]);
  assert.deepEqual(events[0][1], ['f']);
});

test('tracking events are conversions', async (context) => {
  const mock = new MockFeatureFlagsClient();
  const client = await openFeature(context, mock);
  client.track('purchase', { targetingKey: 'u' }, { value: 12.5 });
  client.track('purchase', { targetingKey: 'u' }, { value: 2, experiment: 'checkout', eventId: 'order-77' });
  const metadata = { plan: 'gold', cart: { items: [1] } };
  const details = { ...metadata, occurredAt: 'today' };
  client.track('purchase', { targetingKey: 'u' }, details);
  client.track('purchase', { targetingKey: 'u' }, { ...details, experiment: 'checkout' });
  const tracked = mock.tracked.map((event) => [event.metric, event.userId, event.value, event.metadata]);
  assert.deepEqual(tracked, [['purchase', 'u', 12.5, undefined], ['purchase', 'u', undefined, metadata]]);
  const [{ experiment, user_id: user, value, event_id: id, ...others }, { metadata: kept }] = mock.conversions;
  assert.deepEqual([experiment, user, value, id], ['checkout', 'u', 2, 'order-77']);
  assert.ok(!('metadata' in others));
  assert.deepEqual(kept, metadata);
});

/** What OpenTelemetry needs of a context manager. */
class Contexts {
  #storage = new AsyncLocalStorage();
  active() {
    return this.#storage.getStore() ?? ROOT_CONTEXT;
  }
  with(context, call, self, ...rest) {
    return this.#storage.run(context, () => call.apply(self, rest));
  }
  bind(_context, target) {
    return target;
  }
  enable() {
    return this;
  }
  disable() {
    return this;
  }
}

test('the hook adds evaluations to the current span, whose trace the service receives', async (context) => {
  const server = await scripted(vectors.answer, [{ body: { value: 'dark', variant: 'dark' } }, {}]);
  otelContext.setGlobalContextManager(new Contexts());
  context.after(() => {
    otelContext.disable();
    OpenFeature.clearHooks();
    server.close();
  });
  const events = [];
  const ids = { traceId: '0af7651916cd43dd8448eb211c80319c', spanId: 'b7ad6b7169203331', traceFlags: 1 };
  const span = { isRecording: () => true, spanContext: () => ids, addEvent: (name, attributes) => events.push([name, attributes]) };
  OpenFeature.addHooks(new TelemetryHook());
  const client = await openFeature(context, new FeatureFlagsClient({ configServiceUrl: server.url, traceparent: TelemetryHook.traceparent }));
  await otelContext.with(trace.setSpan(ROOT_CONTEXT, span), () => client.getStringValue('f', 'light', { targetingKey: 'u' }));
  await client.getBooleanValue('f', false);
  assert.equal(events.length, 1);
  const [name, attributes] = events[0];
  assert.equal(name, 'feature_flag.evaluation');
  assert.deepEqual([attributes['feature_flag.key'], attributes['feature_flag.result.variant']], ['f', 'dark']);
  assert.deepEqual(server.requests.map(({ headers }) => headers.traceparent), [`00-${ids.traceId}-${ids.spanId}-01`, undefined]);
});

test('Express: flags of the user of the request', async (context) => {
  const server = await scripted(vectors.answer, [{}, { body: { variant: 'dark' } }, {}]);
  const flags = new FeatureFlagsClient({ configServiceUrl: server.url, environment: 'production' });
  const app = express();
  app.use(flagsMiddleware(flags));
  app.use('/own', flagsMiddleware(flags, { resolve: (request) => ({ userId: request.get('x-user'), environment: 'staging' }) }));
  // Later than the middleware, as an authentication may be.
  app.use((request, _response, next) => {
    request.user = { id: 'ann' };
    request.sessionID = 's-1';
    next();
  });

  app.get('/', async ({ flags }, response) => response.json([await flags.isEnabled('f'), await flags.getVariant('f', 'light')]));
  app.get('/own/one', async ({ flags }, response) => response.json(await flags.evaluateFlag('f', false)));
  const listening = app.listen(0, '127.0.0.1');
  await new Promise((resolve) => listening.once('listening', resolve));
  context.after(async () => {
    listening.close();
    listening.closeAllConnections();
    await flags.close();
    server.close();
  });
  const get = async (path, headers) => (await fetch(`http://127.0.0.1:${listening.address().port}${path}`, { headers })).json();
  assert.deepEqual(await get('/', { 'user-agent': 'test/1' }), [true, 'dark']);
  assert.equal(await get('/own/one', { 'x-user': 'bob' }), true);
  const [first, , own] = server.requests.map(({ body }) => body);
  assert.deepEqual([first.user_id, first.session_id, first.environment], ['ann', 's-1', 'production']);
  assert.deepEqual(first.context, { remoteAddress: '127.0.0.1', userAgent: 'test/1' });
  assert.deepEqual([own.user_id, own.environment, own.context], ['bob', 'staging', undefined]);
});
