// @ts-check
// Small makers of elements. What people wrote is only ever set as text, never as markup.

/** @param {string} id @returns {any} */
export const byId = (id) => document.getElementById(id);

/**
 * An element with properties and children. `class`, `role`, `aria-…`, `data-…` and `for` are attributes, `on…`
 * listeners, all else properties.
 * @param {string} tag @param {Record<string, any>} [properties] @param {...(Node|string|null|undefined|false)} children
 * @returns {any}
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (/^(class|role|for|tabindex|aria-|data-)/.test(name)) element.setAttribute(name, value === true ? "" : String(value));
    else /** @type {any} */ (element)[name] = value;
  }
  for (const child of children) if (child) element.append(child);
  return element;
}

const PATHS = {
  back: "M15 5l-7 7 7 7",
  bell: "M6 16V11a6 6 0 0 1 12 0v5l1.5 2h-15L6 16zM10 20.5a2.2 2.2 0 0 0 4 0",
  check: "M5 12.5l4.5 4.5L19 7.5",
  clock: "M12 7v5l3 2M21 12a9 9 0 1 1-18 0 9 9 0 0 1 18 0z",
  alert: "M12 8v5M12 16.5v.01M21 12a9 9 0 1 1-18 0 9 9 0 0 1 18 0z",
  plus: "M12 5v14M5 12h14",
  people: "M9 11.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM2.5 20c0-3.5 2.9-5.5 6.5-5.5s6.5 2 6.5 5.5M16 5a3.4 3.4 0 0 1 0 6.5M18 14.8c2 .7 3.5 2.4 3.5 5.2",
  archive: "M4 8h16v11H4zM3 4.5h18V8H3zM10 12h4",
  send: "M4 12l16-8-5 16-3.5-6.5L4 12z",
  down: "M12 5v14M6 13l6 6 6-6",
  close: "M6 6l12 12M18 6L6 18",
};

/** @param {keyof typeof PATHS} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button of an icon alone. @param {keyof typeof PATHS} name @param {string} label @param {Record<string, any>} [properties] */
export function iconButton(name, label, properties = {}) {
  const button = make("button", { type: "button", title: label, "aria-label": label, ...properties, class: `icon-button ${properties.class ?? ""}`.trim() });
  button.append(icon(name));
  return button;
}

/** One of eight calm colours, the same for the same text. @param {string} text */
function tone(text) {
  let hash = 7;
  for (const char of text) hash = (hash * 31 + (char.codePointAt(0) ?? 0)) % 9973;
  return hash % 8;
}

/** Initials on a colour; a room has its hash. @param {string} key @param {string} name @param {string} [sign] */
export function avatar(key, name, sign) {
  const words = name.trim().split(/[\s_-]+/).filter(Boolean);
  const first = Array.from(words[0] ?? "?")[0] ?? "?";
  const second = words.length > 1 ? Array.from(words[words.length - 1])[0] : "";
  return make("span", { class: `avatar tone-${tone(key)}`, "aria-hidden": "true" }, sign ?? (first + second).toUpperCase());
}

/** Puts `wanted` into `parent`, in order, touching only what differs. @param {Element} parent @param {Node[]} wanted */
export function arrange(parent, wanted) {
  const keep = new Set(wanted);
  for (const child of [...parent.childNodes]) if (!keep.has(child)) child.remove();
  let at = parent.firstChild;
  for (const node of wanted) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
}

const LINK = /\bhttps?:\/\/[^\s<>"']+[^\s<>"'.,;:!?)\]}]/g;

/** Text with its links made clickable. @param {string} text */
export function linked(text) {
  const fragment = document.createDocumentFragment();
  let from = 0;
  for (const found of text.matchAll(LINK)) {
    fragment.append(text.slice(from, found.index), make("a", { href: found[0], target: "_blank", rel: "noopener noreferrer" }, found[0]));
    from = found.index + found[0].length;
  }
  fragment.append(text.slice(from));
  return fragment;
}

/** Says something to who listens to the page. @param {string} text */
export function announce(text) {
  const place = byId("announcer");
  if (place) place.append(make("p", {}, text));
  while (place && place.childElementCount > 5) place.firstElementChild.remove();
}
