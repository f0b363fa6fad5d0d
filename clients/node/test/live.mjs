// Where the services of the tests are.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';

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

/** Has the test around this process stop or start a service, and waits until it is done. */
export async function control(command) {
  const [host, port] = process.env.FLAGSTREAM_TEST_CONTROL.split(':');
  const socket = connect(Number(port), host);
  socket.end(`${command}\n`);
  const [answer] = await once(socket, 'data');
  assert.equal(answer.toString(), 'done\n', command);
}
