// @ts-check
// Other people: who is who, the list with its search, and the picker of the dialogs.

import { all, get } from "./api.js";
import { arrange, avatar, byId, make } from "./dom.js";
import { t } from "./strings.js";

/** @typedef {import("../natter.js").User} User */

/** Names of users, fetched as they are needed. */
export class Directory extends EventTarget {
  /** @type {Map<string, User>} */ #users = new Map();
  /** @type {Set<string>} */ #asked = new Set();

  /** @param {Iterable<User>} users */
  learn(users) {
    let isNews = false;
    for (const user of users) {
      isNews ||= this.#users.get(user.id)?.display_name !== user.display_name;
      this.#users.set(user.id, user);
    }
    if (isNews) this.dispatchEvent(new Event("change"));
  }

  /** What people see of a user; the id until the name is known. @param {string} id */
  name(id) {
    const known = this.#users.get(id);
    if (known) return known.display_name;
    if (!this.#asked.has(id)) {
      this.#asked.add(id);
      get(`/users/${encodeURIComponent(id)}`).then((user) => this.learn([user]), (error) => {
        // Who is gone stays so.
        if (error.status !== 404) this.#asked.delete(id);
      });
    }
    return id;
  }
}

/** Pages of a search at most that are gone through until somebody is found. */
const PAGES = 5;

/** Users whose handle or name begins with a text; a page may have none, and more behind it. @param {string} prefix @returns {Promise<User[]>} */
async function find(prefix) {
  let cursor = "";
  for (let left = PAGES; left > 0; left -= 1) {
    const { users, next } = await get(`/users?limit=100&prefix=${encodeURIComponent(prefix)}${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
    if (users.length > 0 || !next) return users;
    cursor = next;
  }
  return [];
}

/** A user as a list shows them; the element with the handle comes first. @param {User} user */
export function person(user) {
  const name = user.display_name === user.handle ? null : make("span", { class: "name" }, user.display_name);
  return make("span", { class: name ? "person" : "person alone" }, make("span", { class: "handle" }, user.handle), name);
}

/** Runs `what` once typing pauses. @param {() => void} what */
function unhurried(what) {
  /** @type {any} */
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(what, 180);
  };
}

/** How many the list shows; of more, one searches. */
const LISTED = 400;

/** How often somebody who is alone looks for others, in milliseconds. */
const LOOK_EVERY = 5_000;

/**
 * The list on the side. What it returns is told whom one hears of: whoever the list lacks, it asks for.
 * @param {Directory} directory @param {(user: User) => void} open @returns {(user: string) => void}
 */
export function showPeople(directory, open) {
  const list = byId("other-users");
  const search = byId("people-search");
  /** @type {Map<string, Element>} */
  const items = new Map();
  /** Who was heard of and is not in it. @type {Set<string>} */
  const strangers = new Set();
  let isFull = false;

  /** @param {User} user */
  function item(user) {
    const known = items.get(user.id);
    if (known) return known;
    const button = make("button", { type: "button", class: "row", onclick: () => open(user) }, person(user));
    button.prepend(avatar(user.id, user.display_name));
    const made = make("li", { class: "other_user", id: `user_${user.id}` }, button);
    items.set(user.id, made);
    return made;
  }

  async function load() {
    const prefix = search.value.trim();
    const users = prefix ? await find(prefix) : await all("/users", "users", LISTED);
    if (prefix !== search.value.trim()) return;
    isFull = !prefix && users.length >= LISTED;
    directory.learn(users);
    arrange(list, users.map(item));
    byId("no-people").textContent = t(prefix ? "no_people" : "nobody_yet");
    byId("no-people").hidden = users.length > 0;
  }

  const refresh = () => void load().catch(() => strangers.clear());
  const soon = unhurried(refresh);

  /** @param {string} user */
  function heard(user) {
    if (isFull || items.has(user) || strangers.has(user)) return;
    strangers.add(user);
    soon();
  }

  search.addEventListener("input", soon);
  // New people come while the page is open, and nobody tells it.
  search.addEventListener("focus", refresh);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  setInterval(() => { if (!document.hidden && items.size === 0) refresh(); }, LOOK_EVERY);
  refresh();
  return heard;
}

/** A field to search people with, and those chosen. @param {(user: User) => boolean} isOffered */
export function picker(isOffered = () => true) {
  /** @type {Map<string, User>} */
  const chosen = new Map();
  const chips = make("ul", { class: "chips" });
  const results = make("ul", { class: "results", "aria-label": t("people") });
  const field = make("input", { type: "search", id: "picker-search", autocomplete: "off", placeholder: t("people_search") });

  function draw() {
    arrange(chips, [...chosen.values()].map((user) => make("li", {}, make("button", {
      type: "button", class: "chip", "aria-label": t("remove_who", { who: user.display_name }),
      onclick: () => { chosen.delete(user.id); draw(); field.focus(); },
    }, user.display_name, make("span", { "aria-hidden": "true" }, " ×")))));
  }

  async function refresh() {
    const users = (await find(field.value.trim()).catch(() => [])).filter((user) => isOffered(user) && !chosen.has(user.id));
    arrange(results, users.slice(0, 20).map((user) => {
      const button = make("button", { type: "button", class: "row", onclick: () => {
        chosen.set(user.id, user);
        field.value = "";
        draw();
        void refresh();
        field.focus();
      } }, person(user));
      button.prepend(avatar(user.id, user.display_name));
      return make("li", {}, button);
    }));
    if (users.length === 0) arrange(results, [make("li", { class: "quiet" }, t("no_people"))]);
  }

  field.addEventListener("input", unhurried(() => void refresh()));
  void refresh();
  const element = make("div", { class: "picker" }, make("label", { for: "picker-search" }, t("invite")), chips, field, results);
  return { element, chosen };
}
