// One request, bounded in time and size.
'use strict';

const { setTimeout: sleep } = require('node:timers/promises');

const { FlagstreamError } = require('./errors.js');

/** Larger answers are refused. The service's own are at most about half of it. */
const MAX_ANSWER_BYTES = 32 << 20;

/** Posts, and gives `{status, headers, text}`; rejects with the reason of whichever of `signals` is aborted. */
function post(url, headers, body, timeoutMs, signals) {
  const timedOut = new FlagstreamError('timed_out', `no answer within ${Math.ceil(timeoutMs)} ms`);
  return until(signals, async (signal, abort) => {
    const timer = setTimeout(() => abort(timedOut), Math.max(0, timeoutMs));
    try {
      const response = await fetch(url, { method: 'POST', headers, body, signal, redirect: 'manual' });
      return { status: response.status, headers: response.headers, text: await read(response) };
    } catch (cause) {
      if (cause instanceof FlagstreamError) throw cause;
      throw new FlagstreamError('connection_failed', cause.cause?.message || cause.message, { cause });
    } finally {
      clearTimeout(timer);
    }
  });
}

function pause(ms, signals) {
  return until(signals, (signal) => sleep(ms, undefined, { signal }));
}

/** Works until one of `signals` is aborted. They may live long, so nothing of ours stays with them. */
async function until(signals, work) {
  const own = new AbortController();
  const abort = (reason) => own.abort(reason);
  const ended = signals.filter(Boolean).map((signal) => ({ signal, end: () => abort(signal.reason) }));
  for (const { signal, end } of ended) {
    if (signal.aborted) end();
    signal.addEventListener('abort', end, { once: true });
  }
  try {
    own.signal.throwIfAborted();
    return await work(own.signal, abort);
  } catch (error) {
    throw own.signal.aborted ? own.signal.reason : error;
  } finally {
    for (const { signal, end } of ended) signal.removeEventListener('abort', end);
  }
}

async function read(response) {
  const chunks = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length;
    if (bytes > MAX_ANSWER_BYTES) throw new FlagstreamError('invalid_answer', 'the answer is too large', { status: response.status });
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

module.exports = { MAX_ANSWER_BYTES, post, pause, until };
