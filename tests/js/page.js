// As much of a document as the page's parts take, each element a line of its own, and an API that answers when told.

/** The height of a line, and of what shows lines. */
export const LINE = 20;
export const SHOWN = 400;

class Element extends EventTarget {
  children = [];
  parent = null;
  attributes = new Map();
  dataset = {};
  style = {};
  value = "";
  hidden = false;
  isConnected = true;
  clientHeight = SHOWN;
  #scrollTop = 0;
  #text = "";
  classList = { toggle() {} };

  constructor(tag) {
    super();
    this.tag = tag;
  }

  append(...nodes) {
    for (const node of nodes) this.insertBefore(node, null);
  }

  prepend(...nodes) {
    for (const node of nodes.reverse()) this.insertBefore(node, this.children[0]);
  }

  replaceChildren(...nodes) {
    this.children = [];
    this.append(...nodes);
  }

  insertBefore(node, next) {
    if (node instanceof Element) {
      node.remove();
      node.parent = this;
    }
    const at = this.children.indexOf(next);
    this.children.splice(at < 0 ? this.children.length : at, 0, node);
  }

  remove() {
    if (this.parent) this.parent.children = this.parent.children.filter((child) => child !== this);
    this.parent = null;
  }

  get childNodes() {
    return this.children;
  }

  get firstChild() {
    return this.children[0] ?? null;
  }

  get nextSibling() {
    return this.parent.children[this.parent.children.indexOf(this) + 1] ?? null;
  }

  // Its layout.
  get scrollHeight() {
    return this.children.length * LINE;
  }

  get scrollTop() {
    return this.#scrollTop;
  }

  set scrollTop(top) {
    this.#scrollTop = Math.max(0, Math.min(top, this.scrollHeight - SHOWN));
  }

  get offsetTop() {
    return this.parent ? this.parent.children.indexOf(this) * LINE : 0;
  }

  getBoundingClientRect() {
    const top = this.offsetTop - (this.parent?.scrollTop ?? 0);
    return { top, bottom: top + LINE };
  }

  get childElementCount() {
    return this.children.length;
  }

  setAttribute(name, value) {
    this.attributes.set(name, value);
  }

  removeAttribute(name) {
    this.attributes.delete(name);
  }

  /** By one class, in its own children: `.line`. */
  querySelectorAll(selector) {
    return this.children.filter((child) => child.attributes?.get("class")?.split(" ").includes(selector.slice(1)));
  }

  focus() {}

  showModal() {}

  close() {
    this.remove();
  }

  get textContent() {
    return this.#text + this.children.map((child) => child.textContent ?? child).join("");
  }

  set textContent(text) {
    this.children = [];
    this.#text = text;
  }

  /** The element of an id, in here. */
  find(id) {
    if (this.id === id) return this;
    for (const child of this.children) {
      const found = child instanceof Element ? child.find(id) : undefined;
      if (found) return found;
    }
    return undefined;
  }
}

class Storage {
  getItem(key) { return this[key] ?? null; }
  setItem(key, value) { this[key] = value; }
  removeItem(key) { delete this[key]; }
}

/** Puts a document with elements of these ids, and what else a browser has, where scripts look for them. */
export function fakePage(...ids) {
  const body = new Element("body");
  const create = (/** @type {string} */ tag) => new Element(tag);
  for (const id of ids) body.append(Object.assign(create("div"), { id }));
  Object.assign(globalThis, {
    document: {
      body, cookie: "", documentElement: create("html"), createElement: create, createElementNS: (_, tag) => create(tag), createDocumentFragment: () => create(""),
      getElementById: (id) => body.find(id) ?? null,
    },
    sessionStorage: new Storage(),
    requestAnimationFrame: (run) => run(),
    ResizeObserver: class { observe() {} disconnect() {} },
  });
  globalThis.localStorage ??= { getItem: () => null };
  Object.defineProperty(globalThis, "navigator", { value: { languages: ["en"], language: "en" }, configurable: true });
  return body;
}

/** An API whose calls wait, in order, for `answer(status, body)`. */
export function fakeApi() {
  const calls = [];
  globalThis.fetch = (path, { method, headers, body }) => new Promise((resolve) => {
    calls.push({ path, method, headers, body: body && JSON.parse(body), answer: (status, answer) => resolve(new Response(JSON.stringify(answer), { status })) });
  });
  return calls;
}

/** A client that only tells what the test says. */
export class FakeClient extends EventTarget {
  on(type, listener) {
    const run = (event) => listener(event.detail);
    this.addEventListener(type, run);
    return () => this.removeEventListener(type, run);
  }

  tell(type, detail) {
    this.dispatchEvent(Object.assign(new Event(type), { detail }));
  }
}

/** Lets answers arrive. */
export const arrived = () => new Promise((resolve) => setTimeout(resolve, 5));
