// The table that the clients of all languages share.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';

import { FeatureFlagsClient, FlagstreamError } from '../src/index.js';
import { checkRequests, scripted } from './scripted.mjs';

const vectors = JSON.parse(readFileSync(new URL('../../vectors.json', import.meta.url)));
const url = process.env.FLAGSTREAM_URL;

function options(given) {
  const words = Object.entries(given).map(([name, value]) => {
    if (name === 'cache_ttl_s') return ['cacheTtl', value];
    const inMs = name.endsWith('_s');
    const camel = name.replace(/_s$/, '_ms').replace(/_(.)/g, (_, letter) => letter.toUpperCase());
    return [camel, inMs ? value * 1000 : value];
  });
  return Object.fromEntries(words);
}

function check(expected, said) {
  const isOpen = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
  if (!isOpen(expected)) return assert.deepEqual(said, expected);
  for (const [name, value] of Object.entries(expected)) check(value, said[name]);
}

function checkError(expected, error) {
  assert.ok(error instanceof FlagstreamError, error.stack);
  assert.equal(error.kind, expected.kind, error.stack);
  if (expected.status) assert.equal(error.status, expected.status);
  if (expected.detail) assert.equal(error.detail, expected.detail);
  if (expected.retry_after_s) assert.equal(error.retryAfterMs, expected.retry_after_s * 1000);
  if (expected.fields) assert.deepEqual(error.errors.map(({ field }) => field), expected.fields);
  assert.ok(error.errors.every(({ message }) => message));
  return true;
}

function call(client, step) {
  const { session_id: sessionId, context, environment, value_type: valueType, user_id: user, min_version: minVersion } = step;
  const who = { sessionId, context, environment };
  switch (step.call) {
    case 'is_enabled':
      return client.isEnabled(step.flag, user, step.default, who);
    case 'evaluate_flag':
      return client.evaluateFlag(step.flag, user, step.default, { ...who, valueType });
    case 'evaluate':
      return client.evaluate(step.flag, user, step.default, { ...who, valueType, minVersion });
    case 'batch_evaluate':
      return client.batchEvaluate(step.flags, user, step.default, who);
    case 'bulk_evaluate_flags':
      return client.bulkEvaluateFlags(step.flags, user, { ...who, defaultValues: step.default_values });
    case 'track_conversion': {
      const { value, metadata, event_id: eventId, occurred_at: occurredAt } = step;
      return client.trackConversion(step.experiment, user, step.metric, { environment, value, metadata, eventId, occurredAt });
    }
    case 'track':
      return client.track(step.metric, user, step.value, { environment, metadata: step.metadata });
    default:
      throw new Error(step.call);
  }
}

describe('scripted', () => {
  for (const row of vectors.scripted) {
    test(row.name, async () => {
      const server = await scripted(vectors.answer, row.answers);
      let ahead = 0;
      const now = () => performance.now() + ahead;
      const quiet = { backoffBaseMs: 1, onError: () => {}, now };
      const client = new FeatureFlagsClient({ configServiceUrl: server.url, ...quiet, ...options(row.options ?? {}) });
      try {
        for (const step of row.steps) {
          if (step.advance_s) ahead += step.advance_s * 1000;
          else if (step.clear_cache) client.clearCache();
          else if ('message' in step) assert.equal(client.applyInvalidation(step.message), step.is_change, step.message);
          else if (step.invalidate) client.invalidate(step.invalidate.version, step.invalidate.environment);
          else if (step.error) await assert.rejects(call(client, step), (error) => checkError(step.error, error));
          else check(step.expect, await call(client, step));
        }
        checkRequests(row.requests, server.requests);
      } finally {
        await client.close();
        server.close();
      }
    });
  }
});

describe('live', { skip: !url && 'FLAGSTREAM_URL is not set: no service to ask' }, () => {
  for (const row of vectors.live) {
    test(`${row.flag} for ${row.user_id}`, async () => {
      const client = new FeatureFlagsClient({ configServiceUrl: url, environment: 'production', onError: () => {} });
      const asked = { call: 'evaluate', ...row };
      if (row.error) {
        await assert.rejects(call(client, asked), (error) => checkError(row.error, error));
        assert.deepEqual(await call(client, { ...asked, call: 'evaluate_flag' }), row.value);
      } else {
        check(row.expect, await call(client, asked));
      }
      await client.close();
    });
  }

  test('many at once', async () => {
    const client = new FeatureFlagsClient({ configServiceUrl: url, environment: 'production' });
    const flags = ['on', 'off', 'theme', 'unknown'];
    assert.deepEqual(await client.batchEvaluate(flags, 'user 1&2'), { on: true, off: false, theme: true, unknown: false });
    const said = await client.bulkEvaluateFlags(flags, 'u', { defaultValues: { theme: 'light', unknown: 1 } });
    assert.deepEqual(Object.values(said).map(({ value }) => value), [true, false, 'dark', 1]);
    await client.close();
  });
});
