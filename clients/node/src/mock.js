// A client for tests of services: says what it was told, asks nobody.

/** `new MockFeatureFlagsClient({ new_ui: true, theme: 'dark' })`; `flags` may be changed at any time. */
export class MockFeatureFlagsClient {
  constructor(flags = {}) {
    this.flags = { ...flags };
    /** Every `[flag, user]` asked for, in order. */
    this.asked = [];
  }

  async isEnabled(flagName, userId, defaultValue = false) {
    return Boolean(this.#say(flagName, userId, defaultValue).value);
  }

  async evaluateFlag(flagName, userId, defaultValue = null) {
    return this.#say(flagName, userId, defaultValue).value;
  }

  async batchEvaluate(flagNames, userId, defaultValue = false) {
    return Object.fromEntries(flagNames.map((flag) => [flag, Boolean(this.#say(flag, userId, defaultValue).value)]));
  }

  async bulkEvaluateFlags(flagNames, userId, { defaultValues = {} } = {}) {
    return Object.fromEntries(flagNames.map((flag) => [flag, this.#say(flag, userId, defaultValues[flag])]));
  }

  async evaluate(flagName, userId, defaultValue = null) {
    return this.#say(flagName, userId, defaultValue);
  }

  async evaluateMany(flagNames, userId, options) {
    return this.bulkEvaluateFlags(flagNames, userId, options);
  }

  async close() {}

  #say(flag, userId, defaultValue = null) {
    this.asked.push([flag, userId]);
    const isKnown = Object.hasOwn(this.flags, flag);
    const value = isKnown ? this.flags[flag] : defaultValue;
    return {
      flag_name: flag,
      value,
      enabled: isKnown && value !== false,
      variant: null,
      reason: isKnown ? 'TARGETING_MATCH' : 'DEFAULT',
      error_code: isKnown ? null : 'FLAG_NOT_FOUND',
      error_message: null,
      flag_version: null,
      environment: null,
      flags_version: 0,
    };
  }
}
