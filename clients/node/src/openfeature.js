// OpenFeature with flagstream: a provider, and a hook for OpenTelemetry.
'use strict';

const { ErrorCode, OpenFeatureEventEmitter, ProviderEvents, StandardResolutionReasons, createEvaluationEvent } = require('@openfeature/server-sdk');

const { FlagstreamError } = require('./errors.js');
const { EVENT_MEMBERS } = require('./evaluation.js');

/**
 * OpenFeature's provider for flagstream. Unlike OFREP it sends the requested type, so that a text `"5"` is a number where a
 * number is asked for. Caching is that of the client; with `followChanges` each change becomes the event
 * `PROVIDER_CONFIGURATION_CHANGED`, and the provider is stale while changes do not arrive.
 *
 * The targeting key is the user; `session_id` in the context is the session. A tracking event counts as a conversion in each
 * running experiment that has a metric of its name, or only in that of its detail `experiment`. Its other details are the
 * metadata of the conversion, except for `value`, `eventId` and `occurredAt`.
 */
class FlagstreamProvider {
  #flags;
  #subscriptions = [];
  metadata = Object.freeze({ name: 'flagstream' });
  runsOn = 'server';
  events = new OpenFeatureEventEmitter();

  /** `flags` is a client over HTTP or Kafka, or a mock; the provider closes it when it is closed. */
  constructor(flags) {
    this.#flags = flags;
  }

  async initialize() {
    if (this.#subscriptions.length > 0) return;
    this.#subscriptions = [
      this.#flags.onChange((change) => this.#changed(change)),
      this.#flags.onFollowing((isFollowing) => this.#following(isFollowing)),
    ];
  }

  async onClose() {
    this.#subscriptions.splice(0).forEach((end) => end());
    await this.#flags.close();
  }

  resolveBooleanEvaluation(flagKey, defaultValue, context) {
    return this.#resolve(flagKey, 'boolean', defaultValue, context, (value) => typeof value === 'boolean');
  }

  resolveStringEvaluation(flagKey, defaultValue, context) {
    return this.#resolve(flagKey, 'string', defaultValue, context, (value) => typeof value === 'string');
  }

  resolveNumberEvaluation(flagKey, defaultValue, context) {
    return this.#resolve(flagKey, 'number', defaultValue, context, (value) => typeof value === 'number');
  }

  resolveObjectEvaluation(flagKey, defaultValue, context) {
    return this.#resolve(flagKey, 'object', defaultValue, context, (value) => value !== null && typeof value === 'object');
  }

  track(trackingEventName, context, details = {}) {
    const { value, experiment, eventId } = details;
    const others = Object.entries(details).filter(([name]) => !EVENT_MEMBERS.includes(name));
    const metadata = others.length > 0 ? Object.fromEntries(others) : undefined;
    const { userId, options } = asked(context);
    // Failures are reported by the client.
    if (typeof experiment === 'string') this.#flags.trackConversion(experiment, userId, trackingEventName, { ...options, value, eventId, metadata });
    else this.#flags.track(trackingEventName, userId, value, { ...options, eventId, metadata });
  }

  async #resolve(flagKey, valueType, defaultValue, context, fits) {
    const { userId, options } = asked(context);
    let answer;
    try {
      answer = await this.#flags.evaluate(flagKey, userId, defaultValue, { ...options, valueType });
    } catch (error) {
      if (!(error instanceof FlagstreamError)) throw error;
      return failed(defaultValue, error.kind === 'invalid_request' ? ErrorCode.INVALID_CONTEXT : ErrorCode.GENERAL, error.message);
    }
    if (answer.error_code !== null) return failed(defaultValue, ErrorCode[answer.error_code] ?? ErrorCode.GENERAL, answer.error_message);
    const hasValue = answer.value !== null;
    if (hasValue && !fits(answer.value)) {
      return failed(defaultValue, ErrorCode.TYPE_MISMATCH, `${flagKey}: ${JSON.stringify(answer.value)} is not of type ${valueType}`);
    }
    const flagMetadata = { enabled: answer.enabled, flagsVersion: answer.flags_version };
    if (answer.flag_version !== null) flagMetadata.version = answer.flag_version;
    const reason = answer.cached ? StandardResolutionReasons.CACHED : answer.reason;
    return { value: hasValue ? answer.value : defaultValue, variant: answer.variant ?? undefined, reason, flagMetadata };
  }

  #changed({ event_type: message, flag_name: flag, version }) {
    const flagsChanged = flag === null ? [] : [flag];
    this.events.emit(ProviderEvents.ConfigurationChanged, { flagsChanged, message, metadata: { version } });
  }

  #following(isFollowing) {
    if (isFollowing) this.events.emit(ProviderEvents.Ready, { message: 'changes arrive' });
    else this.events.emit(ProviderEvents.Stale, { message: 'changes do not arrive: cached answers may be outdated' });
  }
}

/**
 * Adds each evaluation to the current span of OpenTelemetry, as an event with the names of its semantic conventions
 * (`feature_flag.key`, `feature_flag.result.variant`, …). It needs the package `@opentelemetry/api`.
 */
class TelemetryHook {
  #trace = openTelemetry().trace;

  finally(hookContext, evaluationDetails) {
    const span = this.#trace.getActiveSpan();
    if (!span?.isRecording()) return;
    const { name, attributes } = createEvaluationEvent(hookContext, evaluationDetails);
    const isAttribute = ([, value]) => ['string', 'number', 'boolean'].includes(typeof value);
    span.addEvent(name, Object.fromEntries(Object.entries(attributes).filter(isAttribute)));
  }

  /**
   * The W3C `traceparent` of the current span, for the option `traceparent` of the clients: then events in Kafka carry the
   * trace of the call. `null` without a span.
   */
  static traceparent() {
    const { trace, isSpanContextValid } = openTelemetry();
    const span = trace.getActiveSpan()?.spanContext();
    if (!span || !isSpanContextValid(span)) return null;
    return `00-${span.traceId}-${span.spanId}-${span.traceFlags.toString(16).padStart(2, '0')}`;
  }
}

function openTelemetry() {
  return require('@opentelemetry/api');
}

function asked(context) {
  const { targetingKey, ...rest } = context ?? {};
  return { userId: targetingKey || undefined, options: Object.keys(rest).length > 0 ? { context: rest } : {} };
}

function failed(value, errorCode, errorMessage) {
  return { value, reason: StandardResolutionReasons.ERROR, errorCode, errorMessage: errorMessage ?? undefined };
}

module.exports = { FlagstreamProvider, TelemetryHook };
