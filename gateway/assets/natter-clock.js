// @ts-check
/**
 * The clock of natter.js, and the timers that end with a connection.
 *
 * @typedef {{now(): number, date(): number, random(): number, setTimeout(run: () => void, ms: number): any,
 *   clearTimeout(timer: any): void}} Clock
 */

const LONGEST_TIMER = 2 ** 31 - 1;

/**
 * Somebody may set the date while a connection is on: times are measured by a clock that nobody sets. Where that one
 * stands still while a computer sleeps, nonces are a little old, which the server takes, and not one from ahead.
 * @type {Clock}
 */
export const REAL_CLOCK = {
  now: () => performance.now(),
  date: () => Date.now(),
  random: () => Math.random(),
  setTimeout: (run, ms) => globalThis.setTimeout(run, ms),
  clearTimeout: (timer) => globalThis.clearTimeout(timer),
};

/** Timers, one a name. */
export class Timers {
  /** @type {Map<string, any>} */ #set = new Map();

  /** @param {Clock} clock */
  constructor(clock) {
    this.clock = clock;
  }

  /** Sets a timer, in the place of one of that name. @param {string} name @param {number} ms @param {() => void} run */
  set(name, ms, run) {
    this.clock.clearTimeout(this.#set.get(name));
    this.#set.set(name, this.clock.setTimeout(() => {
      this.#set.delete(name);
      run();
    }, Math.min(Math.max(ms, 0), LONGEST_TIMER)));
  }

  /** @param {string} name */
  has(name) {
    return this.#set.has(name);
  }

  /** @param {string} name */
  clear(name) {
    this.clock.clearTimeout(this.#set.get(name));
    this.#set.delete(name);
  }

  clearAll() {
    for (const timer of this.#set.values()) this.clock.clearTimeout(timer);
    this.#set.clear();
  }
}
