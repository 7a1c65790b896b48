// @ts-check
/**
 * Natter's client for protocol v1 (PROTOCOL.md): a module without dependencies, for browsers and
 * for Node. It connects, stays connected, goes on where it was, and sends each message once.
 *
 *     const client = new Client({ url: "wss://chat.example/ws", token: () => fetchToken() });
 *     client.on("message", (message) => console.log(message.sender, message.body));
 *     client.connect();
 *     const sent = await client.send("lobby", "Hello").done;
 *
 * docs/client.md is its manual.
 *
 * @typedef {import("./natter-wire.js").Position} Position
 * @typedef {import("./natter-wire.js").User} User
 * @typedef {import("./natter-wire.js").Message} Message
 * @typedef {import("./natter-wire.js").Notification} Notification
 * @typedef {import("./natter-wire.js").Group} Group
 * @typedef {import("./natter-wire.js").GroupChange} GroupChange
 * @typedef {import("./natter-wire.js").Inbox} Inbox
 * @typedef {import("./natter-wire.js").Ready} Ready
 * @typedef {import("./natter-wire.js").Page} Page
 * @typedef {import("./natter-wire.js").State} State
 * @typedef {import("./natter-wire.js").StateChange} StateChange
 * @typedef {import("./natter-clock.js").Clock} Clock
 *
 * The events of {@link Client}, and what each tells:
 * @typedef {object} Events
 * @property {StateChange} state  the connection's state; `retryAt` (ms) while waiting, `code` and `reason` when closed
 * @property {Ready} ready  signed in, and live
 * @property {{groups: Group[], more: boolean}} groups  a page of the user's groups, those of `ready` first
 * @property {Message} message  a message of a group, once and in the group's order
 * @property {Notification} notification  a notification to this user or to a group of this user's
 * @property {GroupChange} group  a membership or name changed
 * @property {{group: string, user: string, position: Position}} read  this user has read up to here, maybe elsewhere
 * @property {{group: string, user: string}} typing  somebody is typing
 * @property {Inbox} inbox  the inbox's counts
 * @property {{group?: string, after?: Position, until?: Position}} gap  what came after `after` was not told (of the
 *   inbox, where there is no group): load it. {@link Timeline} does
 * @property {Outgoing} send  a message of one's own was accepted, or failed
 * @property {{code: string, message: string}} problem  the server said something was wrong
 */

import { CLOSE_CODES, RequestError, Told, comparePositions, expiryOf, uuidv7 } from "./natter-wire.js";
import { REAL_CLOCK, Timers } from "./natter-clock.js";
import { Outbox, Outgoing } from "./natter-outbox.js";
import { Positions } from "./natter-positions.js";
import { Requests } from "./natter-requests.js";
import { Timeline } from "./natter-timeline.js";

export { CLOSE_CODES, Outgoing, RequestError, Timeline, comparePositions, uuidv7 };

const SUBPROTOCOL = "natter.v1.json";
const READY_TIMEOUT = 15_000;
/** A connection that lasted so long starts the pauses anew. */
const STABLE = 10_000;
/** An error that no request waits for is the reason of a close that follows within so many ms. */
const AT_ONCE = 1_000;

/**
 * @typedef {object} Options
 * @property {string} url  the gateway's socket, `wss://<host>/ws`
 * @property {() => string|undefined|Promise<string|undefined>} [token]  gives a token, anew for each connection and
 *   before the last one expires; not needed where the page's cookie signs in
 * @property {any} [WebSocket]  the implementation; the platform's unless said (in Node before 22: the package `ws`)
 * @property {number} [firstPause]  the longest first pause before a reconnect, in ms (500)
 * @property {number} [longestPause]  the longest of all, in ms (30,000)
 * @property {number} [giveUp]  how long a message is tried again after the first refusal, in ms (60,000)
 * @property {number} [mostQueued]  how many messages may wait (500)
 * @property {Clock} [clock]  for tests
 */

/** A connection that is kept up. */
export class Client extends EventTarget {
  /** @type {State} */ #state = "idle";
  /** @type {any} */ #socket = null;
  /** Tells a connection's own callbacks from those of an older one. */ #generation = 0;
  #attempt = 0;
  #readyAt = 0;
  /** Not to reconnect before (ms). */ #notBefore = 0;
  #lastHeard = 0;
  /** An error that no request waits for. @type {{at: number, message: string}|undefined} */ #problem = undefined;
  /** Messages of one page of history at most. */ historyPage = Infinity;
  /** The server's time less the clock's, which begins anywhere. */ #offset;
  #timers;
  #requests;
  #outbox;
  #positions = new Positions((gap) => this.#tell("gap", gap));
  /** A token that was asked for. @type {{at: number, token: Promise<string|undefined>}|undefined} */ #token = undefined;

  /** @param {Options} options */
  constructor(options) {
    super();
    /** @type {Options & {firstPause: number, longestPause: number, giveUp: number, mostQueued: number}} */
    this.options = { firstPause: 500, longestPause: 30_000, giveUp: 60_000, mostQueued: 500, ...options };
    this.clock = options.clock ?? REAL_CLOCK;
    this.#timers = new Timers(this.clock);
    this.#requests = new Requests(this.#timers);
    this.#outbox = new Outbox(this, this.#timers, (item) => this.#tell("send", item));
    this.#offset = this.clock.date() - this.clock.now();
    /** Who is signed in; known from the first `ready` on. @type {User|undefined} */
    this.user = undefined;
  }

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /** The server's time, in ms. */
  get serverNow() {
    return this.clock.now() + this.#offset;
  }

  /**
   * Listens to an event; what it returns stops it again.
   * @template {keyof Events} K
   * @param {K} type @param {(detail: Events[K]) => void} listener @returns {() => void}
   */
  on(type, listener) {
    const run = (/** @type {any} */ event) => listener(event.detail);
    this.addEventListener(type, run);
    return () => this.removeEventListener(type, run);
  }

  /** @template {keyof Events} K @param {K} type @param {Events[K]} detail */
  #tell(type, detail) {
    this.dispatchEvent(new Told(type, detail));
  }

  // --- The connection ---

  /** Connects, and stays connected until {@link close} or a close that says never. */
  connect() {
    if (this.#state !== "idle" && this.#state !== "closed") return;
    this.#attempt = 0;
    this.#notBefore = 0;
    void this.#open();
  }

  /** While waiting to reconnect, or closed: does so now. */
  reconnect() {
    if (this.#state === "waiting" || this.#state === "closed") void this.#open();
  }

  /** Ends it. What was not accepted stays pending; {@link connect} goes on with it. */
  close() {
    this.#hangUp();
    // Who connects next may be somebody else.
    this.#token = undefined;
    if (this.#state !== "closed") this.#become({ state: "closed", code: 1000, reason: "" });
  }

  /** @param {StateChange} change */
  #become(change) {
    this.#state = change.state;
    this.#tell("state", change);
  }

  async #open() {
    this.#hangUp();
    const generation = this.#generation;
    this.#become({ state: "connecting" });
    const lost = (/** @type {number} */ code, /** @type {string} */ reason) => {
      if (generation === this.#generation) this.#lost(code, reason);
    };
    // A token may be long in coming, too.
    this.#timers.set("ready", READY_TIMEOUT, () => lost(1006, "no token"));
    /** @type {string|undefined} */
    let token;
    let socket;
    try {
      token = await this.#asked();
      if (generation !== this.#generation) return;
      const Socket = this.options.WebSocket ?? globalThis.WebSocket;
      socket = new Socket(this.options.url, [SUBPROTOCOL]);
    } catch (error) {
      return lost(1006, String(error));
    }
    this.#socket = socket;
    this.#timers.set("ready", READY_TIMEOUT, () => lost(1006, "no answer"));
    socket.onopen = () => {
      if (generation !== this.#generation) return;
      this.#transmit({ type: "connect", id: 0, token, resume: this.#positions.begin() });
    };
    socket.onmessage = (/** @type {any} */ event) => {
      if (generation === this.#generation) this.#receive(JSON.parse(event.data), token);
    };
    socket.onclose = (/** @type {any} */ event) => lost(event.code, event.reason);
    socket.onerror = () => {};
  }

  /** A token. One that is long in coming is for whichever attempt it comes in, unless that is too long. */
  #asked() {
    if (!this.#token || this.clock.now() - this.#token.at > this.options.giveUp) {
      const asked = { at: this.clock.now(), token: (async () => this.options.token?.())() };
      const forget = () => { if (this.#token === asked) this.#token = undefined; };
      asked.token.then(forget, forget);
      this.#token = asked;
    }
    return this.#token.token;
  }

  /** Lets go of the socket, whatever it still says, and of everything that waited for it. */
  #hangUp() {
    this.#generation += 1;
    const socket = this.#socket;
    this.#socket = null;
    this.#timers.clearAll();
    // A socket that is still connecting may close later.
    try { socket?.close(1000); } catch { /* it is gone anyway */ }
    this.#requests.end();
    this.#outbox.end();
  }

  /** @param {number} code @param {string} reason */
  #lost(code, reason) {
    const wasReady = this.#state === "ready";
    const said = this.#problem && this.clock.now() - this.#problem.at <= AT_ONCE ? this.#problem.message : "";
    this.#problem = undefined;
    if (wasReady && this.clock.now() - this.#readyAt >= STABLE) this.#attempt = 0;
    this.#hangUp();
    // A token that has expired is no reason to stop where a fresh one can be had.
    const renews = code === 4401 && wasReady && this.options.token !== undefined;
    const then = renews ? "now" : CLOSE_CODES[code] ?? "later";
    if (then === "never") {
      return this.#become({ state: "closed", code, reason: said || reason });
    }
    // Full jitter: a restart must not bring everybody back at the same moment.
    const longest = then === "now" && this.#attempt === 0 ? 0 : this.options.firstPause * 2 ** Math.min(this.#attempt, 16);
    this.#attempt += 1;
    const pause = this.clock.random() * Math.min(longest, this.options.longestPause);
    const wait = Math.max(pause, this.#notBefore - this.clock.now());
    this.#timers.set("retry", wait, () => void this.#open());
    this.#become({ state: "waiting", retryAt: this.clock.date() + wait, code, reason: said || reason });
  }

  /** A dead network says nothing: silence of twice the heartbeat is the end. @param {number} most */
  #watch(most) {
    this.#timers.set("silence", this.#lastHeard + most - this.clock.now(), () => {
      if (this.clock.now() - this.#lastHeard >= most) this.#lost(4410, "no heartbeat");
      else this.#watch(most);
    });
  }

  /** @param {any} frame */
  #transmit(frame) {
    this.#socket?.send(JSON.stringify(frame));
  }

  // --- What the server says ---

  /** @param {any} frame @param {string|undefined} token */
  #receive(frame, token) {
    this.#lastHeard = this.clock.now();
    switch (frame.type) {
      case "ping": return this.#transmit({ type: "pong" });
      case "ready": return this.#onReady(frame, token);
      case "groups": return this.#onGroups(frame);
      case "reply": return this.#requests.answer(frame);
      case "error": return this.#onError(frame);
      case "message": return this.#onMessage(frame);
      case "notification": return this.#onNotification(frame);
      case "group": return this.#onGroup(frame);
      case "reset": return this.#tell("gap", { group: frame.group, after: this.#positions.last(frame.group) });
      case "time": this.#offset = Date.parse(frame.time) - this.clock.now(); return;
      case "draining": return this.#onDraining(frame);
      case "read": case "typing": case "inbox": return this.#tell(frame.type, frame);
      default: // Later releases may say more.
    }
  }

  /** @param {any} frame @param {string|undefined} token */
  #onReady(frame, token) {
    if (this.user && this.user.id !== frame.user.id) return this.#becomeUser(frame.user);
    this.#timers.clear("ready");
    this.#readyAt = this.clock.now();
    this.#notBefore = 0;
    this.#offset = Date.parse(frame.time) - this.clock.now();
    this.historyPage = frame.limits?.history ?? Infinity;
    this.#requests.begin(frame.limits ?? {}, (text) => this.#socket?.send(text));
    this.user = frame.user;
    this.#watch(2 * frame.ping_interval_ms);
    if (token) this.#refreshBefore(expiryOf(token));
    const missed = this.#positions.beginInbox(frame.inbox_position, frame.inbox_recovered);
    this.#become({ state: "ready" });
    this.#tell("ready", { ...frame, groups: this.#positions.current(frame.groups) });
    this.#onGroups(frame);
    if (missed) this.#tell("gap", {});
    this.#tell("inbox", frame.inbox);
    this.#outbox.begin();
  }

  /**
   * Begins anew as somebody else: nothing is sent in their name that the former user wrote, and what that one had heard says
   * nothing of what they have. @param {User} user
   */
  #becomeUser(user) {
    this.user = user;
    this.#outbox.fail(new RequestError("unauthorized", "somebody else has signed in", false));
    this.#positions.clear();
    this.#lost(4410, "another user");
  }

  /** @param {{groups: Group[], more: boolean}} frame */
  #onGroups(frame) {
    const { groups, gaps } = this.#positions.list(frame.groups);
    this.#tell("groups", { groups, more: frame.more });
    for (const gap of gaps) this.#tell("gap", gap);
  }

  /** @param {Message} message */
  #onMessage(message) {
    if (message.sender === this.user?.id) this.#outbox.cameBack(message);
    if (this.#positions.advance(message.group, message.position)) this.#tell("message", message);
  }

  /** @param {Notification} notification */
  #onNotification(notification) {
    const { group, position } = notification;
    const isNew = group ? this.#positions.advance(group, position) : this.#positions.advanceInbox(position);
    if (isNew) this.#tell("notification", notification);
  }

  /** @param {GroupChange} change */
  #onGroup(change) {
    const { group, position } = change;
    if (change.change !== "left") this.#positions.advance(group, position, change.change === "joined");
    else if (!this.#positions.end(group, position)) return;
    this.#tell("group", change);
  }

  /** Goes elsewhere when told to, and hears what comes until then. @param {{retry_after_ms: number}} frame */
  #onDraining(frame) {
    this.#notBefore = this.clock.now() + frame.retry_after_ms;
    this.#timers.set("draining", frame.retry_after_ms, () => {
      this.#attempt = 0;
      this.#lost(4410, "draining");
    });
  }

  /** @param {any} frame */
  #onError(frame) {
    const error = new RequestError(frame.code, frame.message, frame.retryable, frame.retry_after_ms);
    if (this.#requests.refuse(frame.id, error)) return;
    this.#problem = { at: this.clock.now(), message: frame.message };
    if (frame.retry_after_ms) this.#notBefore = this.clock.now() + frame.retry_after_ms;
    this.#tell("problem", { code: frame.code, message: frame.message });
  }

  // --- Requests ---

  /**
   * Sends a frame that is answered, and gives the `reply`.
   * @param {any} frame @returns {Promise<any>} rejects with a {@link RequestError}
   */
  request(frame) {
    return this.#requests.ask(frame);
  }

  /** Joins an open group, for good. @param {string} group name or id @returns {Promise<Group>} */
  async join(group) {
    const { group: joined } = await this.request({ type: "join", group });
    this.#positions.advance(joined.id, joined.position, true);
    return joined;
  }

  /** Leaves a group, for good. @param {string} group */
  async leave(group) {
    await this.request({ type: "leave", group });
  }

  /**
   * A page of a group's messages, in their order: the newest, or those before or after a position.
   * @param {string} group @param {{before?: Position, after?: Position, limit?: number}} [what] @returns {Promise<Page>}
   */
  async history(group, what = {}) {
    return this.request({ type: "history", group, ...what });
  }

  /** Says how far this user has read. @param {string} group @param {Position} position */
  async read(group, position) {
    await this.request({ type: "read", group, position });
  }

  /**
   * Marks notifications seen, or more. `upto` leaves out those to groups.
   * @param {({ids: string[]}|{upto: Position}) & {mark?: "seen"|"read"|"archived"}} what
   */
  async seen(what) {
    await this.request({ type: "seen", ...what });
  }

  /**
   * Notifies a user or a group. Call it again with the `nonce` of the first call to try again.
   * @param {{user: string}|{group: string}} to @param {string} body @param {{data?: any, nonce?: string}} [more]
   * @returns {Promise<{notification_id: string, position: Position}>}
   */
  async notify(to, body, more = {}) {
    return this.request({ type: "notify", to, body, data: more.data, nonce: more.nonce ?? uuidv7(this.serverNow) });
  }

  /** Says that this user is typing; not where other frames wait for their turn. @param {string} group */
  typing(group) {
    this.#requests.say({ type: "typing", group });
  }

  /** @param {number|undefined} expiry */
  #refreshBefore(expiry) {
    if (expiry === undefined || !this.options.token) return;
    const rest = expiry - this.serverNow;
    this.#timers.set("refresh", rest - Math.min(60_000, rest / 5), () => void this.#refresh());
  }

  async #refresh() {
    try {
      const token = await this.options.token?.();
      if (!token) return;
      await this.request({ type: "refresh", token });
      this.#refreshBefore(expiryOf(token));
    } catch {
      // Again while there is time; else the server closes, and the next connection has a fresh one.
      if (this.#state === "ready") this.#timers.set("refresh", 5_000, () => void this.#refresh());
    }
  }

  // --- Messages of one's own ---

  /**
   * Sends a message, now or when connected; of a group one after another, so that their order holds. Throws a
   * {@link RequestError} `queue_full` where {@link Options} `mostQueued` wait already.
   * @param {string} group @param {string} body @param {{replyTo?: string, data?: any}} [more] @returns {Outgoing}
   */
  send(group, body, more = {}) {
    return this.#outbox.send(group, body, more);
  }

  /** Tries a failed message again, under its nonce: there will be one message. @param {Outgoing} item @returns {Outgoing} */
  retry(item) {
    return this.#outbox.retry(item);
  }

  // --- History and the live edge ---

  /** From where on everything of a group is delivered; undefined while it is not. @param {string} group */
  liveFrom(group) {
    return this.#positions.liveFrom(group);
  }

  /** The last position that was told of a group. @param {string} group */
  lastHeard(group) {
    return this.#positions.last(group);
  }

  /** A group's messages, from history and live, without a seam. @param {string} group id @param {{page?: number}} [options] */
  timeline(group, options) {
    return new Timeline(this, group, options);
  }
}

