// Which versions were announced: by environment, and by flag.
'use strict';

/** Changes of further environments count for all environments. */
const MAX_ENVIRONMENTS_COUNT = 1_000;
/** Changes of further flags count for all flags of their environment. */
const MAX_FLAGS_COUNT = 10_000;
const ALL = '';

/**
 * The newest announced versions.
 *
 * An answer of the service carries the newest version that it knew, so it is compared with all changes of its environment:
 * flags depend on each other, and only the service knows how. A value that flagstream wrote to Redis carries the version of
 * its flag, and a second one only if it depends on others.
 */
class Announcements {
  #byEnvironment = new Map();
  #ofAnyFlag = new Map();
  #byFlag = new Map();

  /** Records a change. */
  add({ version, environment: named, flag_name: flag }) {
    const environment = this.#known(named);
    raise(this.#byEnvironment, environment, version);
    const key = flag == null ? null : JSON.stringify([environment, flag]);
    if (key !== null && (this.#byFlag.has(key) || this.#byFlag.size < MAX_FLAGS_COUNT)) raise(this.#byFlag, key, version);
    else raise(this.#ofAnyFlag, environment, version);
  }

  /** Records where a stream of changes begins: earlier ones were not announced to this client. */
  begin(version) {
    raise(this.#byEnvironment, ALL, version);
  }

  /** The newest announced version of all environments, or 0. */
  get newest() {
    return Math.max(0, ...this.#byEnvironment.values());
  }

  /** The newest announced version of an environment, or 0. */
  of(environment) {
    return Math.max(at(this.#byEnvironment, ALL), at(this.#byEnvironment, environment ?? ALL));
  }

  /** The newest announced version of a flag that depends on no other, or 0. */
  ofFlag(environment, flag) {
    const own = [ALL, environment].map((named) => at(this.#byFlag, JSON.stringify([named, flag])));
    return Math.max(at(this.#ofAnyFlag, ALL), at(this.#ofAnyFlag, environment), ...own);
  }

  #known(environment) {
    if (environment == null) return ALL;
    return this.#byEnvironment.has(environment) || this.#byEnvironment.size < MAX_ENVIRONMENTS_COUNT ? environment : ALL;
  }
}

function raise(versions, key, version) {
  versions.set(key, Math.max(version, at(versions, key)));
}

function at(versions, key) {
  return versions.get(key) ?? 0;
}

module.exports = { Announcements };
