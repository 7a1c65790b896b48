// @ts-check
/**
 * History and live delivery of one group as one list, without a seam: natter.js's {@link Timeline}.
 *
 * @typedef {import("./natter.js").Client} Client
 * @typedef {import("./natter-wire.js").Message} Message
 * @typedef {import("./natter-wire.js").Position} Position
 */

import { RequestError, Told, comparePositions, furthest } from "./natter-wire.js";

/** How often a gap without a known end is looked for, two seconds apart. */
const MOST_LOOKS = 5;

/**
 * A group's messages in order, each once: the newest page, older ones by {@link Timeline#older}, and
 * what comes live. Where live delivery had a gap, the rest is loaded and put in its place. After each
 * change the event `change` comes; its `detail` is `{added: Message[], restarted: boolean}`.
 */
export class Timeline extends EventTarget {
  /** @type {Set<string>} */ #known = new Set();
  /** Complete from the first message up to here. @type {Position|undefined} */ #upto = undefined;
  /** What lies up to here came before delivery did, and has to be loaded. @type {Position|undefined} */ #until = undefined;
  /** There may be a gap before the next live message, wherever that is. */ #unsure = false;
  /** How often to look for it, before waiting for that message. */ #looks = 0;
  #filling = false;
  /** A gap was told of since it was last asked what lies in one. */ #toldMore = false;
  #closed = false;
  /** @type {Promise<boolean>|null} */ #loading = null;
  /** The newest page is on its way. @type {Promise<void>|null} */ #opening = null;
  /** @type {(() => void)[]} */ #stops = [];

  /** @param {Client} client @param {string} group @param {{page?: number}} [options] */
  constructor(client, group, { page = 50 } = {}) {
    super();
    this.client = client;
    this.group = group;
    this.page = page;
    /** In the order of their positions. @type {Message[]} */
    this.messages = [];
    /** The first message of all is there. */
    this.atStart = false;
    /** The newest page is there. What comes live before it is alone in {@link messages}, and says nothing of what lies before. */
    this.isOpen = false;
    // Position first, then load, then live: listening begins before anything is loaded.
    this.#stops.push(
      client.on("message", (message) => message.group === group && this.#onLive(message)),
      client.on("gap", (gap) => gap.group === group && this.#onGap(gap)),
    );
  }

  /** Whether messages in the middle are being fetched. */
  get hasGap() {
    return (this.#unsure && this.#looks > 0) || (this.#until !== undefined && this.#upto !== undefined && comparePositions(this.#upto, this.#until) < 0);
  }

  /**
   * Loads the newest page. Resolves when it is there, however often it takes, or is refused for good: the event `failed` has told
   * that, with the {@link RequestError} as its `detail`. @returns {Promise<void>}
   */
  open() {
    const opening = this.#open().finally(() => { if (this.#opening === opening) this.#opening = null; });
    this.#opening = opening;
    return opening;
  }

  async #open() {
    // The database may not have yet what was told last.
    const heard = this.client.lastHeard(this.group);
    const page = await this.#history({ limit: this.page });
    if (!page) return;
    this.#upto = page.position;
    this.#until = furthest(this.#until, heard ?? this.client.liveFrom(this.group));
    this.atStart = !page.more;
    this.isOpen = true;
    this.#add(page.messages, true);
    void this.#fill();
  }

  /**
   * Loads the page before the first message, one at a time. Resolves to whether there was any: not at the start, nor where
   * history is refused (event `failed`), nor once closed. @returns {Promise<boolean>}
   */
  older() {
    this.#loading ??= this.#older().finally(() => { this.#loading = null; });
    return this.#loading;
  }

  async #older() {
    for (;;) {
      if (this.#opening) await this.#opening;
      const before = this.messages[0]?.position;
      if (this.#closed || this.atStart || !before) return false;
      const page = await this.#history({ before, limit: this.page });
      if (!page) return false;
      // After a restart in between it would leave a hole.
      if (this.messages[0]?.position !== before) continue;
      this.atStart = !page.more;
      this.#add(page.messages, false);
      return page.messages.length > 0;
    }
  }

  /** Keeps the newest messages only; {@link older} loads the others again. @param {number} most */
  forget(most) {
    if (this.messages.length <= most || this.hasGap) return;
    this.messages = this.messages.slice(-most);
    this.#known = new Set(this.messages.map((message) => message.id));
    this.atStart = false;
  }

  /** Ends it. */
  close() {
    this.#closed = true;
    for (const stop of this.#stops) stop();
  }

  /** @param {Message} message */
  #onLive(message) {
    if (this.#unsure) {
      this.#unsure = false;
      this.#until = message.position;
      void this.#fill();
    } else if (this.#upto !== undefined && !this.hasGap) {
      this.#upto = message.position;
    }
    this.#add([message], false);
  }

  /** @param {{after?: Position, until?: Position}} gap */
  #onGap({ after, until }) {
    if (until) {
      const isAnew = after && comparePositions(until, after) < 0;
      this.#until = isAnew ? until : furthest(this.#until, until);
      // What came live behind the gap says nothing of what lies in it.
      if (after && this.#upto && comparePositions(after, this.#upto) < 0 && comparePositions(until, after) > 0) this.#upto = after;
    } else [this.#unsure, this.#looks] = [true, MOST_LOOKS];
    this.#toldMore = true;
    void this.#fill();
  }

  /** Loads what lies between what is complete and what came live. */
  async #fill() {
    if (this.#filling || this.#upto === undefined) return;
    this.#filling = true;
    for (let pages = 0; this.hasGap && !this.#closed; pages += 1) {
      this.#toldMore = false;
      const page = await this.#history({ after: this.#upto, limit: this.page });
      // Who was removed, and is a member again by now, may ask again.
      if (!page && this.#toldMore) continue;
      if (!page) break;
      // Too much to go through: begin anew at the newest.
      if (pages > 10 && page.more) {
        this.#filling = false;
        return this.#restart();
      }
      this.#upto = page.more ? page.messages[page.messages.length - 1]?.position ?? this.#upto : page.position;
      this.#add(page.messages, false);
      if (page.more) continue;
      // The database may be behind what came live. Of a gap whose end is not known, the next live
      // message tells the end; a room that stays silent is not asked for ever.
      if (this.#unsure) this.#looks -= 1;
      if (this.hasGap) await this.#pause(this.#unsure ? 2_000 : 200);
    }
    this.#filling = false;
  }

  async #restart() {
    this.messages = [];
    this.#known.clear();
    this.#upto = undefined;
    this.isOpen = false;
    await this.open();
  }

  /** A page, tried again until it is there; undefined once closed or refused for good. @param {any} what */
  async #history(what) {
    for (let tries = 0; !this.#closed; tries += 1) {
      try {
        const page = await this.client.history(this.group, { ...what, limit: Math.min(what.limit, this.client.historyPage) });
        return this.#closed ? undefined : page;
      } catch (error) {
        if (error instanceof RequestError && !error.retryable) {
          this.dispatchEvent(new Told("failed", error));
          return undefined;
        }
        await this.#pause(Math.min(200 * 2 ** tries, 5_000));
      }
    }
    return undefined;
  }

  /** @param {number} ms @returns {Promise<void>} */
  #pause(ms) {
    return new Promise((resolve) => {
      let stop = () => {};
      const timer = this.client.clock.setTimeout(() => { stop(); resolve(); }, ms);
      // Not longer than until the connection is back.
      stop = this.client.on("ready", () => { this.client.clock.clearTimeout(timer); stop(); resolve(); });
    });
  }

  /** @param {Message[]} messages @param {boolean} restarted */
  #add(messages, restarted) {
    const added = messages.filter((message) => !this.#known.has(message.id));
    for (const message of added) this.#known.add(message.id);
    const last = this.messages[this.messages.length - 1];
    const first = this.messages[0];
    if (added.length > 0 && first && comparePositions(added[added.length - 1].position, first.position) < 0) {
      this.messages = [...added, ...this.messages];
    } else {
      const isAfter = added.length === 0 || !last || comparePositions(last.position, added[0].position) < 0;
      for (const message of added) this.messages.push(message);
      if (!isAfter) this.messages.sort((a, b) => comparePositions(a.position, b.position));
    }
    if (added.length > 0 || restarted) this.dispatchEvent(new Told("change", { added, restarted }));
  }
}
