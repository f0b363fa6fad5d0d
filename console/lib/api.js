// Calls of the public API, and its streams.
import { useEffect, useRef, useState } from './html.js';
import { token } from './session.js';

/** Delay before a stream or a failed poll is tried again, in milliseconds. */
const RETRY_MS = 1000;

/** Error of a call: the problem that the service returned, or the reason why there is none. */
export class ApiError extends Error {
  /** @param {number} status @param {string} detail @param {{field: string, message: string}[]} [errors] */
  constructor(status, detail, errors = []) {
    super(detail);
    this.status = status;
    this.errors = errors;
  }
}

/** @param {Record<string, any>} query */
export function queryText(query) {
  const pairs = Object.entries(query).filter(([, value]) => value !== '' && value != null);
  const text = new URLSearchParams(pairs.map(([name, value]) => [name, String(value)])).toString();
  return text ? `?${text}` : '';
}

/** Encodes a flag's name as a path segment. A name that is also a route gets its first letter encoded. */
export function segment(name) {
  if (['sync', 'stale', 'cleanup', 'preload', 'evaluate'].includes(name)) {
    return `%${name.charCodeAt(0).toString(16)}${name.slice(1)}`;
  }
  return encodeURIComponent(name);
}

/**
 * @param {string} method
 * @param {string} path
 * @param {{query?: Record<string, any>, body?: any, reason?: string, headers?: Record<string, string>, signal?: AbortSignal}} [options]
 */
async function fetched(method, path, { query = {}, body, reason, headers = {}, signal } = {}) {
  /** @type {Record<string, string>} */
  const all = { 'X-Requested-With': 'console', ...headers };
  if (token.value) all.Authorization = `Bearer ${token.value}`;
  if (body !== undefined) all['Content-Type'] = 'application/json';
  // A header holds bytes: the reason is sent in UTF-8, which the service expects.
  if (reason) all['X-Change-Reason'] = String.fromCharCode(...new TextEncoder().encode(reason));
  let response;
  try {
    const text = body === undefined ? undefined : JSON.stringify(body);
    response = await fetch(path + queryText(query), { method, headers: all, body: text, signal, cache: 'no-store' });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, 'The service does not answer.');
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new ApiError(response.status, problem.detail ?? response.statusText, problem.errors);
}

/** Calls the API and returns its JSON, or null for an empty answer. @type {(...args: Parameters<typeof fetched>) => Promise<any>} */
export async function call(...args) {
  const response = await fetched(...args);
  const text = await response.text();
  const json = text ? JSON.parse(text) : null;
  const tag = response.headers.get('etag');
  if (tag && json && typeof json === 'object') json.etag = tag;
  return json;
}

export const get = (path, query = {}, signal = /** @type {any} */ (undefined)) =>
  call('GET', path, { query, signal });

/**
 * Follows server-sent events until `signal` is aborted, and connects again after an interruption. `fetch` is used,
 * because an EventSource cannot send a token.
 * @param {string} path
 * @param {Record<string, any>} query
 * @param {{event: (name: string, data: any) => void, state: (state: string, error?: any) => void}} on
 * @param {AbortSignal} signal
 */
export async function follow(path, query, on, signal) {
  while (!signal.aborted) {
    try {
      on.state('connecting');
      const response = await fetched('GET', path, { query, signal });
      let isOpen = false;
      const reader = /** @type {any} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
      let text = '';
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        text += value;
        const parts = text.split('\n\n');
        text = parts.pop() ?? '';
        for (const part of parts) {
          // Until the service follows the records, only heartbeats come.
          if (!isOpen && part !== ': heartbeat') {
            isOpen = true;
            on.state('open');
          }
          take(part, on.event);
        }
      }
      on.state('lost');
    } catch (error) {
      if (signal.aborted) return;
      on.state('lost', error);
      const status = /** @type {any} */ (error).status;
      if (status === 401 || status === 403 || status === 422) return;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

/** @param {string} part @param {(name: string, data: any) => void} event */
function take(part, event) {
  let name = 'message';
  let data = '';
  for (const line of part.split('\n')) {
    if (line.startsWith('event:')) name = line.slice(6).trim();
    else if (line.startsWith('data:')) data += line.slice(5).trim();
  }
  if (data) event(name, JSON.parse(data));
}

/**
 * Loads something, and again every `every` milliseconds if that is not 0. The last data stay visible while a later call
 * fails.
 * @param {(signal: AbortSignal) => Promise<any>} load
 * @param {any[]} inputs
 * @param {number} [every]
 */
export function useLoad(load, inputs, every = 0) {
  const [state, set] = useState({ data: null, error: null, loading: true });
  const again = useRef(() => {});
  useEffect(() => {
    const controller = new AbortController();
    /** @type {any} */
    let timer = 0;
    const run = async () => {
      clearTimeout(timer);
      try {
        const data = await load(controller.signal);
        if (!controller.signal.aborted) set({ data, error: null, loading: false });
      } catch (error) {
        if (controller.signal.aborted) return;
        set((before) => ({ ...before, error, loading: false }));
      }
      if (every && !controller.signal.aborted) timer = setTimeout(run, every);
    };
    again.current = run;
    set((before) => ({ ...before, loading: true }));
    run();
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  }, [...inputs, token.value]);
  return { ...state, reload: () => again.current() };
}
