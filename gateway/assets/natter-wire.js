// @ts-check
/**
 * The words of protocol v1 (PROTOCOL.md) as natter.js uses them: types, errors, positions, nonces, close codes.
 *
 * @typedef {string} Position  `<epoch>.<seq>`; of one group or one inbox, see {@link comparePositions}
 * @typedef {{id: string, handle: string, display_name: string}} User
 * @typedef {{group: string, id: string, sender: string, nonce: string, body: string, position: Position,
 *   sent_at: string, reply_to?: string, data?: any}} Message
 * @typedef {{id: string, group?: string, sender?: string, body: string, position: Position, sent_at: string,
 *   data?: any}} Notification
 * @typedef {{id: string, kind: "single"|"group"|"open", name?: string, display_name: string, role: string,
 *   position: Position, last_read?: Position, unread: number, unread_at: Position, recovered: boolean}} Group
 * @typedef {{group: string, change: "joined"|"left"|"member_added"|"member_removed"|"renamed", user?: string,
 *   position: Position, role?: string, kind?: string, name?: string, display_name?: string}} GroupChange
 * @typedef {{unseen: number, unread: number, version: Position}} Inbox
 * @typedef {{user: User, session: string, time: string, groups: Group[], more: boolean, inbox: Inbox,
 *   inbox_position: Position, inbox_recovered: boolean, ping_interval_ms: number, limits: Record<string, number>}} Ready
 * @typedef {{messages: Message[], more: boolean, position: Position}} Page
 * @typedef {"idle"|"connecting"|"ready"|"waiting"|"closed"} State
 * @typedef {{state: State, retryAt?: number, code?: number, reason?: string}} StateChange
 */

/**
 * Whether to reconnect after a close, by its code: at once, after a pause, or not before a person
 * has done something. A code that is not here, such as 1006, means later.
 * @type {Readonly<Record<number, "now"|"later"|"never">>}
 */
export const CLOSE_CODES = Object.freeze({
  1000: "never", 1001: "later", 1002: "never", 1007: "never", 1009: "never", 1012: "later", 1013: "later",
  4400: "never", 4401: "never", 4403: "never", 4408: "now", 4409: "never", 4410: "now", 4429: "later",
});

/** Why a request did not work. `retryable`: the same one may work later. */
export class RequestError extends Error {
  /** @param {string} code @param {string} message @param {boolean} retryable @param {number} [retryAfter] ms */
  constructor(code, message, retryable, retryAfter) {
    super(message);
    this.name = "RequestError";
    this.code = code;
    this.retryable = retryable;
    this.retryAfter = retryAfter;
  }
}

/** An event with what it tells. (Node 18 has no `CustomEvent`.) @template T */
export class Told extends Event {
  /** @param {string} type @param {T} detail */
  constructor(type, detail) {
    super(type);
    this.detail = detail;
  }
}

/**
 * Orders two positions: below, at or above zero.
 * @param {Position} a @param {Position} b @returns {number}
 */
export function comparePositions(a, b) {
  const [epochA, seqA] = a.split(".").map(Number);
  const [epochB, seqB] = b.split(".").map(Number);
  return epochA - epochB || seqA - seqB;
}

/** The later of two positions, either of which may not be there. @param {Position|undefined} a @param {Position|undefined} b */
export const furthest = (a, b) => (!a || (b && comparePositions(b, a) > 0) ? b : a);

/** A UUID of version 7 for a time in ms. @param {number} time @returns {string} */
export function uuidv7(time) {
  const bytes = new Uint8Array(16);
  if (globalThis.crypto?.getRandomValues) globalThis.crypto.getRandomValues(bytes);
  else for (let i = 0; i < 16; i += 1) bytes[i] = Math.floor(Math.random() * 256);
  for (let i = 0, rest = Math.floor(time); i < 6; i += 1, rest = Math.floor(rest / 256)) bytes[5 - i] = rest % 256;
  bytes[6] = 0x70 | (bytes[6] & 0x0f);
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/**
 * When a JWT expires, in ms; undefined where it does not say.
 * @param {string} token @returns {number|undefined}
 */
export function expiryOf(token) {
  try {
    const payload = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    const { exp } = JSON.parse(atob(payload));
    return typeof exp === "number" ? exp * 1000 : undefined;
  } catch {
    return undefined;
  }
}

