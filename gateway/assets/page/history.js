// @ts-check
// The messages of the open room. Only a window of them is in the document, so that a room of any
// size scrolls well; the window moves with the scrolling, and older pages are fetched ahead of it.

import { arrange, avatar, icon, linked, make } from "./dom.js";
import { dayName, explain, t, timeOf, wholeTime } from "./strings.js";
import { comparePositions } from "../natter.js";

/** Rows in the document at most, and by how many the window moves. */
const MOST_ROWS = 240;
const STEP = 80;
/** So many messages are kept at the end of a room, and twice as many before the others are forgotten. */
const KEPT = 2_000;
/** So many come below somebody who reads further up before those are forgotten too: nobody has been there for long. */
const MOST_BELOW = 20_000;
/** How near to an end (px) the window moves. */
const NEAR = 800;
/** Nearer to the end than this is at the end. */
const AT_END = 48;
/** Messages of one sender closer than this stand under one name. */
const TOGETHER = 5 * 60_000;

/** @typedef {import("../natter.js").Message} Message @typedef {import("../natter.js").Outgoing} Outgoing */

export class History {
  /** The window's first and last message; no last one: up to the end. @type {{first?: string, last?: string}} */ #window = {};
  /** @type {Map<string, any>} */ #rows = new Map();
  /** What lies after this is new. @type {string|undefined} */ #newAfter;
  #pinned = true;
  /** How many have come below since it was pinned. */ #below = 0;
  #drawing = false;
  #first = true;
  /** @type {Outgoing[]} */ outgoing = [];

  /**
   * @param {import("../natter.js").Timeline} timeline @param {{me: string, title: () => string, lastRead?: string,
   *   name: (id: string) => string, retry: (item: Outgoing) => void, discard: (item: Outgoing) => void,
   *   onRead: (position: string) => void, onFailed: (error: Error) => void}} room
   */
  constructor(timeline, room) {
    this.timeline = timeline;
    this.room = room;
    this.#newAfter = room.lastRead;
    this.element = make("div", { class: "msg_card_body", role: "log", "aria-live": "off", tabindex: "0", "aria-label": room.title(), "aria-busy": "true" });
    this.jump = make("button", { type: "button", class: "jump", hidden: true, onclick: () => this.toEnd() }, icon("down"), t("jump"));
    this.element.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    timeline.addEventListener("change", (/** @type {any} */ event) => this.#onChange(event.detail));
    timeline.addEventListener("failed", (/** @type {any} */ event) => {
      this.element.removeAttribute("aria-busy");
      room.onFailed(event.detail);
    });
    this.sizes = new ResizeObserver(() => this.#pinned && this.#stick());
    this.sizes.observe(this.element);
  }

  get #messages() {
    return this.timeline.messages;
  }

  /** The first message that is not before a position. @param {string} position */
  #indexOf(position) {
    let low = 0;
    let high = this.#messages.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (comparePositions(this.#messages[middle].position, position) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #range() {
    const { first, last } = this.#window;
    const end = last === undefined ? this.#messages.length : this.#indexOf(last) + 1;
    return { start: first === undefined ? Math.max(0, end - STEP) : this.#indexOf(first), end };
  }

  /** @param {number} start @param {number} end */
  #setWindow(start, end) {
    this.#window.first = this.#messages[Math.max(0, start)]?.position;
    this.#window.last = end >= this.#messages.length ? undefined : this.#messages[end - 1]?.position;
  }

  /** @param {{added: Message[], restarted: boolean}} change */
  #onChange({ added, restarted }) {
    if (this.timeline.isOpen) this.element.removeAttribute("aria-busy");
    if (restarted) this.#window = {};
    this.#forget(added);
    const { start, end } = this.#range();
    // Not before it has opened, which is where what is new begins.
    if (end - start > MOST_ROWS && !(this.#first && this.#pinned)) {
      // What comes below somebody who reads further up waits until they scroll there.
      if (this.#pinned) this.#setWindow(end - STEP, end);
      else this.#setWindow(start, start + MOST_ROWS);
    } else if (this.#pinned && !this.#window.first) {
      this.#setWindow(Math.min(end - STEP, this.#firstNew - 10), end);
    }
    this.update();
  }

  /** Keeps bounded what nobody looks at. @param {Message[]} added */
  #forget(added) {
    const isBelow = added.length > 0 && added[added.length - 1] === this.#messages[this.#messages.length - 1];
    if (isBelow) this.#below += added.length;
    if (this.#pinned) this.#below = 0;
    if (this.#pinned ? this.#messages.length <= 2 * KEPT : this.#below <= MOST_BELOW) return;
    this.timeline.forget(KEPT);
    if (this.#pinned || this.#messages.length > KEPT) return;
    this.#below = 0;
    const { first } = this.#window;
    const isForgotten = first !== undefined && comparePositions(first, this.#messages[0].position) < 0;
    // Not to the end: nothing counts as read.
    if (isForgotten) this.#setWindow(0, MOST_ROWS);
  }

  /** The index of the first message that is new; past the last one where none is. */
  get #firstNew() {
    const found = this.#messages.findIndex((message) => this.#isNew(message));
    return found < 0 ? this.#messages.length : found;
  }

  /** Draws soon, once for all that happened until then. */
  update() {
    if (this.#drawing) return;
    this.#drawing = true;
    const draw = () => { this.#drawing = false; this.draw(); };
    if (document.hidden) setTimeout(draw, 50);
    else requestAnimationFrame(draw);
  }

  draw() {
    const { start, end } = this.#range();
    const anchor = this.#pinned ? null : this.#anchor();
    const wanted = [];
    if (this.timeline.atStart && start === 0) wanted.push(this.#mark(this.#messages.length > 0 ? "start" : "empty", this.#beginning));
    /** @type {Message|undefined} */
    let before = this.#messages[start - 1];
    let isNewShown = start > 0 && this.#isNew(before);
    for (const message of this.#messages.slice(start, end)) {
      const day = new Date(message.sent_at).toDateString();
      const isNextDay = !before || new Date(before.sent_at).toDateString() !== day;
      const isFirstNew = !isNewShown && this.#isNew(message);
      if (isNextDay) wanted.push(this.#mark(`day ${day}`, () => make("div", { class: "divider" }, make("span", {}, dayName(message.sent_at)))));
      if (isFirstNew) wanted.push(this.#mark("new", () => make("div", { class: "divider new", id: "new-messages" }, make("span", {}, t("new_messages")))));
      isNewShown ||= isFirstNew;
      const row = this.#row(message);
      const isSame = before && before.sender === message.sender && Date.parse(message.sent_at) - Date.parse(before.sent_at) < TOGETHER;
      row.classList.toggle("continued", Boolean(isSame && !isNextDay && !isFirstNew));
      wanted.push(row);
      before = message;
    }
    if (this.timeline.hasGap) wanted.push(this.#mark("gap", () => make("div", { class: "divider" }, make("span", {}, t("gap")))));
    if (this.#window.last === undefined) for (const item of this.#unsent()) wanted.push(this.#outgoingRow(item));
    arrange(this.element, wanted);
    const kept = new Set(wanted);
    for (const [key, row] of this.#rows) if (!kept.has(row)) this.#rows.delete(key);
    if (this.#first && this.timeline.isOpen && this.#messages.length > 0) this.#openAt();
    else if (anchor) this.element.scrollTop += anchor.row.getBoundingClientRect().top - anchor.top;
    else this.#stick();
    this.#afterScroll();
  }

  /** At the first unread message, if that is above what fits; else at the end. */
  #openAt() {
    this.#first = false;
    const divider = this.#rows.get("new");
    this.#stick();
    if (divider && divider.offsetTop < this.element.scrollTop) {
      this.element.scrollTop = divider.offsetTop - 56;
      this.#pinned = false;
    }
  }

  /** The first row in view, to hold still. */
  #anchor() {
    const top = this.element.getBoundingClientRect().top;
    for (const row of this.element.querySelectorAll(".line")) {
      const box = row.getBoundingClientRect();
      if (box.bottom > top && row.isConnected) return { row, top: box.top };
    }
    return null;
  }

  #stick() {
    this.element.scrollTop = this.element.scrollHeight;
  }

  get #fromEnd() {
    return this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight;
  }

  #onScroll() {
    this.#pinned = this.#window.last === undefined && this.#fromEnd < AT_END;
    const { start, end } = this.#range();
    if (this.element.scrollTop < NEAR) {
      if (start > 0) {
        this.#setWindow(start - STEP, Math.min(end, Math.max(0, start - STEP) + MOST_ROWS));
        this.draw();
        return;
      }
      if (!this.timeline.atStart) void this.timeline.older().then(() => this.#lengthenUp());
    } else if (this.#fromEnd < NEAR && end < this.#messages.length) {
      const last = Math.min(this.#messages.length, end + STEP);
      this.#setWindow(Math.max(start, last - MOST_ROWS), last);
      this.draw();
      return;
    }
    this.#afterScroll();
  }

  /** What was fetched goes above, where somebody waits for it. */
  #lengthenUp() {
    if (this.element.scrollTop < NEAR && this.#range().start > 0) this.#onScroll();
    else this.update();
  }

  #afterScroll() {
    this.jump.hidden = this.#pinned || (this.#window.last === undefined && this.#fromEnd < 2 * this.element.clientHeight / 3);
    this.markRead();
  }

  /** Who sees the end has read it all. */
  markRead() {
    const last = this.#messages[this.#messages.length - 1];
    if (last && this.#pinned && !document.hidden && this.timeline.isOpen && !this.timeline.hasGap && this.element.isConnected) this.room.onRead(last.position);
  }

  /** Somebody stopped looking: what comes from here on is new. */
  lookedAway() {
    const last = this.#messages[this.#messages.length - 1];
    if (last && this.#pinned && this.timeline.isOpen) this.newFrom(last.position);
  }

  /** Sets or removes the divider of new messages. @param {string|undefined} position */
  newFrom(position) {
    this.#newAfter = position;
    this.#rows.delete("new");
    this.update();
  }

  /** To the newest message. */
  toEnd() {
    this.#setWindow(this.#messages.length - STEP, this.#messages.length);
    this.#pinned = true;
    this.#below = 0;
    this.draw();
  }

  /** @param {Message|undefined} message */
  #isNew(message) {
    return message !== undefined && this.#newAfter !== undefined && message.sender !== this.room.me && comparePositions(message.position, this.#newAfter) > 0;
  }

  // --- Rows ---

  /** @param {string} key @param {() => any} create */
  #mark(key, create) {
    const known = this.#rows.get(key) ?? create();
    this.#rows.set(key, known);
    return known;
  }

  #beginning = () => make("p", { class: "beginning" }, t(this.#messages.length > 0 ? "beginning" : "empty_room", { room: this.room.title() }));

  /** @param {Message} message */
  #row(message) {
    return this.#mark(message.id, () => {
      const own = message.sender === this.room.me;
      const row = this.#line(message.sender, message.body, message.sent_at, own);
      row.dataset.id = message.id;
      row.dataset.position = message.position;
      if (own) row.append(make("span", { class: "mark accepted", role: "img", "aria-label": t("accepted"), title: t("accepted") }, icon("check")));
      return row;
    });
  }

  /** @param {string} sender @param {string} body @param {string} time @param {boolean} own */
  #line(sender, body, time, own) {
    const name = this.room.name(sender);
    const text = make("span", { class: "text" });
    text.append(linked(body));
    return make("div", { class: own ? "line own" : "line", "data-sender": sender },
      avatar(sender, name),
      make("span", { class: "who" }, make("b", {}, name), " ", make("time", { dateTime: time, title: wholeTime(time) }, timeOf(time))),
      make("time", { class: "aside", dateTime: time, "aria-hidden": "true" }, timeOf(time)),
      text);
  }

  /** One's own that the server has not told yet. */
  #unsent() {
    const told = new Set(this.#messages.slice(-200).map((message) => message.nonce));
    const last = this.timeline.isOpen && !this.timeline.hasGap ? this.#messages[this.#messages.length - 1]?.position : undefined;
    const isTold = (/** @type {Outgoing} */ item) => item.nonce && told.has(item.nonce);
    // In a room that was closed meanwhile it may be further up than that.
    const isPast = (/** @type {Outgoing} */ item) => item.position && last && comparePositions(item.position, last) <= 0;
    this.outgoing = this.outgoing.filter((item) => !isTold(item) && !isPast(item));
    return this.outgoing;
  }

  /** @param {Outgoing} item */
  #outgoingRow(item) {
    const any = /** @type {any} */ (item);
    any.key ??= `out ${crypto.getRandomValues(new Uint32Array(2)).join("")}`;
    any.at ??= new Date().toISOString();
    const row = this.#mark(any.key, () => this.#line(this.room.me, item.body, any.at, true));
    if (row.dataset.state === item.state) return row;
    row.dataset.state = item.state;
    for (const old of row.querySelectorAll(".mark")) old.remove();
    if (item.state === "failed") {
      row.append(make("span", { class: "mark failed" }, icon("alert"), ` ${t("failed")} ${explain(item.error)} `,
        make("button", { type: "button", class: "link", onclick: () => this.room.retry(item) }, t("retry")), " · ",
        make("button", { type: "button", class: "link", onclick: () => this.room.discard(item) }, t("discard"))));
    } else {
      const key = item.state === "accepted" ? "accepted" : "pending";
      row.append(make("span", { class: `mark ${key}`, role: "img", "aria-label": t(key), title: t(key) }, icon(key === "accepted" ? "check" : "clock")));
    }
    return row;
  }

  /** The room is called otherwise now. */
  retitle() {
    this.#rows.delete("start");
    this.element.setAttribute("aria-label", this.room.title());
    this.update();
  }

  /** Names became known. */
  rename() {
    for (const row of this.#rows.values()) {
      const who = row.dataset?.sender && row.querySelector(".who b");
      const name = who && this.room.name(row.dataset.sender);
      if (!who || who.textContent === name) continue;
      who.textContent = name;
      row.querySelector(".avatar").replaceWith(avatar(row.dataset.sender, name));
    }
  }

  close() {
    this.sizes.disconnect();
    this.timeline.close();
  }
}
