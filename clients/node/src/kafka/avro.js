// Messages in Avro, with schemas of a registry.
'use strict';

const { readFileSync } = require('node:fs');
const { join } = require('node:path');

const { FlagstreamError } = require('../errors.js');
const { encode } = require('../evaluation.js');
const { JSON_FORMAT } = require('./format.js');

const MAGIC = 0;
const HEADER_BYTES = 5;
const REGISTRY_TIMEOUT_MS = 10_000;
const FILES = { EvaluationRequest: 'evaluation-request.avsc', Conversion: 'conversion.avsc' };

/**
 * Avro in Confluent's wire format: a zero byte, the schema's id, the message. Requests and conversions are written in Avro;
 * what is read may be in Avro or in JSON. It needs the package `avsc`.
 */
class AvroFormat {
  #registry;
  #subjectOf;
  #avsc = require('avsc');
  /** Promises of the id of each subject, and of each schema by id. */
  #ids = new Map();
  #schemas = new Map();
  /** The schemas of the messages that are written, by record. */
  #own = new Map();

  /** `subjectOf(topic, recordName)` names the subject of a schema; by default `{topic}-value`. */
  constructor(registryUrl, { subjectOf = (topic) => `${topic}-value` } = {}) {
    this.#registry = registryUrl.replace(/\/+$/, '');
    this.#subjectOf = subjectOf;
  }

  async encode(topic, record, body) {
    const { schema, type } = this.#ownSchema(record);
    const subject = this.#subjectOf(topic, `${schema.namespace}.${schema.name}`);
    const id = await cached(this.#ids, subject, () => this.#register(subject, schema));
    const members = Object.fromEntries(schema.fields.map((field) => [field.name, written(field, body[field.name])]));
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt32BE(id, 1);
    try {
      return Buffer.concat([header, type.toBuffer(members)]);
    } catch (cause) {
      throw new FlagstreamError('invalid_request', `cannot be written in Avro: ${cause.message}`, { cause });
    }
  }

  async decode(message) {
    if (message.length < HEADER_BYTES || message[0] !== MAGIC) return JSON_FORMAT.decode(message);
    const bytes = Buffer.from(message);
    const { type, schema } = await cached(this.#schemas, bytes.readUInt32BE(1), async (id) => this.#schema(id));
    return read(schema, type.fromBuffer(bytes.subarray(HEADER_BYTES)), new Map());
  }

  async #register(subject, schema) {
    const body = JSON.stringify({ schema: JSON.stringify(schema) });
    const { id } = await this.#call(`/subjects/${encodeURIComponent(subject)}/versions`, { method: 'POST', body });
    return id;
  }

  async #schema(id) {
    return this.#parsed((await this.#call(`/schemas/ids/${id}`)).schema);
  }

  #ownSchema(record) {
    if (!this.#own.has(record)) this.#own.set(record, this.#parsed(readFileSync(join(__dirname, FILES[record]), 'utf8')));
    return this.#own.get(record);
  }

  #parsed(text) {
    const schema = JSON.parse(text);
    return { schema, type: this.#avsc.Type.forSchema(schema, { wrapUnions: 'never' }) };
  }

  async #call(path, options) {
    const failed = (why, cause) => new FlagstreamError('unavailable', `schema registry ${this.#registry}${path}: ${why}`, { cause });
    const headers = { 'content-type': 'application/vnd.schemaregistry.v1+json' };
    let response;
    try {
      response = await fetch(this.#registry + path, { headers, signal: AbortSignal.timeout(REGISTRY_TIMEOUT_MS), ...options });
    } catch (cause) {
      throw failed(cause.cause?.message ?? cause.message, cause);
    }
    if (response.status !== 200) throw failed(`status ${response.status}: ${await response.text()}`);
    return response.json();
  }
}

/** One lookup for all that need it at the same time; a failed one is made again by the next. */
function cached(promises, key, look) {
  if (!promises.has(key)) {
    const found = look(key);
    promises.set(key, found);
    found.catch(() => promises.delete(key));
  }
  return promises.get(key);
}

/** The value of a field that is written. Fields with the attribute `json` hold JSON text. */
function written({ type, json, default: otherwise }, value) {
  if (value === undefined || value === null) return otherwise;
  if (json && isOf(type, 'map')) return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, encode(member)]));
  if (json) return encode(value);
  if (isOf(type, 'long') && typeof value === 'string') return Date.parse(value) * 1_000;
  return isOf(type, 'string') ? String(value) : value;
}

function isOf(type, name) {
  return [type].flat().some((one) => one === name || one.type === name);
}

/** A value that was read, with the fields of the attribute `json` as values. `named` has the records that occurred before. */
function read(schema, value, named) {
  if (value === null) return null;
  if (Array.isArray(schema)) return read(schema.find((one) => one !== 'null'), value, named);
  const type = named.get(schema) ?? schema;
  if (type.type === 'map') return mapped(value, (member) => read(type.values, member, named));
  if (type.type === 'array') return value.map((member) => read(type.items, member, named));
  if (type.type !== 'record') return value;
  named.set(type.name, type);
  const field = ({ name, type: of, json }) => [name, json ? parsed(value[name]) : read(of, value[name], named)];
  return Object.fromEntries(type.fields.map(field));
}

/** The value of a field with the attribute `json`: JSON text, or a map of such texts. */
function parsed(value) {
  if (value === null) return null;
  return typeof value === 'string' ? JSON.parse(value) : mapped(value, (text) => JSON.parse(text));
}

function mapped(value, change) {
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, change(member)]));
}

module.exports = { AvroFormat };
