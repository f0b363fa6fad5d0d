import type { EvaluationContext, EvaluationDetails, FlagValue, Hook, HookContext, JsonValue, OpenFeatureEventEmitter, Provider, ResolutionDetails, TrackingEventDetails } from '@openfeature/server-sdk';
import { Flags } from './types.js';

/** OpenFeature's provider for flagstream, which sends the requested type. */
export class FlagstreamProvider implements Provider {
  /** A client over HTTP or Kafka, or a mock; the provider closes it when it is closed. */
  constructor(flags: Flags);
  readonly metadata: { readonly name: 'flagstream' };
  readonly runsOn: 'server';
  readonly events: OpenFeatureEventEmitter;
  initialize(): Promise<void>;
  onClose(): Promise<void>;
  resolveBooleanEvaluation(flagKey: string, defaultValue: boolean, context: EvaluationContext): Promise<ResolutionDetails<boolean>>;
  resolveStringEvaluation(flagKey: string, defaultValue: string, context: EvaluationContext): Promise<ResolutionDetails<string>>;
  resolveNumberEvaluation(flagKey: string, defaultValue: number, context: EvaluationContext): Promise<ResolutionDetails<number>>;
  resolveObjectEvaluation<T extends JsonValue>(flagKey: string, defaultValue: T, context: EvaluationContext): Promise<ResolutionDetails<T>>;
  track(trackingEventName: string, context: EvaluationContext, details: TrackingEventDetails): void;
}

/** Adds each evaluation to the current span of OpenTelemetry. */
export class TelemetryHook implements Hook {
  finally(hookContext: Readonly<HookContext<FlagValue>>, evaluationDetails: EvaluationDetails<FlagValue>): void;
  /** The W3C `traceparent` of the current span, for the option `traceparent` of the clients. */
  static traceparent(): string | null;
}
