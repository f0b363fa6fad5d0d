import { ConversionOptions, Flags, Json, User, Who, Widened } from './types.js';

/** Whom the flags of a request are evaluated for. */
export interface RequestSubject extends Pick<Who, 'sessionId' | 'context' | 'environment'> {
  userId?: User;
}
/** The part of Express's request that the default uses. */
export interface RequestLike {
  ip?: string | undefined;
  user?: unknown;
  sessionID?: string;
  get(name: string): any;
}

/** The calls of a client, for the user of a request. */
export class RequestFlags {
  constructor(flags: Flags, resolve: () => RequestSubject);
  readonly subject: RequestSubject;
  isEnabled(flagName: string, defaultValue?: boolean): Promise<boolean>;
  evaluateFlag<T extends Json>(flagName: string, defaultValue: T): Promise<Widened<T>>;
  batchEvaluate(flagNames: readonly string[], defaultValue?: boolean): Promise<{ [flag: string]: boolean }>;
  getVariant(flagName: string, defaultVariant: string): Promise<string>;
  trackExposure(flagName: string): Promise<boolean>;
  trackConversion(experiment: string, metric: string, details?: ConversionOptions): Promise<boolean>;
}

/** Gives each request the flags of its user, as `request.flags`. */
export function flagsMiddleware<R = any>(
  flags: Flags,
  options?: { resolve?: (request: R) => RequestSubject },
): (request: R, response: unknown, next: (error?: unknown) => void) => void;

/** The user of `request.user`, the session of `express-session`, `remoteAddress` and `userAgent`. */
export function subjectOfRequest(request: RequestLike): RequestSubject;

declare global {
  namespace Express {
    interface Request {
      flags: RequestFlags;
    }
  }
}
