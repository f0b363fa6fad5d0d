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
  /** It may be different the next time. */
  readonly isPassing: boolean;
}

/** What the service says of one flag, as it writes it. */
export interface Evaluation<T extends Json = Json> {
  readonly flag_name: string;
  readonly value: T;
  /** Whether the flag is on for this context, whatever its type. */
  readonly enabled: boolean;
  readonly variant: string | null;
  /** OpenFeature's: `TARGETING_MATCH`, `DEFAULT`, `DISABLED`, `ERROR`. */
  readonly reason: string;
  readonly error_code: string | null;
  readonly error_message: string | null;
  readonly flag_version: number | null;
  readonly environment: string | null;
  /** The newest change that the answer knows of. */
  readonly flags_version: number;
}

export interface Options {
  configServiceUrl: string;
  /** Default: the service's. */
  environment?: string;
  /** An API token (`fst_…`). */
  token?: string;
  /** For a call with all its attempts: 5,000. */
  timeoutMs?: number;
  /** For one attempt: 3,000. More than the 2 s that the service may wait for a version. */
  attemptTimeoutMs?: number;
  /** After a passing failure: 2. */
  maxRetries?: number;
  /** The first wait is a random part of it, each next of twice as much: 100. */
  backoffBaseMs?: number;
  /** No wait is longer: 2,000. */
  backoffCapMs?: number;
  /** Failed attempts in a row that open the circuit: 5. */
  failureThreshold?: number;
  /** How long it stays open: 60,000. */
  recoveryTimeoutMs?: number;
  /** Keep answers here: false. */
  cache?: boolean;
  /** How long, in seconds: 300. */
  cacheTtl?: number;
  /** 10,000. */
  cacheMaxEntries?: number;
  /** Listen to `/api/v1/changes`, so that what is kept is never older than a change heard of. Implies `cache`; needs the scope `read`. */
  followChanges?: boolean;
  /** Told of each failure that a default hides. By default it is written to the console. */
  onError?: (error: FlagstreamError, flags: string) => void;
  /** Told, once for each environment and code, that the service answers with defaults because of an error. By default it is written to the console. */
  onWarning?: (message: string) => void;
}

export interface Who {
  sessionId?: string;
  context?: { [name: string]: Json };
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
type User = string | number | null | undefined;
/** `false` is a boolean flag's default, not its only value. */
type Widened<T> = T extends boolean ? boolean : T extends number ? number : T extends string ? string : T;

/**
 * Make one, share it, close it. `isEnabled`, `evaluateFlag`, `batchEvaluate` and `bulkEvaluateFlags` always answer: with the
 * default if the service does not. `evaluate` and `evaluateMany` reject with a `FlagstreamError` instead.
 */
export class FeatureFlagsClient {
  constructor(options: Options);
  isEnabled(flagName: string, userId?: User, defaultValue?: boolean, options?: Who): Promise<boolean>;
  /** The value, of the type of `defaultValue` (or `valueType`). */
  evaluateFlag<T extends Json>(flagName: string, userId: User, defaultValue: T, options?: OneOptions): Promise<Widened<T>>;
  /** Many flags at once, as booleans. */
  batchEvaluate(flagNames: readonly string[], userId?: User, defaultValue?: boolean, options?: Who): Promise<{ [flag: string]: boolean }>;
  /** Many flags at once; `ERROR` is the reason where the default stands in. */
  bulkEvaluateFlags(flagNames: readonly string[], userId?: User, options?: ManyOptions): Promise<{ [flag: string]: Evaluation }>;
  evaluate<T extends Json>(flagName: string, userId?: User, defaultValue?: T, options?: OneOptions & Version): Promise<Evaluation<Widened<T>>>;
  evaluateMany(flagNames: readonly string[], userId?: User, options?: ManyOptions & Version): Promise<{ [flag: string]: Evaluation }>;
  /** Answers that don't know of this version are kept no longer (of all environments, if none is named). */
  invalidate(version: number, environment?: string | null): void;
  /** The same, with a message of `feature-flag-updates`; whether it was understood. */
  applyInvalidation(message: string | Uint8Array): boolean;
  clearCache(): void;
  /** Whether changes are heard of right now. */
  readonly isFollowing: boolean;
  waitUntilFollowing(signal?: AbortSignal): Promise<void>;
  /** Calls under way end, those with a default with it. */
  close(): Promise<void>;
}
export default FeatureFlagsClient;

/** For tests of services: says what it was told, asks nobody. */
export class MockFeatureFlagsClient
  implements Pick<FeatureFlagsClient, 'isEnabled' | 'evaluateFlag' | 'batchEvaluate' | 'bulkEvaluateFlags' | 'evaluate' | 'evaluateMany' | 'close'>
{
  constructor(flags?: { [flag: string]: Json });
  flags: { [flag: string]: Json };
  /** Every flag and user asked for, in order. */
  readonly asked: readonly [string, User][];
  isEnabled: FeatureFlagsClient['isEnabled'];
  evaluateFlag: FeatureFlagsClient['evaluateFlag'];
  batchEvaluate: FeatureFlagsClient['batchEvaluate'];
  bulkEvaluateFlags: FeatureFlagsClient['bulkEvaluateFlags'];
  evaluate: FeatureFlagsClient['evaluate'];
  evaluateMany: FeatureFlagsClient['evaluateMany'];
  close(): Promise<void>;
}
