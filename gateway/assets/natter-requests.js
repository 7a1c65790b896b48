// @ts-check
/**
 * What natter.js asks the server: so much at once, no faster than it is taken, each answered or given up.
 *
 * @typedef {import("./natter-clock.js").Timers} Timers
 * @typedef {{id: number, text: string, bytes: number, resolve: (reply: any) => void, reject: (error: Error) => void}} Request
 */

import { RequestError } from "./natter-wire.js";

const MOST_UNDER_WAY = 32;
const MOST_WAITING = 256;
const REQUEST_TIMEOUT = 20_000;
/** So much of what `ready.limits` allows is made use of; pongs are not counted. */
const SHARE = 0.9;
/** What may go at once, in ms of the rate. */
const AT_ONCE = 250;

/** Frames as fast as the server takes them: who sends faster is closed with 4429. */
class Pace {
  #perFrame = 0;
  #perByte = 0;
  /** What has gone would have taken until then (ms). */ #until = 0;

  /** Begins anew, with the limits of `ready`; what they do not name is not limited. @param {Record<string, number>} limits */
  begin(limits) {
    this.#perFrame = 1000 / SHARE / (limits.frames_per_second ?? Infinity);
    this.#perByte = 1000 / SHARE / (limits.bytes_per_second ?? Infinity);
    this.#until = 0;
  }

  /** For how many ms the next frame has to wait. @param {number} now @returns {number} */
  wait(now) {
    return Math.max(0, this.#until - now);
  }

  /** A frame goes. @param {number} bytes @param {number} now */
  spend(bytes, now) {
    this.#until = Math.max(this.#until, now - AT_ONCE) + Math.max(this.#perFrame, bytes * this.#perByte);
  }
}

/** The requests of a client, over one connection after another. */
export class Requests {
  /** Transmits a text; undefined while there is no connection. @type {((text: string) => void)|undefined} */ #transmit = undefined;
  /** Of one frame; the server closes for good where one is larger. */ #mostBytes = Infinity;
  #pace = new Pace();
  #nextId = 1;
  /** @type {Map<number, {resolve: (reply: any) => void, reject: (error: Error) => void, timer: any}>} */ #underWay = new Map();
  /** Those that wait for their turn. @type {Request[]} */ #waiting = [];

  /** @param {Timers} timers those of the connection */
  constructor(timers) {
    this.timers = timers;
    this.clock = timers.clock;
  }

  /** A connection is ready. @param {Record<string, number>} limits those of `ready` @param {(text: string) => void} transmit */
  begin(limits, transmit) {
    this.#mostBytes = limits.frame_bytes ?? Infinity;
    this.#pace.begin(limits);
    this.#transmit = transmit;
  }

  /** It is lost, and what waited for it. */
  end() {
    this.#transmit = undefined;
    const requests = [...this.#underWay.values(), ...this.#waiting];
    this.#underWay.clear();
    this.#waiting = [];
    const away = new RequestError("disconnected", "the connection is lost", true);
    for (const request of requests) {
      if ("timer" in request) this.clock.clearTimeout(request.timer);
      request.reject(away);
    }
  }

  /** Sends a frame, and gives its `reply`. @param {any} frame @returns {Promise<any>} rejects with a {@link RequestError} */
  ask(frame) {
    if (!this.#transmit) return Promise.reject(new RequestError("disconnected", "not connected", true));
    return new Promise((resolve, reject) => {
      if (this.#waiting.length >= MOST_WAITING) return reject(new RequestError("busy", "too many requests wait", true));
      const id = this.#nextId;
      let text;
      try {
        text = JSON.stringify({ ...frame, id });
      } catch (error) {
        return reject(new RequestError("bad_request", `this cannot be written as JSON: ${error}`, false));
      }
      const bytes = new TextEncoder().encode(text).length;
      if (bytes > this.#mostBytes) return reject(new RequestError("too_large", "the message is too long", false));
      this.#nextId = id >= 2 ** 32 - 1 ? 1 : id + 1;
      this.#waiting.push({ id, text, bytes, resolve, reject });
      this.#askNext();
    });
  }

  /** Sends a frame that nothing answers, unless others wait for their turn. @param {any} frame */
  say(frame) {
    const now = this.clock.now();
    if (!this.#transmit || this.#waiting.length > 0 || this.#pace.wait(now) > 0) return;
    const text = JSON.stringify(frame);
    this.#pace.spend(new TextEncoder().encode(text).length, now);
    this.#transmit(text);
  }

  /** Sends those whose turn it is: so many are under way, and no faster than the server takes frames and bytes. */
  #askNext() {
    while (this.#waiting.length > 0 && this.#underWay.size < MOST_UNDER_WAY) {
      const wait = this.#pace.wait(this.clock.now());
      if (wait > 0) return this.timers.set("pace", wait, () => this.#askNext());
      const next = this.#waiting.shift();
      if (next) this.#askNow(next);
    }
  }

  /** @param {Request} request */
  #askNow({ id, text, bytes, resolve, reject }) {
    const late = () => this.#answered(id, (request) => request.reject(new RequestError("timeout", "no answer", true)));
    this.#underWay.set(id, { resolve, reject, timer: this.clock.setTimeout(late, REQUEST_TIMEOUT) });
    this.#pace.spend(bytes, this.clock.now());
    this.#transmit?.(text);
  }

  /** A `reply` came. @param {any} frame */
  answer(frame) {
    this.#answered(frame.id, (request) => request.resolve(frame));
  }

  /** An `error` came; false where no request waits for it. @param {number|undefined} id @param {RequestError} error */
  refuse(id, error) {
    return id !== undefined && this.#answered(id, (request) => request.reject(error));
  }

  /** @param {number} id @param {(request: {resolve: (reply: any) => void, reject: (error: Error) => void}) => void} end */
  #answered(id, end) {
    const request = this.#underWay.get(id);
    if (!request) return false;
    this.#underWay.delete(id);
    this.clock.clearTimeout(request.timer);
    end(request);
    this.#askNext();
    return true;
  }
}
