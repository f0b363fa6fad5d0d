// Questions and answers as they cross the wire.
import { createHash } from 'node:crypto';

import { FlagstreamError } from './errors.js';

export const ONE_PATH = '/api/v1/feature-flags/evaluate';
export const MANY_PATH = '/api/v1/feature-flags/evaluate/bulk';

/** JSON without the members that are null; what is none (NaN, a cycle) is the caller's mistake. */
export function encode(body) {
  try {
    return JSON.stringify(body, (_name, value) => {
      if (typeof value === 'number' && !Number.isFinite(value)) throw new TypeError(`${value}`);
      return value;
    });
  } catch (cause) {
    throw new FlagstreamError('invalid_request', `context or default: not JSON: ${cause.message}`, { cause });
  }
}

/** The members that say something. */
export function given(members) {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined && value !== null));
}

/** What an object of the caller's says of a flag, whatever the flag's name. */
export function member(values, flag) {
  return values && Object.hasOwn(values, flag) ? values[flag] : undefined;
}

/** The same for the same question, and of one length. */
export function keyOf(flag, question, defaultValue, valueType) {
  const { user_id, session_id, context, environment } = question;
  const parts = [flag, defaultValue, valueType, user_id, session_id, context, environment].map((part) => part ?? null);
  return createHash('sha256').update(sorted(JSON.parse(encode(parts)))).digest('base64');
}

function sorted(value) {
  if (Array.isArray(value)) return `[${value.map(sorted)}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  return `{${Object.keys(value).sort().map((name) => `${JSON.stringify(name)}:${sorted(value[name])}`)}}`;
}

/** The answer for one flag. */
export function one(answer) {
  const members = object(answer);
  return evaluation(String(members.flag_name), members, members);
}

/** The answers for these flags. */
export function many(answer, flags) {
  const around = object(answer);
  const results = object(around.results);
  return new Map(flags.map((flag) => [flag, evaluation(flag, object(member(results, flag) ?? null), around)]));
}

/** The answer where there is none. */
export function failed(flag, defaultValue, error) {
  const result = { value: defaultValue ?? null, enabled: false, reason: 'ERROR', error_code: 'GENERAL', error_message: error.message };
  return evaluation(flag, result, {});
}

export function boolean(evaluation) {
  if (typeof evaluation.value === 'boolean') return evaluation.value;
  throw new FlagstreamError('invalid_answer', `${evaluation.flag_name}: the value is not a boolean`, { status: 200 });
}

function evaluation(flag_name, result, around) {
  if (!('value' in result) || typeof result.enabled !== 'boolean' || typeof result.reason !== 'string') {
    throw invalid('value, enabled or reason is missing');
  }
  return Object.freeze({
    flag_name,
    value: result.value,
    enabled: result.enabled,
    variant: result.variant ?? null,
    reason: result.reason,
    error_code: result.error_code ?? null,
    error_message: result.error_message ?? null,
    flag_version: result.flag_version ?? null,
    environment: around.environment ?? null,
    flags_version: Number.isSafeInteger(around.flags_version) ? around.flags_version : 0,
  });
}

function object(value) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw invalid('expected a JSON object');
  return value;
}

function invalid(what) {
  return new FlagstreamError('invalid_answer', `unexpected response: ${what}`, { status: 200 });
}
