// Where the services of the tests are.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

const variable = (name, otherwise) => process.env[name] || otherwise;

export const url = variable('FLAGSTREAM_URL');
export const kafka = variable('KAFKA_BOOTSTRAP_SERVERS');
export const redisUrl = variable('CLIENT_REDIS_URL');
export const replyTopic = variable('REPLY_TOPIC', 'feature-flag-replies-node');
export const topics = {
  requestsTopic: variable('FLAGSTREAM_TOPICS__REQUESTS', 'feature-flag-evaluation-requests'),
  conversionsTopic: variable('FLAGSTREAM_TOPICS__CONVERSIONS', 'feature-flag-conversions'),
  updatesTopic: variable('FLAGSTREAM_TOPICS__UPDATES', 'feature-flag-updates'),
};
export const eventsTopic = variable('FEATURE_FLAG_KAFKA_TOPIC', 'feature-flag-events');
export const FLAG = 'killed-in-node';
export const LIMIT_MS = 60_000;

export const vectors = JSON.parse(readFileSync(new URL('../../vectors.json', import.meta.url)));

/** Waits until the condition holds. */
export async function until(what, condition) {
  const deadline = performance.now() + LIMIT_MS;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, `in time: ${what}`);
    // Others may be due meanwhile: answers from a cache need no network.
    await new Promise(setImmediate);
  }
}

export async function post(path, body, expected = [200, 201]) {
  const headers = { 'content-type': 'application/json' };
  const answer = await fetch(`${url}${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
  const text = await answer.text();
  assert.ok(expected.includes(answer.status), `${path}: ${answer.status} ${text}`);
  return text && JSON.parse(text);
}

/** Kills or restores a flag; returns the version of the change. */
export async function turn(flag, action) {
  return (await post(`/api/v1/feature-flags/${flag}/${action}?environment=production`, { reason: 'a test' })).version;
}
