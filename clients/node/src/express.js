// Flags of the current request, in Express.
'use strict';

/**
 * Gives each request the flags of its user, as `request.flags`. Whom a call is for is determined when it is made, so the
 * middleware may stand before those that authenticate.
 *
 * `resolve(request)` returns `{ userId, sessionId, context, environment }`, which replaces the default below.
 */
function flagsMiddleware(flags, { resolve = subjectOfRequest } = {}) {
  return (request, _response, next) => {
    request.flags = new RequestFlags(flags, () => resolve(request));
    next();
  };
}

/**
 * The user is `request.user` (its `id`, `sub` or `username`, as authentication middleware sets it), the session that of
 * `express-session`, and the context has `remoteAddress` and `userAgent`.
 */
function subjectOfRequest(request) {
  const { user } = request;
  const userId = user !== null && typeof user === 'object' ? (user.id ?? user.sub ?? user.username) : user;
  const context = {};
  if (request.ip) context.remoteAddress = request.ip;
  const userAgent = request.get('user-agent');
  if (userAgent) context.userAgent = userAgent;
  return { userId, sessionId: request.sessionID, context };
}

/** The calls of a client, for the user of a request. */
class RequestFlags {
  #flags;
  #resolve;

  constructor(flags, resolve) {
    this.#flags = flags;
    this.#resolve = resolve;
  }

  /** Whom flags are evaluated for. */
  get subject() {
    return this.#resolve();
  }

  isEnabled(flagName, defaultValue = false) {
    return this.#call((userId, options) => this.#flags.isEnabled(flagName, userId, defaultValue, options));
  }

  evaluateFlag(flagName, defaultValue = null) {
    return this.#call((userId, options) => this.#flags.evaluateFlag(flagName, userId, defaultValue, options));
  }

  batchEvaluate(flagNames, defaultValue = false) {
    return this.#call((userId, options) => this.#flags.batchEvaluate(flagNames, userId, defaultValue, options));
  }

  getVariant(flagName, defaultVariant) {
    return this.#call((userId, options) => this.#flags.getVariant(flagName, userId, defaultVariant, options));
  }

  trackExposure(flagName) {
    return this.#call((userId, options) => this.#flags.trackExposure(flagName, userId, options));
  }

  trackConversion(experiment, metric, details = {}) {
    return this.#call((userId, { environment }) =>
      this.#flags.trackConversion(experiment, userId, metric, { environment, ...details }));
  }

  #call(make) {
    const { userId, ...options } = this.#resolve();
    return make(userId, options);
  }
}

module.exports = { RequestFlags, flagsMiddleware, subjectOfRequest };
