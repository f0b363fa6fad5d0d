// The stream of changes (`GET /api/v1/changes`).
import { FlagstreamError, errorOf } from './errors.js';
import { pause, until } from './http.js';

/** The service writes something every 15 s; a connection that is silent for longer is dead. */
const SILENCE_MS = 45_000;
export const MAX_LINE_CHARS = 64 << 10;
const RETRY_BASE_MS = 1_000;
const RETRY_CAP_MS = 30_000;

/** Reads server-sent events, and tells the cache. */
export class ChangeReader {
  #cache;
  #decoder = new TextDecoder();
  #rest = '';
  #id = '';
  #data = '';
  lastId = null;

  constructor(cache) {
    this.#cache = cache;
  }

  /** For a new connection, which goes on where the last one ended. */
  headers() {
    this.#decoder = new TextDecoder();
    this.#rest = '';
    this.#id = '';
    this.#data = '';
    return { accept: 'text/event-stream', ...(this.lastId && { 'last-event-id': this.lastId }) };
  }

  /** Takes what has come; whether it is known by now from where on changes are heard. */
  feed(chunk) {
    const lines = (this.#rest + this.#decoder.decode(chunk, { stream: true })).split('\n');
    this.#rest = lines.pop();
    if (this.#rest.length > MAX_LINE_CHARS) throw new FlagstreamError('invalid_answer', 'a line of the stream of changes is too long');
    for (const line of lines) this.#line(line.replace(/\r$/, ''));
    return this.lastId !== null;
  }

  #line(line) {
    const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
    if (name === 'id') this.#id = value;
    // The service writes all of it in one line.
    else if (name === 'data') this.#data = value;
    else if (line === '' && this.#id) {
      // Where the stream begins only an id stands: what changed before is not told.
      if (this.#data) apply(this.#cache, this.#data);
      else if (/^\d+$/.test(this.#id)) this.#cache.invalidate(Number(this.#id), null);
      this.lastId = this.#id;
      this.#id = '';
      this.#data = '';
    }
  }
}

/** Takes one invalidation, as it stands in the stream or in `feature-flag-updates`; whether it was understood. */
export function apply(cache, text) {
  let event;
  try {
    event = JSON.parse(text);
  } catch {
    return false;
  }
  if (!Number.isSafeInteger(event?.version)) return false;
  cache.invalidate(event.version, typeof event.environment === 'string' ? event.environment : null);
  return true;
}

/** Listens until `signal` ends it. `heard(true)` when changes are heard of, `heard(false)` when no more. */
export async function follow(settings, cache, breaker, heard, signal) {
  const reader = new ChangeReader(cache);
  for (let failures = 0; !signal.aborted; failures += 1) {
    try {
      await listen(settings, reader, signal, () => {
        failures = 0;
        breaker.mayBeWell();
        heard(true);
      });
    } catch (error) {
      if (!signal.aborted) console.warn(`flagstream: changes are not heard of: ${error.cause?.message ?? error.message}`);
    }
    heard(false);
    const most = Math.min(RETRY_CAP_MS, RETRY_BASE_MS * 2 ** failures);
    await pause(Math.random() * most, [signal]).catch(() => {});
  }
}

async function listen(settings, reader, signal, following) {
  const query = settings.environment === null ? '' : `?${new URLSearchParams({ environment: settings.environment })}`;
  const url = `${settings.configServiceUrl}/api/v1/changes${query}`;
  await until([signal], async (signal, abort) => {
    const silent = () => abort(new Error('the service says nothing'));
    let timer = setTimeout(silent, settings.attemptTimeoutMs);
    try {
      const headers = { ...settings.headers, ...reader.headers() };
      const response = await fetch(url, { headers, signal, redirect: 'manual' });
      if (response.status !== 200) {
        await response.body?.cancel();
        throw errorOf(response.status, response.headers, '');
      }
      for await (const chunk of response.body) {
        clearTimeout(timer);
        timer = setTimeout(silent, SILENCE_MS);
        if (reader.feed(chunk)) following();
      }
    } finally {
      clearTimeout(timer);
    }
  });
}
