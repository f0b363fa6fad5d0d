// The circuit breaker: a service that fails again and again is left alone for a while.
'use strict';

const { FlagstreamError } = require('./errors.js');

/** Opens after so many failures in a row; after `recoveryTimeoutMs` it lets one attempt through, which decides. */
class Breaker {
  #threshold;
  #recoveryTimeoutMs;
  #now;
  #failures = 0;
  #opened = null;
  #probing = false;

  constructor(threshold, recoveryTimeoutMs, now) {
    this.#threshold = threshold;
    this.#recoveryTimeoutMs = recoveryTimeoutMs;
    this.#now = now;
  }

  get isOpen() {
    return this.#opened !== null;
  }

  /** Before an attempt. */
  enter() {
    if (!this.isOpen) return;
    if (this.#probing || this.#now() - this.#opened < this.#recoveryTimeoutMs) {
      throw new FlagstreamError('circuit_open', 'the service failed too often: not asked');
    }
    this.#probing = true;
  }

  succeeded() {
    this.#failures = 0;
    this.#opened = null;
    this.#probing = false;
  }

  failed() {
    this.#failures += 1;
    if (this.isOpen || this.#failures >= this.#threshold) this.#opened = this.#now();
    this.#probing = false;
  }

  /** An attempt was cancelled: it says nothing about the service. */
  abandoned() {
    this.#probing = false;
  }

  /** The service gave a sign of life: the next attempt goes through at once. */
  mayBeWell() {
    if (this.isOpen) this.#opened = this.#now() - this.#recoveryTimeoutMs;
  }
}

module.exports = { Breaker };
