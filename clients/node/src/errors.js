// What can go wrong: one class, whose `kind` says how to react.
'use strict';


/** Failures that may be different the next time. */
const PASSING = new Set(['connection_failed', 'timed_out', 'rate_limited', 'unavailable']);
const KINDS = { 401: 'unauthorized', 403: 'forbidden', 404: 'not_found', 429: 'rate_limited' };

class FlagstreamError extends Error {
  constructor(kind, detail, { status = null, errors = [], retryAfterMs = null, cause } = {}) {
    super(status === null ? detail : `${status}: ${detail}`, { cause });
    this.name = 'FlagstreamError';
    Object.assign(this, { kind, detail, status, errors, retryAfterMs });
  }

  get isPassing() {
    return PASSING.has(this.kind);
  }
}

/** The error that an answer other than 200 is; its details are those of its problem+json (RFC 9457). */
function errorOf(status, headers, text) {
  const problem = parsed(text);
  const kind = KINDS[status] ?? (status >= 500 ? 'unavailable' : status >= 400 ? 'invalid_request' : 'invalid_answer');
  const errors = (Array.isArray(problem.errors) ? problem.errors : [])
    .filter((error) => error && typeof error === 'object')
    .map(({ field, message }) => ({ field: String(field ?? ''), message: String(message ?? '') }));
  const detail = String(problem.detail || problem.title || 'no explanation');
  return new FlagstreamError(kind, detail, { status, errors, retryAfterMs: milliseconds(headers.get('retry-after')) });
}

function parsed(text) {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
}

/** flagstream writes seconds; a date, as proxies may write it, is not worth a clock of theirs. */
function milliseconds(text) {
  return text !== null && /^\d+(\.\d+)?$/.test(text) ? Number(text) * 1000 : null;
}

module.exports = { FlagstreamError, errorOf };
