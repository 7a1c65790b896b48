// @ts-check
// The field one writes in, and who else is writing.

import { icon, make } from "./dom.js";
import { t } from "./strings.js";

/** How often "is typing" is told, and how long it holds. */
const TELL_EVERY = 3_000;
const HOLDS = 5_000;
const DRAFTS = "natter-draft-";

/** Forgets what was written and not sent: who signs in next in this tab may be somebody else. */
export function clearDrafts() {
  try {
    for (const key of Object.keys(sessionStorage)) if (key.startsWith(DRAFTS)) sessionStorage.removeItem(key);
  } catch { /* storage may be forbidden */ }
}

/** @param {{id: string, me: string, title: string, send: (text: string) => boolean, typing: () => void}} room */
export function composer(room) {
  const field = make("textarea", { class: "type_msg", rows: 1 });
  const button = make("button", { type: "submit", class: "send_btn", title: t("send"), "aria-label": t("send") }, icon("send"));
  // The field's fourth parent is the room's pane: pages that come with other scripts rely on it.
  const form = make("form", { class: "message_form" }, make("div", { class: "input-group" }, field, button));
  const footer = make("div", { class: "card-footer" }, form);
  const draft = `${DRAFTS}${room.me} ${room.id}`;
  let told = 0;

  function grow() {
    field.style.height = "auto";
    // A long hint is no text.
    if (field.value) field.style.height = `${Math.min(field.scrollHeight + 2, 180)}px`;
  }

  function send() {
    const text = field.value.trim();
    if (!text || !room.send(text)) return;
    field.value = "";
    told = 0;
    keep();
    grow();
  }

  function keep() {
    try { sessionStorage.setItem(draft, field.value); } catch { /* as above */ }
  }

  try { field.value = sessionStorage.getItem(draft) ?? ""; } catch { /* as above */ }
  form.addEventListener("submit", (/** @type {Event} */ event) => { event.preventDefault(); send(); field.focus(); });
  field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  field.addEventListener("input", () => {
    grow();
    keep();
    if (field.value && Date.now() - told > TELL_EVERY) {
      told = Date.now();
      room.typing();
    }
  });
  /** @param {string} title */
  function retitle(title) {
    field.placeholder = t("message_to", { room: title });
    field.setAttribute("aria-label", field.placeholder);
  }

  retitle(room.title);
  requestAnimationFrame(grow);
  return { element: footer, retitle };
}

/** Who is typing, below the messages. @param {(id: string) => string} name */
export function typingLine(name) {
  const element = make("p", { class: "typing", role: "status" });
  /** @type {Map<string, any>} */
  const who = new Map();

  function draw() {
    const [one, other] = [...who.keys()].map(name);
    const key = who.size > 2 ? "typing_many" : who.size === 2 ? "typing_two" : "typing_one";
    element.textContent = who.size > 0 ? t(key, { who: one, other }) : "";
  }

  return {
    element,
    /** @param {string} user */
    on(user) {
      clearTimeout(who.get(user));
      who.set(user, setTimeout(() => { who.delete(user); draw(); }, HOLDS));
      draw();
    },
    /** @param {string} user */
    off(user) {
      clearTimeout(who.get(user));
      who.delete(user);
      draw();
    },
  };
}
