// @ts-check
// My groups: what is known of each, and the list, sorted by what happened last.

import { ApiError, all, get } from "./api.js";
import { arrange, avatar, byId, make } from "./dom.js";
import { shortTime, t } from "./strings.js";
import { comparePositions } from "../natter.js";
import { furthest } from "../natter-wire.js";

/**
 * @typedef {import("../natter.js").Position} Position
 * @typedef {{id: string, kind: string, name?: string, display_name: string, role: string, last_read?: Position,
 *   unread: number, unread_at?: Position, other?: import("../natter.js").User, active: string,
 *   last_message?: {id: string, position: Position, sender: string, body: string, sent_at: string}}} Room
 */

/** Between two read marks of a room that are told (ms): in a lively room each message would be one, of everybody who looks. */
const MARK_EVERY = 3_000;

/** The groups of this user. Events: `change`, `left` (detail: the room), `joined` (detail: the room). */
export class Groups extends EventTarget {
  /** @type {Map<string, Room>} */ rooms = new Map();
  /** The open one's id. */ open = "";
  /** Read marks that wait, or nothing yet, of rooms whose last one was told just now. @type {Map<string, Position|undefined>} */ #marks = new Map();
  /** What this connection has listed, or told that it began. @type {Set<string>} */ #listed = new Set();
  /** Which drop each that was dropped was: an answer that was asked for before it knows nothing of it. @type {Map<string, number>} */ #dropped = new Map();
  #drops = 0;
  #me;
  #client;
  #directory;

  /** @param {import("../natter.js").Client} client @param {import("./people.js").Directory} directory @param {string} me */
  constructor(client, directory, me) {
    super();
    this.#client = client;
    this.#directory = directory;
    this.#me = me;
    client.on("ready", () => this.#listed.clear());
    client.on("groups", ({ groups, more }) => this.#onGroups(groups, more));
    client.on("message", (message) => this.#onMessage(message));
    client.on("read", ({ group, position }) => this.#onRead(group, position));
    client.on("group", (change) => void this.#onChange(change));
    client.on("gap", ({ group }) => group && this.refresh(group));
    directory.addEventListener("change", () => this.#changed());
  }

  /** Everything, from the API. What the socket tells later holds. */
  async load() {
    const drops = this.#drops;
    for (const group of await all("/groups", "groups")) if (!this.#isDroppedSince(drops, group.id)) this.learn(group);
  }

  /** What is known of one, anew. @param {string} id @returns {Promise<Room|undefined>} */
  async refresh(id) {
    return await this.#find(id) ?? undefined;
  }

  /** The same; null where it is not, or not any more, one of this user's. @param {string} id @returns {Promise<Room|null|undefined>} */
  async #find(id) {
    const drops = this.#drops;
    // A group of this moment is told before the database has it.
    for (const pause of [300, 1_000, 3_000, 0]) {
      try {
        const group = await get(`/groups/${encodeURIComponent(id)}`);
        return this.#isDroppedSince(drops, id) ? null : this.learn(group);
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 404) return undefined;
        if (pause > 0) await new Promise((resume) => setTimeout(resume, pause));
      }
    }
    return null;
  }

  /** @param {import("../natter.js").Group[]} groups @param {boolean} more */
  #onGroups(groups, more) {
    for (const group of groups) {
      this.#listed.add(group.id);
      this.learn(group);
    }
    // Of what ended while this page was away nothing else tells.
    if (!more) for (const room of this.rooms.values()) if (!this.#listed.has(room.id)) void this.#dropIfGone(room);
  }

  /** @param {Room} room */
  async #dropIfGone(room) {
    const found = await this.#find(room.id);
    if (found === null && !this.#listed.has(room.id) && this.rooms.has(room.id)) this.#drop(room);
  }

  /** @param {Room} room */
  #drop(room) {
    this.rooms.delete(room.id);
    this.#drops += 1;
    this.#dropped.set(room.id, this.#drops);
    this.dispatchEvent(new CustomEvent("left", { detail: room }));
    this.#changed();
  }

  /** @param {number} drops @param {string} id */
  #isDroppedSince(drops, id) {
    return (this.#dropped.get(id) ?? 0) > drops;
  }

  /** @param {any} group as the API or the socket tells it @returns {Room} */
  learn(group) {
    const known = this.rooms.get(group.id);
    const room = known ?? { unread: 0, active: new Date(0).toISOString(), ...group };
    const isNewer = !room.unread_at || (group.unread_at && comparePositions(group.unread_at, room.unread_at) >= 0);
    const unread = isNewer && group.unread !== undefined ? { unread: group.unread, unread_at: group.unread_at } : { unread: room.unread, unread_at: room.unread_at };
    const last = later(room.last_message, group.last_message);
    Object.assign(room, group, unread, { last_message: last, last_read: furthest(room.last_read, group.last_read), other: group.other ?? room.other });
    if (last && last.sent_at > room.active) room.active = last.sent_at;
    this.rooms.set(room.id, room);
    if (room.other) this.#directory.learn([room.other]);
    this.#changed();
    return room;
  }

  /** What people call it. @param {Room} room */
  title(room) {
    return room.kind === "single" && room.other ? this.#directory.name(room.other.id) : room.display_name;
  }

  /** All that is unread. */
  get unread() {
    return [...this.rooms.values()].reduce((sum, room) => sum + room.unread, 0);
  }

  /** Marks a room read up to a position, here and everywhere. @param {Room} room @param {Position} position */
  markRead(room, position) {
    if (room.last_read && comparePositions(position, room.last_read) <= 0) return;
    this.#onRead(room.id, position);
    if (this.#marks.has(room.id)) this.#marks.set(room.id, position);
    else this.#tellMark(room.id, position);
  }

  /** Tells it, and then none for a while but the last of those. @param {string} id @param {Position} position */
  #tellMark(id, position) {
    this.#marks.set(id, undefined);
    this.#send(id, position);
    setTimeout(() => {
      const waits = this.#marks.get(id);
      this.#marks.delete(id);
      if (waits) this.#tellMark(id, waits);
    }, MARK_EVERY);
  }

  /** Tells what waits: who looks away may not come back. */
  tellMarks() {
    for (const [id, position] of this.#marks) {
      this.#marks.set(id, undefined);
      if (position) this.#send(id, position);
    }
  }

  /** What could not be told waits for its turn again. @param {string} id @param {Position} position */
  #send(id, position) {
    this.#client.read(id, position).catch((error) => {
      if (!error.retryable || !this.rooms.has(id)) return;
      if (this.#marks.has(id)) this.#marks.set(id, furthest(this.#marks.get(id), position));
      else this.#tellMark(id, position);
    });
  }

  /** @param {import("../natter.js").Message} message */
  #onMessage(message) {
    const room = this.rooms.get(message.group);
    if (!room) return void this.refresh(message.group);
    room.last_message = later(room.last_message, message);
    if (message.sent_at > room.active) room.active = message.sent_at;
    const counted = room.unread_at && comparePositions(message.position, room.unread_at) <= 0;
    const isRead = room.last_read && comparePositions(message.position, room.last_read) <= 0;
    if (!counted && !isRead && message.sender !== this.#me) room.unread += 1;
    if (!counted) room.unread_at = message.position;
    this.#changed();
  }

  /** @param {string} group @param {Position} position */
  #onRead(group, position) {
    const room = this.rooms.get(group);
    if (!room || (room.last_read && comparePositions(position, room.last_read) < 0)) return;
    room.last_read = position;
    if (!room.last_message || comparePositions(position, room.last_message.position) >= 0) room.unread = 0;
    else void this.refresh(group);
    this.#changed();
  }

  /** @param {import("../natter.js").GroupChange} change */
  async #onChange(change) {
    const room = this.rooms.get(change.group);
    if (change.change === "left") {
      this.#listed.delete(change.group);
      if (room) this.#drop(room);
    } else if (change.change === "joined") {
      this.#listed.add(change.group);
      const { group: id, kind, name, display_name, role } = change;
      const joined = this.learn({ id, kind, name, display_name, role, active: new Date().toISOString() });
      await this.refresh(id);
      if (!room) this.dispatchEvent(new CustomEvent("joined", { detail: joined }));
    } else if (change.change === "renamed" && room && change.display_name) {
      room.display_name = change.display_name;
    }
    this.dispatchEvent(new CustomEvent("members", { detail: change }));
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** @param {any} a @param {any} b */
const later = (a, b) => (!a || (b && comparePositions(b.position, a.position) > 0) ? b : a);

/** @param {Groups} groups @param {import("./people.js").Directory} directory @param {string} me @param {(room: Room) => void} open */
export function showGroups(groups, directory, me, open) {
  const list = byId("exist-rooms");
  /** @type {Map<string, any>} */
  const items = new Map();
  let drawing = false;

  /** @param {Room} room */
  function preview(room) {
    const last = room.last_message;
    if (!last) return room.kind === "open" ? t("open_room") : "";
    if (last.sender === me) return t("you", { text: last.body });
    return room.kind === "single" ? last.body : `${directory.name(last.sender)}: ${last.body}`;
  }

  /** @param {Room} room */
  function item(room) {
    let made = items.get(room.id);
    if (!made) {
      const button = make("button", { type: "button", class: "row", onclick: () => open(room) });
      made = make("li", { class: "exist_room", id: `room_${room.id}` }, button);
      items.set(room.id, made);
    }
    const title = groups.title(room);
    const drawn = JSON.stringify([title, preview(room), room.unread, room.active, groups.open === room.id]);
    if (made.drawn === drawn) return made;
    made.drawn = drawn;
    made.classList.toggle("has_news", room.unread > 0);
    const button = made.firstElementChild;
    if (groups.open === room.id) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    const badge = room.unread > 0 && make("span", { class: "badge" }, room.unread > 99 ? "99+" : String(room.unread),
      make("span", { class: "visually-hidden" }, ` ${t("unread", { n: "" }).trim()}`));
    const lines = make("span", { class: "lines" },
      make("span", { class: "title" }, title), make("span", { class: "preview" }, preview(room)));
    const ends = make("span", { class: "ends" },
      room.last_message ? make("time", {}, shortTime(room.last_message.sent_at)) : "", badge);
    button.replaceChildren(avatar(room.other?.id ?? room.id, title, room.kind === "open" ? "#" : undefined), lines, ends);
    return made;
  }

  function draw() {
    drawing = false;
    const sorted = [...groups.rooms.values()].sort((a, b) => b.active.localeCompare(a.active) || groups.title(a).localeCompare(groups.title(b)));
    for (const id of items.keys()) if (!groups.rooms.has(id)) items.delete(id);
    // Moving an element takes the focus away from it.
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    arrange(list, sorted.map(item));
    if (focused && document.activeElement !== focused) /** @type {HTMLElement} */ (focused).focus();
    byId("no-groups").hidden = sorted.length > 0;
  }

  groups.addEventListener("change", () => {
    if (!drawing) requestAnimationFrame(draw);
    drawing = true;
  });
}
