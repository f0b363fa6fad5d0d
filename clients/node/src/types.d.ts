export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
export type ValueType = 'boolean' | 'string' | 'integer' | 'float' | 'number' | 'object';
/** What went wrong; the README has the table. */
export type Kind =
  | 'connection_failed'
  | 'timed_out'
  | 'circuit_open'
  | 'invalid_request'
  | 'unauthorized'
  | 'forbidden'
  | 'not_found'
  | 'rate_limited'
  | 'unavailable'
  | 'invalid_answer';

export class FlagstreamError extends Error {
  readonly kind: Kind;
  /** The HTTP status; `null` where there was no answer. */
  readonly status: number | null;
  readonly detail: string;
  /** What is wrong with which field of the request. */
  readonly errors: readonly { readonly field: string; readonly message: string }[];
  readonly retryAfterMs: number | null;
  /** Whether a retry may succeed. */
  readonly isPassing: boolean;
}

/** The service's answer about one flag, with the service's names. */
export interface Evaluation<T extends Json = Json> {
  readonly flag_name: string;
  readonly value: T;
  /** Whether the flag is on for this context, whatever its type. */
  readonly enabled: boolean;
  readonly variant: string | null;
  /** OpenFeature's: `TARGETING_MATCH`, `DEFAULT`, `DISABLED`, `ERROR`; `CACHED` for a boolean from Redis. */
  readonly reason: string;
  readonly error_code: string | null;
  readonly error_message: string | null;
  /** Whether the flag is off because of its kill switch. */
  readonly killed: boolean;
  readonly flag_version: number | null;
  readonly environment: string | null;
  /** The newest version that the answer is based on. */
  readonly flags_version: number;
  /** Whether the answer comes from a cache of the client: then it is no event. */
  readonly cached: boolean;
}

/** A change of flags that was announced. */
export interface FlagChange {
  /** `FEATURE_FLAG_CREATED`, `…_UPDATED`, `…_DELETED`, or `RESET`: any flag may have changed. */
  readonly event_type: string;
  /** `null` if any flag may have changed. */
  readonly flag_name: string | null;
  /** `null` for all environments. */
  readonly environment: string | null;
  readonly version: number;
}

/** A client of the package `ioredis` or `redis`; the caller opens and closes it. */
export type RedisClient = IoRedisLike | NodeRedisLike | RedisStore;
export interface IoRedisLike {
  get(key: string): Promise<unknown>;
  eval(script: string, numkeys: number, ...args: any[]): Promise<unknown>;
  defineCommand: unknown;
}
export interface NodeRedisLike {
  get(key: string): Promise<unknown>;
  eval(script: string, options: { keys: string[]; arguments: string[] }): Promise<unknown>;
  mGet: unknown;
}
/** The commands that a cache uses, for other clients of Redis. */
export interface RedisStore {
  get(keys: string[]): Promise<(string | null)[]>;
  /** Sets the key unless its value begins with a higher version, in one atomic step. */
  setIfNewer(key: string, version: number, ttlMs: number, value: string): Promise<unknown>;
}

/** Options of all clients. */
export interface CommonOptions {
  /** Of all calls that name none. Default: `ENVIRONMENT`, else the service's. */
  environment?: string | null;
  /** For a call with all its attempts: 5,000. */
  timeoutMs?: number;
  /** Failed attempts in a row that open the circuit breaker: 5. */
  failureThreshold?: number;
  /** How long it stays open: 60,000. */
  recoveryTimeoutMs?: number;
  /** Where answers are cached. Default: in Redis if `redis` is set, in memory if `cacheTtl` or `followChanges` is, else nowhere. */
  cache?: boolean | 'none' | 'memory' | 'redis' | 'hybrid';
  /** How long, in seconds: 300. With `hybrid` in Redis. */
  cacheTtl?: number;
  /** How long in memory with `hybrid`, in seconds: 60. */
  localTtl?: number;
  /** Answers in memory: 10,000. */
  cacheMaxEntries?: number;
  /** For a cache of booleans that services in all languages share. */
  redis?: RedisClient | null;
  /** Receive changes, so that a cached answer is never older than a change received. */
  followChanges?: boolean;
  /** Returns the W3C `traceparent` of the current call, which events carry. */
  traceparent?: (() => string | null | undefined) | null;
  /** Receives each failure that a default hides. By default it is written to the console. */
  onError?: (error: FlagstreamError, flags: string) => void;
  /** Called once for each environment and code when the service answers with defaults because of an error. By default it is written to the console. */
  onWarning?: (message: string) => void;
}

export interface Options extends CommonOptions {
  /** Default: `CONFIG_SERVICE_URL`. */
  configServiceUrl?: string;
  /** An API token (`fst_…`). */
  token?: string | null;
  /** For one attempt: 3,000. More than the 2 s that the service may wait for a version. */
  attemptTimeoutMs?: number;
  /** After a passing failure: 2. */
  maxRetries?: number;
  /** The first wait is a random part of it, each next of twice as much: 100. */
  backoffBaseMs?: number;
  /** No wait is longer: 2,000. */
  backoffCapMs?: number;
}

export interface Who {
  sessionId?: string;
  context?: { [name: string]: Json | undefined };
  environment?: string;
  /** Ends the call, which then rejects with the signal's reason. */
  signal?: AbortSignal;
}
export interface OneOptions extends Who {
  valueType?: ValueType;
}
export interface ManyOptions extends Who {
  defaultValues?: { [flag: string]: Json };
  valueTypes?: { [flag: string]: ValueType };
}
export interface Version {
  /** Waits until this version is in force. */
  minVersion?: number;
}
export interface TrackOptions {
  environment?: string;
  /** A conversion with the id of an earlier one is not counted again. Default: a random one. */
  eventId?: string;
  /**
   * Further properties, which are kept with the conversion and can be dimensions of the experiment's results. `track` refuses
   * the members `value`, `experiment`, `eventId` and `occurredAt`, which are the event's own.
   */
  metadata?: { [name: string]: Json | undefined };
  signal?: AbortSignal;
}
export interface ConversionOptions extends TrackOptions {
  /** Required by a mean. */
  value?: number;
  /** Default: now. */
  occurredAt?: Date | string;
}
export type User = string | number | null | undefined;
/** `false` is a boolean flag's default, not its only value. */
export type Widened<T> = T extends boolean ? boolean : T extends number ? number : T extends string ? string : T;

/**
 * The calls of every client. `isEnabled`, `evaluateFlag`, `batchEvaluate`, `bulkEvaluateFlags` and `getVariant` always return
 * a value: the default if the service does not answer. `evaluate` and `evaluateMany` reject with a `FlagstreamError` instead.
 */
export abstract class Flags {
  isEnabled(flagName: string, userId?: User, defaultValue?: boolean, options?: Who): Promise<boolean>;
  /** The value, of the type of `defaultValue` (or `valueType`). */
  evaluateFlag<T extends Json>(flagName: string, userId: User, defaultValue: T, options?: OneOptions): Promise<Widened<T>>;
  /** Many flags at once, as booleans. */
  batchEvaluate(flagNames: readonly string[], userId?: User, defaultValue?: boolean, options?: Who): Promise<{ [flag: string]: boolean }>;
  /** Many flags at once; the reason is `ERROR` where the service did not answer. */
  bulkEvaluateFlags(flagNames: readonly string[], userId?: User, options?: ManyOptions): Promise<{ [flag: string]: Evaluation }>;
  /** The variant of a flag or an experiment. */
  getVariant(flagName: string, userId: User, defaultVariant: string, options?: Who): Promise<string>;
  evaluate<T extends Json>(flagName: string, userId?: User, defaultValue?: T, options?: OneOptions & Version): Promise<Evaluation<Widened<T>>>;
  evaluateMany(flagNames: readonly string[], userId?: User, options?: ManyOptions & Version): Promise<{ [flag: string]: Evaluation }>;
  /** Evaluates a flag of an experiment without the cache. Each user counts once. Returns whether it was accepted; failures go to `onError`. */
  trackExposure(flagName: string, userId: User, options?: Who): Promise<boolean>;
  /** Reports a conversion. Returns whether it was accepted; failures go to `onError`. */
  trackConversion(experiment: string, userId: User, metric: string, options?: ConversionOptions): Promise<boolean>;
  /** Reports a metric for every running experiment that has it (experimental; over HTTP only). */
  track(metric: string, userId: User, value?: number, options?: TrackOptions): Promise<boolean>;
  /** Calls the listener with each change; the returned function ends it. */
  onChange(listener: (change: FlagChange) => void): () => void;
  /** Calls the listener when changes begin or cease to arrive; the returned function ends it. */
  onFollowing(listener: (isFollowing: boolean) => void): () => void;
  /** Makes cached answers older than this version unusable (of all environments, if none is named). */
  invalidate(version: number, environment?: string | null): void;
  /** The same, with a message of `feature-flag-updates` (JSON, or its decoded members); returns whether it was understood. */
  applyInvalidation(message: string | Uint8Array | { version: number; [name: string]: unknown }): boolean;
  /** Drops all answers that are cached in memory. */
  clearCache(): void;
  /** Whether changes arrive. */
  readonly isFollowing: boolean;
  waitUntilFollowing(signal?: AbortSignal): Promise<void>;
  /** Ends all calls, those with a default with it. */
  close(): Promise<void>;
}

/** Evaluates flags over HTTP. Create one client for the whole process, and close it. */
export class FeatureFlagsClient extends Flags {
  constructor(options?: Options);
}

/** Answers with the values that a test sets, and needs no server. */
export class MockFeatureFlagsClient extends Flags {
  constructor(flags?: { [flag: string]: Json });
  flags: { [flag: string]: Json };
  variants: { [flag: string]: string };
  /** Every flag and user that was asked for, in order. */
  readonly asked: [string, User][];
  readonly exposures: [string, User][];
  /** As they would be sent to the service. */
  readonly conversions: { [name: string]: Json }[];
  readonly tracked: { metric: string; userId: User; value?: number; eventId: string; metadata?: { [name: string]: Json | undefined } }[];
  readonly requests: [string[], User][];
  /** Sets a flag, and reports the change to the listeners. */
  set(flagName: string, value: Json): void;
  setVariant(flagName: string, variant: string): void;
  remove(flagName: string): void;
  setFollowing(isFollowing: boolean): void;
  request(flagNames: string | readonly string[], userId?: User, options?: ManyOptions): Promise<string>;
  waitUntilReady(): Promise<void>;
  readonly lateReplies: number;
  readonly pendingRequests: number;
}

/** Gives a flag a value in all clients of the process, until the returned function is called. */
export function mockFlag(flagName: string, value: Json): () => void;
/** Gives a flag a value in all clients of the process while `callback` runs, and returns its result. */
export function mockFlag<T>(flagName: string, value: Json, callback: () => T | Promise<T>): Promise<T>;
