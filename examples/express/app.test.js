// The service with a mock of the flags, as its own tests would have it, and with a real flagstream.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { FeatureFlagsClient, MockFeatureFlagsClient } from 'flagstream-client';

import { service } from './app.js';

async function dashboard(context, flags, headers) {
  const server = service(flags).listen(0, '127.0.0.1');
  context.after(() => server.close());
  await new Promise((resolve) => server.once('listening', resolve));
  const answer = await fetch(`http://127.0.0.1:${server.address().port}/api/users/u/dashboard`, { headers });
  return answer.json();
}

test('with a mock', async (context) => {
  const flags = new MockFeatureFlagsClient({ premium: true, theme: 'auto' });
  assert.deepEqual(await dashboard(context, flags), { template: 'new_dashboard', theme: 'auto' });
});

test('with flagstream', { skip: !process.env.FLAGSTREAM_URL }, async (context) => {
  const flags = new FeatureFlagsClient({ configServiceUrl: process.env.FLAGSTREAM_URL, environment: 'production' });
  context.after(() => flags.close());
  assert.deepEqual(await dashboard(context, flags), { template: 'old_dashboard', theme: 'dark' });
  const premium = await dashboard(context, flags, { 'x-user': 'u', 'x-tier': 'premium' });
  assert.deepEqual(premium, { template: 'new_dashboard', theme: 'dark' });
});
