// @ts-check
// Notifications: the bell with its count, the panel with the list, and sending one.

import { call, get, newKey } from "./api.js";
import { announce, avatar, byId, iconButton, linked, make } from "./dom.js";
import { explain, shortTime, t, wholeTime } from "./strings.js";
import { comparePositions } from "../natter.js";

/** Pages that are asked for at once, at most, as long as they have nothing. */
const MOST_PAGES = 20;

/**
 * A page of the inbox; where it has nothing, as where all in it is archived, the one after it.
 * @param {string} query @param {string|null} [from]
 */
async function pageOf(query, from = null) {
  let answer = await get(`/notifications?${query}${from ? `&cursor=${encodeURIComponent(from)}` : ""}`);
  for (let pages = 1; pages < MOST_PAGES && answer.notifications.length === 0 && answer.next; pages += 1) {
    answer = await get(`/notifications?${query}&cursor=${encodeURIComponent(answer.next)}`);
  }
  return answer;
}

/**
 * @param {import("../natter.js").Client} client @param {import("./people.js").Directory} directory
 * @param {{onCount: (unseen: number) => void, groupTitle: (id: string) => string|undefined}} page
 */
export function showBell(client, directory, page) {
  const bell = byId("bell");
  const panel = byId("notification-panel");
  const list = byId("notifications");
  const more = byId("more-notifications");
  /** @type {{unseen: number, version: string}} */
  let inbox = { unseen: Number(byId("unseen-count").textContent), version: "0.0" };
  let isArchive = false;
  /** @type {string|null} */
  let next = null;
  /** Of several loads the latest one that is answered holds, whenever the others are. */
  let loads = 0;
  let answered = 0;
  let isLoading = false;
  /** What came live, and during which load: it may not be in the answer of that or of an earlier one. @type {Map<string, {made: any, load: number}>} */
  const came = new Map();
  /** The notification that was to be sent last, until it is. @type {{handle: string, body: string, key: string}|null} */
  let attempt = null;
  const quietly = (/** @type {Promise<any>} */ work) => void work.catch(() => { byId("notification-result").textContent = t("unavailable"); });

  /** @param {number} unseen */
  function count(unseen) {
    inbox.unseen = Math.max(0, unseen);
    const badge = byId("unseen-count");
    badge.textContent = inbox.unseen > 99 ? "99+" : String(inbox.unseen);
    badge.hidden = inbox.unseen === 0;
    bell.setAttribute("aria-label", inbox.unseen > 0 ? t("notifications_unseen", { n: inbox.unseen }) : t("notifications"));
    byId("clean-seen").disabled = inbox.unseen === 0;
    page.onCount(inbox.unseen);
  }

  /** Of two counts the later one holds. @param {any} counts */
  function onCounts(counts) {
    if (comparePositions(counts.version, inbox.version) < 0) return;
    inbox = { ...counts };
    count(counts.unseen);
  }

  /** @param {any} entry a notification of the API, or a new one of the socket */
  function item(entry) {
    const sender = entry.sender ?? null;
    if (sender?.id) directory.learn([sender]);
    const id = sender?.id ?? sender ?? "";
    const name = id ? directory.name(id) : t("system");
    const room = entry.group && page.groupTitle(entry.group);
    const made = make("li", { id: `notification_${entry.id}`, class: entry.seen ? "list-group-item" : "list-group-item-primary" },
      avatar(id || "system", name),
      make("div", { class: "lines" },
        make("p", { class: "from" }, make("b", { "data-user": id }, name), room ? ` · ${room}` : "", " ", make("time", { dateTime: entry.sent_at, title: wholeTime(entry.sent_at) }, shortTime(entry.sent_at))),
        make("p", { class: "text" }, linked(entry.body))),
      make("div", { class: "tools" },
        !entry.seen && iconButton("check", t("mark_seen"), { class: "mark-seen", onclick: () => quietly(see([entry.id])) }),
        !entry.archived && iconButton("archive", t("archive"), { class: "archive", onclick: () => quietly(archive(entry.id)) })));
    return made;
  }

  function empty() {
    byId("no-notifications").hidden = list.childElementCount > 0 || next !== null;
    more.hidden = next === null;
  }

  async function load(isMore = false) {
    const mine = (loads += 1);
    isLoading = true;
    const ofArchive = isArchive;
    try {
      const answer = await pageOf(`limit=50${ofArchive ? "&archived=true" : ""}`, isMore ? next : null);
      if (mine < answered || ofArchive !== isArchive) return;
      answered = mine;
      const items = answer.notifications.map(item);
      for (const { id } of answer.notifications) came.delete(id);
      for (const [id, { load }] of came) if (load < mine) came.delete(id);
      if (isMore) list.append(...items);
      else list.replaceChildren(...[...came.values()].map(({ made }) => made).reverse(), ...items);
      next = answer.next ?? null;
      onCounts(answer.inbox);
      empty();
    } finally {
      if (mine === loads) isLoading = false;
    }
  }

  /** @param {string[]} ids */
  async function see(ids) {
    await call("POST", "/notifications/seen", { ids });
    for (const id of ids) {
      const made = byId(`notification_${id}`);
      if (!made) continue;
      made.className = "list-group-item";
      const had = made.contains(document.activeElement);
      made.querySelector(".mark-seen")?.remove();
      if (had) made.querySelector("button")?.focus();
    }
    onCounts(await get("/notifications/counts"));
  }

  async function seeAll() {
    /** @type {string|null} */
    let from = null;
    for (let round = 0; round < 20; round += 1) {
      /** @type {any} */
      const { notifications, next: after } = await pageOf("unseen=true&limit=200", from);
      if (notifications.length > 0) await see(notifications.map((/** @type {any} */ entry) => entry.id));
      from = after ?? null;
      if (from === null) break;
    }
  }

  /** @param {string} id */
  async function archive(id) {
    await call("POST", "/notifications/archive", { ids: [id] });
    came.delete(id);
    const made = byId(`notification_${id}`);
    const neighbour = made?.nextElementSibling ?? made?.previousElementSibling;
    made?.remove();
    (neighbour?.querySelector("button") ?? byId("close-notifications")).focus();
    onCounts(await get("/notifications/counts"));
    empty();
  }

  /** @param {boolean} isOpen */
  function toggle(isOpen) {
    panel.hidden = !isOpen;
    bell.setAttribute("aria-expanded", String(isOpen));
    document.body.classList.toggle("with-notifications", isOpen);
    if (isOpen) byId("close-notifications").focus();
    else bell.focus();
  }

  async function notify() {
    const user = byId("user-input");
    const text = byId("chat-message-input");
    const result = byId("notification-result");
    const [handle, body] = [user.value.trim(), text.value.trim()];
    if (!handle || !body) return (handle ? text : user).focus();
    result.textContent = "";
    // Tried again, it is the same: there will be one.
    if (!attempt || attempt.handle !== handle || attempt.body !== body) attempt = { handle, body, key: newKey() };
    const { key } = attempt;
    try {
      const { users } = await get(`/users?handle=${encodeURIComponent(handle)}`);
      if (users.length === 0) {
        result.textContent = t("unknown_user", { who: handle });
        return;
      }
      await call("POST", "/notifications", { to: { user: users[0].id }, body }, { key });
      attempt = null;
      text.value = "";
      result.textContent = t("notified", { who: users[0].display_name });
    } catch (error) {
      result.textContent = explain(error);
    }
  }

  client.on("notification", (notification) => {
    if (byId(`notification_${notification.id}`)) return;
    if (!isArchive) {
      const made = item({ ...notification, seen: false, archived: false });
      came.set(notification.id, { made, load: loads });
      list.prepend(made);
    }
    announce(t("notification_from", { who: notification.sender ? directory.name(notification.sender) : t("system"), text: notification.body }));
    empty();
  });
  client.on("inbox", onCounts);
  // Counts alone may have changed elsewhere, and so has the list where something was missed.
  client.on("gap", ({ group }) => { if (!group) quietly(load()); });
  directory.addEventListener("change", () => {
    for (const who of list.querySelectorAll("b[data-user]")) if (who.dataset.user) who.textContent = directory.name(who.dataset.user);
  });

  bell.addEventListener("click", () => toggle(panel.hidden));
  byId("close-notifications").addEventListener("click", () => toggle(false));
  panel.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => event.key === "Escape" && toggle(false));
  byId("clean-seen").addEventListener("click", () => quietly(seeAll()));
  // What is being loaded may begin anew, and more is what comes after that.
  more.addEventListener("click", () => { if (!isLoading) quietly(load(true)); });
  byId("show-archived").addEventListener("click", () => {
    isArchive = !isArchive;
    byId("show-archived").setAttribute("aria-pressed", String(isArchive));
    quietly(load());
  });
  byId("notification-message-submit").addEventListener("click", () => void notify());
  byId("notification-form").addEventListener("submit", (/** @type {Event} */ event) => { event.preventDefault(); void notify(); });
  count(inbox.unseen);
  // Ready first, so that nothing falls between what is loaded and what is told.
  client.on("ready", () => { if (answered === 0) quietly(load()); });
}
