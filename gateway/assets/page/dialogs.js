// @ts-check
// The dialogs: a new group, and a group's members and settings. The browser's own `<dialog>` keeps
// the focus within and gives it back.

import { all, call, newKey } from "./api.js";
import { arrange, avatar, iconButton, make } from "./dom.js";
import { person, picker } from "./people.js";
import { explain, t } from "./strings.js";

/**
 * @param {string} title @param {any[]} content @param {{label: string, run: () => Promise<any>}} [action]
 */
function dialog(title, content, action) {
  const error = make("p", { class: "error", role: "alert" });
  const close = () => element.close();
  const heading = make("h2", { id: "dialog-title" }, title);
  const submit = action && make("button", { type: "submit", class: "primary" }, action.label);
  const form = make("form", {}, make("header", {}, heading, iconButton("close", t("close"), { onclick: close })), ...content, error,
    action && make("footer", {}, make("button", { type: "button", onclick: close }, t("cancel")), submit));
  const element = make("dialog", { "aria-labelledby": "dialog-title" }, form);
  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (!action) return;
    submit.disabled = true;
    if (await attempt(error, action.run)) close();
    submit.disabled = false;
  });
  element.addEventListener("close", () => element.remove());
  element.addEventListener("click", (/** @type {Event} */ event) => event.target === element && close());
  document.body.append(element);
  element.showModal();
  return { element, heading, error, close };
}

/** Runs a call and shows why it did not work. @param {any} place @param {() => Promise<any>} run */
async function attempt(place, run) {
  place.textContent = "";
  try {
    await run();
    return true;
  } catch (error) {
    place.textContent = explain(error);
    return false;
  }
}

/** @param {() => {made: (group: any) => void, giveUp: () => void}} create called with each try; what it gives is told what came of that */
export function createGroup(create) {
  const name = make("input", { id: "group-name", required: true, maxLength: 80, autocomplete: "off" });
  const people = picker();
  /** The group that was to be made last. */
  let attempt = { asked: "", key: "" };
  dialog(t("create_group"), [make("label", { for: "group-name" }, t("group_name")), name, people.element], {
    label: t("create"),
    run: async () => {
      const group = { display_name: name.value.trim(), members: [...people.chosen.keys()] };
      const asked = JSON.stringify(group);
      // Tried again, it is the same: there will be one.
      if (attempt.asked !== asked) attempt = { asked, key: newKey() };
      const turn = create();
      try {
        turn.made(await call("POST", "/groups", group, { key: attempt.key }));
      } catch (error) {
        turn.giveUp();
        throw error;
      }
    },
  });
  name.focus();
}

/** @param {import("./groups.js").Room} room @param {string} title */
export function addPeople(room, title) {
  const people = picker();
  dialog(`${t("add_people")} · ${title}`, [people.element], {
    label: t("add"),
    run: async () => {
      for (const user of people.chosen.keys()) await call("PUT", `/groups/${room.id}/members/${encodeURIComponent(user)}`, {});
    },
  });
}

/**
 * Members, name, leaving.
 * @param {import("./groups.js").Room} room @param {string} title @param {string} me
 */
export async function details(room, title, me) {
  const mayManage = room.kind === "group" && room.role !== "member";
  const list = make("ul", { class: "members", "aria-label": t("members") }, make("li", { class: "quiet" }, t("loading")));
  const name = make("input", { id: "new-name", value: room.display_name, maxLength: 80, autocomplete: "off",
    onkeydown: (/** @type {KeyboardEvent} */ event) => event.key === "Enter" && !event.isComposing && void renameTo(name.value.trim()) });
  const rename = mayManage && make("div", { class: "rename" }, make("label", { for: "new-name" }, t("group_name")), name,
    make("button", { type: "button", onclick: () => renameTo(name.value.trim()) }, t("rename")));
  const add = mayManage && make("button", { type: "button", onclick: () => { shown.close(); addPeople(room, title); } }, t("add_people"));
  const leave = room.kind !== "single" && make("button", { type: "button", class: "danger", onclick: () => askLeave(true) }, t("leave"));
  const actions = make("div", { class: "actions" }, add, leave);
  const sure = make("div", { class: "sure", hidden: true }, make("p", {}, t("leave_sure", { room: title })),
    make("button", { type: "button", onclick: () => askLeave(false) }, t("cancel")),
    make("button", { type: "button", class: "danger", id: "leave-sure", onclick: () => act(async () => {
      await call("POST", `/groups/${room.id}/leave`);
      shown.close();
    }) }, t("leave")));
  const shown = dialog(title, [rename, make("h3", {}, t("members")), list, actions, sure]);

  const act = (/** @type {() => Promise<any>} */ run) => attempt(shown.error, run);

  /** @param {string} to */
  async function renameTo(to) {
    if (await act(() => call("PATCH", `/groups/${room.id}`, { display_name: to }))) {
      room.display_name = to;
      shown.heading.textContent = to;
    }
  }

  /** @param {boolean} isAsked */
  function askLeave(isAsked) {
    sure.hidden = !isAsked;
    actions.hidden = isAsked;
    (isAsked ? sure.querySelector("button") : leave).focus();
  }

  async function load() {
    const members = await all(`/groups/${room.id}/members`, "members", 1000);
    arrange(list, members.map(({ user, role }) => {
      const remove = mayManage && user.id !== me && role !== "owner" && iconButton("close", t("remove_who", { who: user.display_name }), {
        onclick: () => act(async () => {
          await call("DELETE", `/groups/${room.id}/members/${encodeURIComponent(user.id)}`);
          const gone = list.querySelector(`[data-user="${CSS.escape(user.id)}"]`);
          const neighbour = gone?.nextElementSibling ?? gone?.previousElementSibling;
          gone?.remove();
          (neighbour?.querySelector("button") ?? shown.element.querySelector("button")).focus();
        }),
      });
      return make("li", { "data-user": user.id }, avatar(user.id, user.display_name), person(user),
        make("span", { class: "role" }, t(`role_${role}`)), remove);
    }));
  }
  await act(load);
}
