// The stream of changes (`GET /api/v1/changes`).
'use strict';

const { FlagstreamError, errorOf } = require('./errors.js');
const { pause, until } = require('./http.js');

/** The service writes something every 15 s; a connection that is silent for longer is dead. */
const SILENCE_MS = 45_000;
const MAX_LINE_CHARS = 64 << 10;
const RETRY_BASE_MS = 1_000;
const RETRY_CAP_MS = 30_000;

/** Reads server-sent events, however they are cut into pieces. */
class ChangeReader {
  #changed;
  #begins;
  #decoder = new TextDecoder();
  #rest = '';
  #id = '';
  #data = '';
  lastId = null;

  /** `changed` receives each change, `begins` the version with which a stream begins. */
  constructor(changed, begins) {
    this.#changed = changed;
    this.#begins = begins;
  }

  /** The headers of a new connection, which resumes where the last one ended. */
  headers() {
    this.#decoder = new TextDecoder();
    this.#rest = '';
    this.#id = '';
    this.#data = '';
    return { accept: 'text/event-stream', ...(this.lastId && { 'last-event-id': this.lastId }) };
  }

  /** Takes a piece; returns whether it is known from which version on changes arrive. */
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
      // The first event has only an id: earlier changes are not reported.
      const change = this.#data ? changeOf(this.#data) : null;
      if (change) this.#changed(change);
      else if (!this.#data && /^\d+$/.test(this.#id)) this.#begins(Number(this.#id));
      this.lastId = this.#id;
      this.#id = '';
      this.#data = '';
    }
  }
}

/** The change that an event of the stream or of `feature-flag-updates` is; `null` if it is none. */
function changeOf(message) {
  let event = message;
  if (typeof message === 'string' || message instanceof Uint8Array) {
    try {
      event = JSON.parse(typeof message === 'string' ? message : new TextDecoder().decode(message));
    } catch {
      return null;
    }
  }
  if (!Number.isSafeInteger(event?.version)) return null;
  const text = (value) => (typeof value === 'string' ? value : null);
  return Object.freeze({
    event_type: text(event.event_type) ?? 'RESET',
    flag_name: text(event.flag_name),
    environment: text(event.environment),
    version: event.version,
  });
}

/** Reads the stream until `signal` ends it. `following` is called with whether changes arrive. */
async function follow(settings, reader, breaker, following, signal) {
  for (let failures = 0; !signal.aborted; failures += 1) {
    try {
      await read(settings, reader, signal, () => {
        failures = 0;
        breaker.mayBeWell();
        following(true);
      });
    } catch (error) {
      if (!signal.aborted) console.warn(`flagstream: no changes arrive: ${error.cause?.message ?? error.message}`);
    }
    following(false);
    const most = Math.min(RETRY_CAP_MS, RETRY_BASE_MS * 2 ** failures);
    await pause(Math.random() * most, [signal]).catch(() => {});
  }
}

async function read(settings, reader, signal, arrived) {
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
        if (reader.feed(chunk)) arrived();
      }
    } finally {
      clearTimeout(timer);
    }
  });
}

module.exports = { MAX_LINE_CHARS, ChangeReader, changeOf, follow };
