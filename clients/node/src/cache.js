// Answers, until they are old or an invalidation overtakes them.

/** Beyond it an invalidation counts for all of them. */
const MAX_ENVIRONMENTS = 1_000;

/**
 * Bounded; what was used last stays.
 *
 * An answer carries the newest version that the service knew when it gave it (`flags_version`). An invalidation of any
 * flag of its environment with a higher version makes it old: flags depend on each other, and only the service knows
 * how. So an answer that was on its way meanwhile is not kept either.
 */
export class Cache {
  #entries = new Map();
  /** The newest version announced, by environment; under null that of all. */
  #announced = new Map();
  #maxEntries;
  #ttlMs;
  #now;

  constructor(maxEntries, ttlMs, now) {
    this.#maxEntries = maxEntries;
    this.#ttlMs = ttlMs;
    this.#now = now;
  }

  /** The newest version that was announced, or 0. */
  get newest() {
    return Math.max(0, ...this.#announced.values());
  }

  get(key) {
    const entry = this.#entries.get(key);
    if (!entry) return undefined;
    this.#entries.delete(key);
    if (this.#now() >= entry.until || !this.#isNew(entry.evaluation)) return undefined;
    this.#entries.set(key, entry);
    return entry.evaluation;
  }

  put(key, evaluation) {
    if (this.#maxEntries === 0 || evaluation.reason === 'ERROR' || !this.#isNew(evaluation)) return;
    this.#entries.delete(key);
    this.#entries.set(key, { evaluation, until: this.#now() + this.#ttlMs });
    if (this.#entries.size > this.#maxEntries) this.#entries.delete(this.#entries.keys().next().value);
  }

  invalidate(version, named) {
    const environment = this.#announced.has(named) || this.#announced.size < MAX_ENVIRONMENTS ? named : null;
    this.#announced.set(environment, Math.max(version, this.#announced.get(environment) ?? 0));
  }

  clear() {
    this.#entries.clear();
  }

  #isNew({ flags_version, environment }) {
    return flags_version >= Math.max(this.#announced.get(null) ?? 0, this.#announced.get(environment) ?? 0);
  }
}
