// Calls of the service: attempts under a deadline, with retries and a circuit breaker.
'use strict';

const { FlagstreamError, errorOf } = require('./errors.js');
const { MANY_PATH, ONE_PATH, bodyOfMany, bodyOfOne, encode, given, many, one } = require('./evaluation.js');
const { pause, post } = require('./http.js');

/** Evaluates over HTTP. */
class HttpTransport {
  #settings;
  #breaker;
  #closing;

  constructor(settings, breaker, closing) {
    this.#settings = settings;
    this.#breaker = breaker;
    this.#closing = closing;
  }

  async one(query, subject, options) {
    return one(await this.#exchange(ONE_PATH, bodyOfOne(query, subject), options));
  }

  async many(queries, subject, options) {
    const flags = queries.map(({ flag }) => flag);
    return many(await this.#exchange(MANY_PATH, bodyOfMany(queries, subject), options), flags);
  }

  /** Evaluates a flag of an experiment, whatever the cache has. */
  async expose(query, subject, options) {
    await this.one(query, subject, options);
  }

  /** Sends a conversion. */
  async convert({ experiment, environment, ...conversion }, options) {
    const path = `/api/v1/experiments/${encodeURIComponent(experiment)}/conversions${queryOf(environment)}`;
    await this.#exchange(path, conversion, options);
  }

  /** Sends a tracking event of OpenFeature. */
  async track(metric, { user_id: user, environment }, { metadata, ...own }, options) {
    const details = { ...given(own), ...metadata };
    const body = { trackingEventName: metric, context: given({ targetingKey: user }), trackingEventDetails: details };
    await this.#exchange(`/ofrep/v1/track${queryOf(environment)}`, body, options);
  }

  /**
   * Posts, until an attempt succeeds. `minVersion` is the version that the answer needs, and `newest` the newest announced
   * one: the first attempt waits for it, because an instance that does not have it yet would give an outdated answer. If that
   * takes too long, such an answer, which is not cached, is better than none.
   */
  async #exchange(path, body, { minVersion = 0, newest = 0, signal } = {}) {
    const encoded = encode(body);
    const { timeoutMs, maxRetries, now } = this.#settings;
    const deadline = now() + timeoutMs;
    const signals = [signal, this.#closing];
    for (let attempt = 0, wanted = Math.max(minVersion, newest); ; attempt += 1, wanted = minVersion) {
      try {
        return await this.#attempt(path, encoded, wanted, deadline - now(), signals);
      } catch (error) {
        const wait = this.#pause(attempt, error);
        if (!error.isPassing || attempt >= maxRetries || now() + wait >= deadline || this.#breaker.isOpen) throw error;
        await pause(wait, signals);
      }
    }
  }

  async #attempt(path, body, wanted, remainingMs, signals) {
    const { configServiceUrl, attemptTimeoutMs } = this.#settings;
    this.#breaker.enter();
    let reply;
    try {
      reply = await post(configServiceUrl + path, this.#headers(wanted), body, Math.min(attemptTimeoutMs, remainingMs), signals);
    } catch (error) {
      if (error.isPassing && !signals.some((signal) => signal?.aborted)) this.#breaker.failed();
      else this.#breaker.abandoned();
      throw error;
    }
    if (reply.status >= 500) this.#breaker.failed();
    else this.#breaker.succeeded();
    if (reply.status !== 200 && reply.status !== 202) throw errorOf(reply.status, reply.headers, reply.text);
    try {
      return JSON.parse(reply.text);
    } catch (cause) {
      throw new FlagstreamError('invalid_answer', `not JSON: ${cause.message}`, { status: reply.status, cause });
    }
  }

  #headers(wanted) {
    const { headers, traceparent } = this.#settings;
    return { ...headers, ...(wanted && { 'if-flags-version': String(wanted) }), ...given({ traceparent: traceparent?.() }) };
  }

  /** Exponential backoff with full jitter, so that clients don't come back together. */
  #pause(attempt, error) {
    const { backoffBaseMs, backoffCapMs } = this.#settings;
    return (error.retryAfterMs ?? 0) + Math.random() * Math.min(backoffCapMs, backoffBaseMs * 2 ** attempt);
  }
}

function queryOf(environment) {
  return environment == null ? '' : `?${new URLSearchParams({ environment })}`;
}

module.exports = { HttpTransport };
