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

import { CLOSE_CODES, Outgoing, Pace, RequestError, Told, comparePositions, expiryOf, uuidv7 } from "./natter-wire.js";
import { Timeline } from "./natter-timeline.js";

export { CLOSE_CODES, Outgoing, RequestError, Timeline, comparePositions, uuidv7 };

const SUBPROTOCOL = "natter.v1.json";
const MOST_REQUESTS = 32;
/** So many memberships that ended are remembered. */
const MOST_ENDED = 100;
const MOST_WAITING = 256;
const REQUEST_TIMEOUT = 20_000;
const READY_TIMEOUT = 15_000;
/** A connection that lasted so long starts the pauses anew. */
const STABLE = 10_000;
const LONGEST_TIMER = 2 ** 31 - 1;
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
 * @typedef {{now(): number, date(): number, random(): number, setTimeout(run: () => void, ms: number): any,
 *   clearTimeout(timer: any): void}} Clock
 */

/**
 * Somebody may set the date while a connection is on: times are measured by a clock that nobody sets. Where that one
 * stands still while a computer sleeps, nonces are a little old, which the server takes, and not one from ahead.
 * @type {Clock}
 */
const REAL_CLOCK = {
  now: () => performance.now(),
  date: () => Date.now(),
  random: () => Math.random(),
  setTimeout: (run, ms) => globalThis.setTimeout(run, ms),
  clearTimeout: (timer) => globalThis.clearTimeout(timer),
};

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
  /** Of one frame; the server closes for good where one is larger. */ #mostBytes = Infinity;
  /** The server's time less the clock's, which begins anywhere. */ #offset;
  #pace = new Pace();
  #nextId = 1;
  /** @type {Map<string, any>} */ #timers = new Map();
  /** @type {Map<number, {resolve: (reply: any) => void, reject: (error: Error) => void, timer: any}>} */ #requests = new Map();
  /** Requests that wait for their turn. @type {{id: number, text: string, bytes: number, resolve: any, reject: any}[]} */ #waiting = [];
  /** By group, in order; the first is on its way. @type {Map<string, Outgoing[]>} */ #outbox = new Map();
  /** @type {Set<Outgoing>} */ #transmitted = new Set();
  /** The last position heard of each group. @type {Map<string, Position>} */ #positions = new Map();
  /** Where the last memberships that ended did: a gateway that is behind may not know it yet. @type {Map<string, Position>} */ #ended = new Map();
  /** From where on delivery of each group is without a gap. @type {Map<string, Position>} */ #liveFrom = new Map();
  /** What this connection was asked to go on from. @type {Map<string, Position>} */ #resumed = new Map();
  /** Groups that this connection has listed, or told something of. @type {Set<string>} */ #heard = new Set();
  /** @type {Position|undefined} */ #inboxPosition = undefined;
  /** A token that was asked for. @type {{at: number, token: Promise<string|undefined>}|undefined} */ #token = undefined;

  /** @param {Options} options */
  constructor(options) {
    super();
    /** @type {Options & {firstPause: number, longestPause: number, giveUp: number, mostQueued: number}} */
    this.options = { firstPause: 500, longestPause: 30_000, giveUp: 60_000, mostQueued: 500, ...options };
    this.clock = options.clock ?? REAL_CLOCK;
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
    this.#timer("ready", READY_TIMEOUT, () => lost(1006, "no token"));
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
    this.#timer("ready", READY_TIMEOUT, () => lost(1006, "no answer"));
    socket.onopen = () => {
      if (generation !== this.#generation) return;
      this.#resumed = new Map(this.#positions);
      this.#heard.clear();
      /** @type {any} */
      const resume = { groups: Object.fromEntries([...this.#ended, ...this.#positions]) };
      if (this.#inboxPosition) resume.inbox = this.#inboxPosition;
      this.#transmit({ type: "connect", id: 0, token, resume });
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
    for (const timer of this.#timers.values()) this.clock.clearTimeout(timer);
    this.#timers.clear();
    // A socket that is still connecting may close later.
    try { socket?.close(1000); } catch { /* it is gone anyway */ }
    const away = new RequestError("disconnected", "the connection is lost", true);
    const requests = [...this.#requests.values(), ...this.#waiting];
    this.#requests.clear();
    this.#waiting = [];
    this.#transmitted.clear();
    for (const request of requests) {
      if ("timer" in request) this.clock.clearTimeout(request.timer);
      request.reject(away);
    }
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
    this.#timer("retry", wait, () => void this.#open());
    this.#become({ state: "waiting", retryAt: this.clock.date() + wait, code, reason: said || reason });
  }

  /** One timer a name. @param {string} name @param {number} ms @param {() => void} run */
  #timer(name, ms, run) {
    this.clock.clearTimeout(this.#timers.get(name));
    this.#timers.set(name, this.clock.setTimeout(() => {
      this.#timers.delete(name);
      run();
    }, Math.min(Math.max(ms, 0), LONGEST_TIMER)));
  }

  /** A dead network says nothing: silence of twice the heartbeat is the end. @param {number} most */
  #watch(most) {
    this.#timer("silence", this.#lastHeard + most - this.clock.now(), () => {
      if (this.clock.now() - this.#lastHeard >= most) this.#lost(4410, "no heartbeat");
      else this.#watch(most);
    });
  }

  // --- What the server says ---

  /** @param {any} frame @param {string|undefined} token */
  #receive(frame, token) {
    this.#lastHeard = this.clock.now();
    switch (frame.type) {
      case "ping": return this.#transmit({ type: "pong" });
      case "ready": return this.#onReady(frame, token);
      case "groups": return this.#onGroups(frame);
      case "reply": return this.#answered(frame.id, (request) => request.resolve(frame));
      case "error": return this.#onError(frame);
      case "message": return this.#onMessage(frame);
      case "notification": return this.#onNotification(frame);
      case "group": return this.#onGroup(frame);
      case "reset": return this.#tell("gap", { group: frame.group, after: this.#positions.get(frame.group) });
      case "draining": return this.#onDraining(frame);
      case "read": case "typing": case "inbox": return this.#tell(frame.type, frame);
      default: // Later releases may say more.
    }
  }

  /** @param {any} frame @param {string|undefined} token */
  #onReady(frame, token) {
    if (this.user && this.user.id !== frame.user.id) return this.#becomeUser(frame.user);
    this.clock.clearTimeout(this.#timers.get("ready"));
    this.#timers.delete("ready");
    this.#readyAt = this.clock.now();
    this.#notBefore = 0;
    this.#offset = Date.parse(frame.time) - this.clock.now();
    this.#mostBytes = frame.limits?.frame_bytes ?? Infinity;
    this.historyPage = frame.limits?.history ?? Infinity;
    this.#pace.begin(frame.limits ?? {});
    this.user = frame.user;
    this.#watch(2 * frame.ping_interval_ms);
    if (token) this.#refreshBefore(expiryOf(token));
    const missed = this.#inboxPosition !== undefined && !frame.inbox_recovered;
    // Of a resumed inbox the missed ones follow, each with its position.
    if (!this.#inboxPosition || missed) this.#inboxPosition = frame.inbox_position;
    this.#become({ state: "ready" });
    this.#tell("ready", { ...frame, groups: this.#current(frame.groups) });
    this.#onGroups(frame);
    if (missed) this.#tell("gap", {});
    this.#tell("inbox", frame.inbox);
    for (const group of this.#outbox.keys()) this.#pump(group);
  }

  /**
   * Begins anew as somebody else: nothing is sent in their name that the former user wrote, and what that one had heard says
   * nothing of what they have. @param {User} user
   */
  #becomeUser(user) {
    this.user = user;
    for (const item of [...this.#outbox.values()].flat()) {
      item.error = new RequestError("unauthorized", "somebody else has signed in", false);
      this.#settle(item, "failed");
    }
    this.#positions.clear();
    this.#ended.clear();
    this.#liveFrom.clear();
    this.#inboxPosition = undefined;
    this.#lost(4410, "another user");
  }

  /** Without those that one has left, as a gateway that is behind does not know yet. @param {Group[]} groups */
  #current(groups) {
    return groups.filter((group) => !(group.recovered && this.#ended.has(group.id)));
  }

  /** @param {{groups: Group[], more: boolean}} frame */
  #onGroups(frame) {
    const gaps = [];
    const groups = this.#current(frame.groups);
    for (const group of groups) {
      if (group.recovered) continue;
      const heard = this.#heard.has(group.id) ? this.#positions.get(group.id) : undefined;
      const after = this.#resumed.get(group.id) ?? this.#ended.get(group.id);
      this.#ended.delete(group.id);
      // Of a group of a later page more may have been told already.
      if (!heard || comparePositions(heard, group.position) < 0) this.#positions.set(group.id, group.position);
      this.#liveFrom.set(group.id, group.position);
      if (after) gaps.push({ group: group.id, after, until: group.position });
    }
    for (const { id } of frame.groups) this.#heard.add(id);
    this.#tell("groups", { groups, more: frame.more });
    for (const gap of gaps) this.#tell("gap", gap);
  }

  /**
   * Remembers a group's position; false if it was there before. Of what lies between two memberships nothing is told.
   * @param {string} group @param {Position} position @param {boolean} [begins]  where a membership begins
   */
  #advance(group, position, begins = false) {
    const told = this.#positions.get(group);
    const last = told ?? this.#ended.get(group);
    const ahead = last ? comparePositions(position, last) : 1;
    // In an installation that has lost its data positions are smaller than before: of a group that was not listed what comes first holds.
    const isAnew = ahead < 0 && !this.#heard.has(group);
    if (ahead <= 0 && !isAnew) return false;
    this.#ended.delete(group);
    this.#heard.add(group);
    this.#positions.set(group, position);
    if (begins || isAnew || !this.#liveFrom.has(group)) this.#liveFrom.set(group, position);
    if (last && (begins || isAnew || !told)) this.#tell("gap", { group, after: last, until: position });
    return true;
  }

  /** @param {Message} message */
  #onMessage(message) {
    if (message.sender === this.user?.id) this.#ownCameBack(message);
    if (this.#advance(message.group, message.position)) this.#tell("message", message);
  }

  /** @param {Notification} notification */
  #onNotification(notification) {
    if (notification.group) {
      if (!this.#advance(notification.group, notification.position)) return;
    } else {
      if (this.#inboxPosition && comparePositions(notification.position, this.#inboxPosition) <= 0) return;
      this.#inboxPosition = notification.position;
    }
    this.#tell("notification", notification);
  }

  /** @param {GroupChange} change */
  #onGroup(change) {
    const { group, position } = change;
    if (change.change === "left") {
      const ended = this.#ended.get(group);
      if (ended && comparePositions(position, ended) <= 0) return;
      this.#ended.delete(group);
      this.#ended.set(group, position);
      if (this.#ended.size > MOST_ENDED) this.#ended.delete(this.#ended.keys().next().value ?? "");
      this.#positions.delete(group);
      this.#liveFrom.delete(group);
    } else {
      this.#advance(group, position, change.change === "joined");
    }
    this.#tell("group", change);
  }

  /** Goes elsewhere when told to, and hears what comes until then. @param {{retry_after_ms: number}} frame */
  #onDraining(frame) {
    this.#notBefore = this.clock.now() + frame.retry_after_ms;
    this.#timer("draining", frame.retry_after_ms, () => {
      this.#attempt = 0;
      this.#lost(4410, "draining");
    });
  }

  /** @param {any} frame */
  #onError(frame) {
    const error = new RequestError(frame.code, frame.message, frame.retryable, frame.retry_after_ms);
    if (frame.id !== undefined && this.#requests.has(frame.id)) return this.#answered(frame.id, (request) => request.reject(error));
    this.#problem = { at: this.clock.now(), message: frame.message };
    if (frame.retry_after_ms) this.#notBefore = this.clock.now() + frame.retry_after_ms;
    this.#tell("problem", { code: frame.code, message: frame.message });
  }

  // --- Requests ---

  /** @param {any} frame */
  #transmit(frame) {
    this.#socket?.send(JSON.stringify(frame));
  }

  /**
   * Sends a frame that is answered, and gives the `reply`.
   * @param {any} frame @returns {Promise<any>} rejects with a {@link RequestError}
   */
  request(frame) {
    if (this.#state !== "ready") return Promise.reject(new RequestError("disconnected", "not connected", true));
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

  /** Sends the requests whose turn it is: so many are under way, and no faster than the server takes frames and bytes. */
  #askNext() {
    while (this.#waiting.length > 0 && this.#requests.size < MOST_REQUESTS) {
      const wait = this.#pace.wait(this.clock.now());
      if (wait > 0) return this.#timer("pace", wait, () => this.#askNext());
      const next = this.#waiting.shift();
      if (next) this.#ask(next);
    }
  }

  /** @param {{id: number, text: string, bytes: number, resolve: any, reject: any}} request */
  #ask({ id, text, bytes, resolve, reject }) {
    const late = () => this.#answered(id, (request) => request.reject(new RequestError("timeout", "no answer", true)));
    this.#requests.set(id, { resolve, reject, timer: this.clock.setTimeout(late, REQUEST_TIMEOUT) });
    this.#pace.spend(bytes, this.clock.now());
    this.#socket?.send(text);
  }

  /** @param {number} id @param {(request: {resolve: (reply: any) => void, reject: (error: Error) => void}) => void} end */
  #answered(id, end) {
    const request = this.#requests.get(id);
    if (!request) return;
    this.#requests.delete(id);
    this.clock.clearTimeout(request.timer);
    end(request);
    this.#askNext();
  }

  /** Joins an open group, for good. @param {string} group name or id @returns {Promise<Group>} */
  async join(group) {
    const { group: joined } = await this.request({ type: "join", group });
    this.#advance(joined.id, joined.position, true);
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

  /** Marks notifications seen. @param {{ids: string[]}|{upto: Position}} what */
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
    const now = this.clock.now();
    if (this.#state !== "ready" || this.#waiting.length > 0 || this.#pace.wait(now) > 0) return;
    const text = JSON.stringify({ type: "typing", group });
    this.#pace.spend(new TextEncoder().encode(text).length, now);
    this.#socket?.send(text);
  }

  /** @param {number|undefined} expiry */
  #refreshBefore(expiry) {
    if (expiry === undefined || !this.options.token) return;
    const rest = expiry - this.serverNow;
    this.#timer("refresh", rest - Math.min(60_000, rest / 5), () => void this.#refresh());
  }

  async #refresh() {
    try {
      const token = await this.options.token?.();
      if (!token) return;
      await this.request({ type: "refresh", token });
      this.#refreshBefore(expiryOf(token));
    } catch {
      // Again while there is time; else the server closes, and the next connection has a fresh one.
      if (this.#state === "ready") this.#timer("refresh", 5_000, () => void this.#refresh());
    }
  }

  // --- Messages of one's own ---

  /**
   * Sends a message, now or when connected; of a group one after another, so that their order holds. Throws a
   * {@link RequestError} `queue_full` where {@link Options} `mostQueued` wait already.
   * @param {string} group @param {string} body @param {{replyTo?: string, data?: any}} [more] @returns {Outgoing}
   */
  send(group, body, more = {}) {
    const queued = [...this.#outbox.values()].reduce((sum, queue) => sum + queue.length, 0);
    if (queued >= this.options.mostQueued) throw new RequestError("queue_full", "too many messages wait to be sent", true);
    const item = new Outgoing(group, body, more);
    this.#enqueue(item);
    return item;
  }

  /** Tries a failed message again, under its nonce: there will be one message. @param {Outgoing} item @returns {Outgoing} */
  retry(item) {
    if (item.state !== "failed") return item;
    item.state = "pending";
    item.error = undefined;
    item.tries = 0;
    item.failingSince = 0;
    item.done = new Promise((resolve) => { item.settle = resolve; });
    this.#enqueue(item);
    return item;
  }

  /** @param {Outgoing} item */
  #enqueue(item) {
    const queue = this.#outbox.get(item.group) ?? [];
    queue.push(item);
    this.#outbox.set(item.group, queue);
    this.#pump(item.group);
  }

  /** Transmits the first message of a group's queue. @param {string} group */
  #pump(group) {
    const item = this.#outbox.get(group)?.[0];
    if (!item || this.#state !== "ready" || this.#transmitted.has(item)) return;
    if (this.#timers.has(`again ${group}`)) return;
    item.nonce ??= uuidv7(this.serverNow);
    item.tries += 1;
    this.#transmitted.add(item);
    const { nonce, body, data, replyTo: reply_to } = item;
    this.request({ type: "send", group, nonce, body, reply_to, data }).then(
      (reply) => this.#settle(item, "accepted", reply.message_id, reply.position),
      (error) => this.#refused(item, error),
    );
  }

  /** @param {Outgoing} item @param {RequestError} error */
  #refused(item, error) {
    this.#transmitted.delete(item);
    if (item.state !== "pending" || error.code === "disconnected") return;
    item.failingSince ||= this.clock.now();
    if (!error.retryable || this.clock.now() - item.failingSince > this.options.giveUp) {
      item.error = error;
      return this.#settle(item, "failed");
    }
    const longest = Math.min(this.options.firstPause * 2 ** Math.min(item.tries, 16), this.options.longestPause);
    const pause = error.retryAfter ?? this.clock.random() * longest;
    this.#timer(`again ${item.group}`, pause, () => this.#pump(item.group));
  }

  /** One's own message is as good as its reply, which may be lost. @param {Message} message */
  #ownCameBack(message) {
    for (const queue of this.#outbox.values()) {
      const item = queue.find((one) => one.nonce === message.nonce);
      if (item) return this.#settle(item, "accepted", message.id, message.position);
    }
  }

  /** @param {Outgoing} item @param {"accepted"|"failed"} state @param {string} [messageId] @param {Position} [position] */
  #settle(item, state, messageId, position) {
    this.#transmitted.delete(item);
    if (item.state !== "pending") return;
    item.state = state;
    item.messageId = messageId;
    item.position = position;
    const rest = (this.#outbox.get(item.group) ?? []).filter((one) => one !== item);
    if (rest.length > 0) this.#outbox.set(item.group, rest);
    else this.#outbox.delete(item.group);
    this.#tell("send", item);
    item.settle(item);
    this.#pump(item.group);
  }

  // --- History and the live edge ---

  /** From where on everything of a group is delivered; undefined while it is not. @param {string} group */
  liveFrom(group) {
    return this.#liveFrom.get(group);
  }

  /** The last position that was told of a group. @param {string} group */
  lastHeard(group) {
    return this.#positions.get(group);
  }

  /** A group's messages, from history and live, without a seam. @param {string} group id @param {{page?: number}} [options] */
  timeline(group, options) {
    return new Timeline(this, group, options);
  }
}

