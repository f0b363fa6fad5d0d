// Values that tests set for every client of the process.
'use strict';

const { mocked } = require('./evaluation.js');

/** The overrides of each flag; the last one counts. */
const overrides = new Map();

/**
 * Gives a flag a value in all clients of the process, until the returned function is called. With a callback the value lasts
 * until the callback's promise settles, and the callback's result is returned.
 */
function mockFlag(flagName, value, callback) {
  const entry = { value };
  const stack = overrides.get(flagName) ?? [];
  overrides.set(flagName, [...stack, entry]);
  const restore = () => {
    const rest = (overrides.get(flagName) ?? []).filter((other) => other !== entry);
    if (rest.length > 0) overrides.set(flagName, rest);
    else overrides.delete(flagName);
  };
  // For `using`, where the language has it.
  if (Symbol.dispose) restore[Symbol.dispose] = restore;
  if (!callback) return restore;
  return (async () => {
    try {
      return await callback();
    } finally {
      restore();
    }
  })();
}

/** The answer to a question about a flag with an override, else `undefined`. */
function overridden({ flag }, { environment }) {
  const entry = overrides.size > 0 ? overrides.get(flag)?.at(-1) : undefined;
  return entry && mocked(flag, entry.value, environment);
}

module.exports = { mockFlag, overridden };
