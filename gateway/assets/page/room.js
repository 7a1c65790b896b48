// @ts-check
// The open room: its header, messages and composer, and going from one room to another.

import { call } from "./api.js";
import { composer, typingLine } from "./composer.js";
import { details } from "./dialogs.js";
import { announce, avatar, byId, iconButton, make } from "./dom.js";
import { History } from "./history.js";
import { explain, t } from "./strings.js";

/** @typedef {import("./groups.js").Room} Room */

/** How many messages to begin with: all that are unread, if a page holds them. @param {number} unread */
const pageFor = (unread) => Math.min(Math.max(50, unread + 10), 200);

/** Shows one room at a time, in `#display-rooms`. */
export class RoomView {
  /** @type {{room: Room, history: History, typing: ReturnType<typeof typingLine>,
   *   writing: ReturnType<typeof composer>, pane: any, title: any, kind: any,
   *   changed: Map<string, boolean>}|null} who came (true) or went since the members were last asked for: `changed` */
  #shown = null;
  /** Messages that are not there yet, by room. @type {Map<string, import("../natter.js").Outgoing[]>} */ #outgoing = new Map();
  /** What asked for a room last. @type {object} */ #asked = {};
  #client;
  #groups;
  #directory;
  #me;

  /**
   * @param {import("../natter.js").Client} client @param {import("./groups.js").Groups} groups
   * @param {import("./people.js").Directory} directory @param {string} me
   */
  constructor(client, groups, directory, me) {
    this.#client = client;
    this.#groups = groups;
    this.#directory = directory;
    this.#me = me;
    client.on("typing", ({ group, user }) => { if (group === this.#shown?.room.id && user !== me) this.#shown.typing.on(user); });
    client.on("message", (message) => this.#onMessage(message));
    client.on("send", () => this.#shown?.history.update());
    groups.addEventListener("change", () => this.#drawHeader());
    groups.addEventListener("members", (/** @type {any} */ event) => { if (event.detail.group === this.#shown?.room.id) void this.#drawKind(event.detail); });
    groups.addEventListener("left", (/** @type {any} */ event) => this.#onLeft(event.detail));
    directory.addEventListener("change", () => { this.#shown?.history.rename(); this.#drawHeader(); });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) {
        this.#shown?.history.lookedAway();
        this.#groups.tellMarks();
      } else this.#shown?.history.markRead();
    });
  }

  /**
   * A room is asked for that takes a while. `isLatest` tells later whether it still is what somebody waits for; who gives up
   * leaves that to what was asked for before.
   */
  ask() {
    const before = this.#asked;
    const mine = {};
    this.#asked = mine;
    const isLatest = () => mine === this.#asked;
    return { isLatest, giveUp: () => { if (isLatest()) this.#asked = before; } };
  }

  /** @param {Room} room @param {{focus?: boolean, push?: boolean}} [how] */
  open(room, { focus = true, push = true } = {}) {
    this.#asked = {};
    document.body.classList.add("in-room");
    if (this.#shown?.room.id !== room.id) this.#show(room);
    const path = `/chat/${encodeURIComponent(room.kind === "open" && room.name ? room.name : room.id)}/`;
    if (push && location.pathname !== path) history.pushState({ room: room.id }, "", path);
    if (focus) this.#shown?.pane.querySelector(".type_msg").focus();
  }

  /** @param {Room} room */
  #show(room) {
    this.#close();
    this.#groups.open = room.id;
    const title = make("h2", { class: "room_name" });
    const kind = make("p", { class: "kind" });
    const mark = avatar(room.other?.id ?? room.id, this.#groups.title(room), room.kind === "open" ? "#" : undefined);
    const header = make("header", { class: "room_head" },
      iconButton("back", t("back"), { class: "back", onclick: () => this.back() }), mark,
      make("div", { class: "lines" }, title, kind),
      room.kind !== "single" && iconButton("people", t("details"), { id: "room-details", onclick: () => void details(room, this.#groups.title(room), this.#me) }));
    const name = (/** @type {string} */ id) => this.#directory.name(id);
    const typing = typingLine(name);
    const messages = new History(this.#client.timeline(room.id, { page: pageFor(room.unread) }), {
      me: this.#me, name, title: () => this.#groups.title(room), lastRead: room.unread > 0 ? room.last_read ?? "0.0" : undefined,
      retry: (item) => { this.#client.retry(item); messages.update(); },
      discard: (item) => {
        const rest = messages.outgoing.filter((one) => one !== item);
        messages.outgoing = rest;
        this.#outgoing.set(room.id, rest);
        messages.update();
      },
      onRead: (position) => this.#groups.markRead(room, position),
      onFailed: (error) => announce(explain(error)),
    });
    messages.outgoing = this.#outgoing.get(room.id) ?? [];
    const writing = composer({ id: room.id, me: this.#me, title: this.#groups.title(room), send: (text) => this.#send(room, text), typing: () => this.#client.typing(room.id) });
    const pane = make("section", { class: "display_room", id: `display_room_${room.id}`, "aria-label": this.#groups.title(room) },
      header, make("div", { class: "scroll" }, messages.element, messages.jump), typing.element, writing.element);
    byId("display-rooms").replaceChildren(pane);
    this.#shown = { room, history: messages, typing, writing, pane, title, kind, changed: new Map() };
    this.#drawHeader();
    void this.#drawKind();
    void messages.timeline.open().then(() => messages.update());
    this.#groups.dispatchEvent(new Event("change"));
  }

  #close() {
    if (this.#shown) this.#outgoing.set(this.#shown.room.id, this.#shown.history.outgoing);
    this.#shown?.history.close();
    this.#shown = null;
    this.#groups.open = "";
  }

  /** On a phone: back to the list. */
  back() {
    this.#asked = {};
    document.body.classList.remove("in-room");
    byId(`room_${this.#shown?.room.id}`)?.querySelector("button").focus();
  }

  #drawHeader() {
    if (!this.#shown) return;
    const title = this.#groups.title(this.#shown.room);
    if (this.#shown.title.textContent === title) return;
    this.#shown.title.textContent = title;
    this.#shown.pane.setAttribute("aria-label", title);
    this.#shown.history.retitle();
    this.#shown.writing.retitle(title);
  }

  /** @param {import("../natter.js").GroupChange} [change] what it has to show */
  async #drawKind(change) {
    const shown = this.#shown;
    if (!shown) return;
    const { room, kind, changed } = shown;
    if (change?.user && change.change.startsWith("member_")) changed.set(change.user, change.change === "member_added");
    kind.textContent = room.kind === "open" ? t("open_room") : room.kind === "single" ? (room.other ? `@${room.other.handle}` : t("one_to_one")) : "";
    if (room.kind !== "group") return;
    // A change of this moment is told before the database has it.
    for (const pause of [0, 300, 1_000, 3_000]) {
      await new Promise((resume) => setTimeout(resume, pause));
      const { members, next } = await call("GET", `/groups/${room.id}/members?limit=200`).catch(() => ({ members: [], next: null }));
      if (shown !== this.#shown) return;
      this.#drawCount(members, next);
      const ids = new Set(members.map((/** @type {any} */ member) => member.user.id));
      for (const [user, isMember] of changed) if (next || ids.has(user) === isMember) changed.delete(user);
      if (changed.size === 0) return;
    }
  }

  /** @param {any[]} members @param {string|null} next */
  #drawCount(members, next) {
    this.#directory.learn(members.map((member) => member.user));
    if (this.#shown && members.length > 0) this.#shown.kind.textContent = t(members.length === 1 ? "members_one" : "members_count", { n: next ? `${members.length}+` : members.length });
  }

  /** @param {Room} room @param {string} text */
  #send(room, text) {
    const shown = this.#shown;
    if (!shown) return false;
    try {
      shown.history.outgoing.push(this.#client.send(room.id, text));
    } catch (error) {
      announce(explain(error));
      return false;
    }
    shown.history.newFrom(undefined);
    shown.history.toEnd();
    return true;
  }

  /** @param {import("../natter.js").Message} message */
  #onMessage(message) {
    if (message.sender === this.#me) return;
    if (message.group === this.#shown?.room.id) this.#shown.typing.off(message.sender);
    const room = this.#groups.rooms.get(message.group);
    if (room) announce(t("message_from", { who: this.#directory.name(message.sender), room: this.#groups.title(room), text: message.body }));
  }

  /** @param {Room} room */
  #onLeft(room) {
    announce(t("removed_you", { room: this.#groups.title(room) }));
    if (this.#shown?.room.id === room.id) {
      this.#close();
      this.notice(t("removed_you", { room: this.#groups.title(room) }));
    }
  }

  /** Says something where a room would be. @param {string} text */
  notice(text) {
    document.body.classList.add("in-room");
    byId("display-rooms").replaceChildren(make("div", { class: "notice" }, iconButton("back", t("back"), { class: "back", onclick: () => this.back() }), make("p", { role: "status" }, text)));
  }
}
