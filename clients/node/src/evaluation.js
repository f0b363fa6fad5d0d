// Questions and answers as they cross the wire.
'use strict';

const { createHash } = require('node:crypto');

const { FlagstreamError } = require('./errors.js');

const ONE_PATH = '/api/v1/feature-flags/evaluate';
const MANY_PATH = '/api/v1/feature-flags/evaluate/bulk';

/** JSON without the members that are null; what is none (NaN, a cycle) is the caller's mistake. */
function encode(body) {
  try {
    return JSON.stringify(body, (_name, value) => {
      if (typeof value === 'number' && !Number.isFinite(value)) throw new TypeError(`${value}`);
      return value;
    });
  } catch (cause) {
    throw new FlagstreamError('invalid_request', `context, default or metadata: not JSON: ${cause.message}`, { cause });
  }
}

/** The members that say something. */
function given(members) {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined && value !== null));
}

/** Members of a tracking event's details that are not metadata of its conversions. */
const EVENT_MEMBERS = ['value', 'experiment', 'eventId', 'occurredAt'];

/** Checks metadata that a tracking event has among its own members. */
function checkEventMetadata(metadata) {
  if (metadata === undefined || metadata === null) return;
  if (typeof metadata !== 'object' || Array.isArray(metadata)) throw new FlagstreamError('invalid_request', 'metadata: expected an object');
  const taken = EVENT_MEMBERS.filter((name) => Object.hasOwn(metadata, name));
  if (taken.length > 0) throw new FlagstreamError('invalid_request', `metadata: not possible in a tracking event: ${taken.join(', ')}`);
}

/** What an object of the caller's says of a flag, whatever the flag's name. */
function member(values, flag) {
  return values && Object.hasOwn(values, flag) ? values[flag] : undefined;
}

/** Whom flags are evaluated for. */
function subjectOf(userId, { sessionId, context, environment } = {}, ownEnvironment = null) {
  return { user_id: userId, session_id: sessionId, context, environment: environment ?? ownEnvironment };
}

/** Whether a subject has neither session nor context. */
function isPlain({ session_id: session, context }) {
  return !session && (context == null || Object.keys(context).length === 0);
}

/** The body of a request for one flag. */
function bodyOfOne({ flag, defaultValue, valueType }, subject) {
  return { flag_name: flag, ...given({ ...subject, default_value: defaultValue, value_type: valueType }) };
}

/** The body of a request for many flags. */
function bodyOfMany(queries, subject) {
  const body = { flag_names: queries.map(({ flag }) => flag), ...given(subject) };
  for (const [name, what] of [['default_values', 'defaultValue'], ['value_types', 'valueType']]) {
    const asked = given(Object.fromEntries(queries.map((query) => [query.flag, query[what]])));
    if (Object.keys(asked).length > 0) body[name] = asked;
  }
  return body;
}

/** A text of one length that is the same for the same question. */
function keyOf({ flag, defaultValue, valueType }, { user_id, session_id, context, environment }) {
  const parts = [flag, defaultValue, valueType, user_id, session_id, context, environment].map((part) => part ?? null);
  return createHash('sha256').update(sorted(JSON.parse(encode(parts)))).digest('base64');
}

function sorted(value) {
  if (Array.isArray(value)) return `[${value.map(sorted)}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  return `{${Object.keys(value).sort().map((name) => `${JSON.stringify(name)}:${sorted(value[name])}`)}}`;
}

/** The answer for one flag. */
function one(answer) {
  const members = object(answer);
  return evaluation(String(members.flag_name), members, members);
}

/** The answers for these flags. */
function many(answer, flags) {
  const around = object(answer);
  const results = object(around.results);
  return new Map(flags.map((flag) => [flag, evaluation(flag, object(member(results, flag) ?? null), around)]));
}

/** The answer where there is none. */
function failed(flag, defaultValue, error) {
  const result = { value: defaultValue ?? null, enabled: false, reason: 'ERROR', error_code: 'GENERAL', error_message: error.message };
  return evaluation(flag, result, {});
}

/** The answer of a mock that has a value for the flag. */
function mocked(flag, value, environment = null, variant = null) {
  const isOn = value !== false;
  const result = { value, enabled: isOn, variant, reason: isOn ? 'TARGETING_MATCH' : 'DEFAULT', flag_version: 1 };
  return evaluation(flag, result, { environment, flags_version: 1 });
}

/** The answer of a mock that does not know the flag. */
function unknown(flag, defaultValue, environment = null) {
  const result = { value: defaultValue ?? null, enabled: false, reason: 'DEFAULT', error_code: 'FLAG_NOT_FOUND' };
  return evaluation(flag, { ...result, error_message: 'the mock has no flag of this name' }, { environment, flags_version: 1 });
}

function boolean(evaluation) {
  if (typeof evaluation.value === 'boolean') return evaluation.value;
  throw new FlagstreamError('invalid_answer', `${evaluation.flag_name}: the value is not a boolean`, { status: 200 });
}

/** The value of an evaluation that asked for the type of a default. */
function like({ flag_name: flag, value }, defaultValue) {
  const [got, wanted] = [typeOf(value), typeOf(defaultValue)];
  if (wanted === 'null' || got === wanted) return value;
  throw new FlagstreamError('invalid_answer', `${flag}: the value is of type ${got}, the default of type ${wanted}`, { status: 200 });
}

function typeOf(value) {
  if (value == null) return 'null';
  return Array.isArray(value) ? 'list' : typeof value;
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
    killed: result.killed === true,
    flag_version: result.flag_version ?? null,
    environment: around.environment ?? null,
    flags_version: Number.isSafeInteger(around.flags_version) ? around.flags_version : 0,
    cached: false,
  });
}

function object(value) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw invalid('expected a JSON object');
  return value;
}

function invalid(what) {
  return new FlagstreamError('invalid_answer', `unexpected response: ${what}`, { status: 200 });
}

module.exports = {
  EVENT_MEMBERS,
  ONE_PATH,
  MANY_PATH,
  bodyOfMany,
  bodyOfOne,
  boolean,
  checkEventMetadata,
  encode,
  failed,
  given,
  isPlain,
  keyOf,
  like,
  many,
  member,
  mocked,
  one,
  subjectOf,
  unknown,
};
