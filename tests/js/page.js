// As much of a document as the page's parts take that need no layout, and an API that answers when told.

class Element extends EventTarget {
  children = [];
  attributes = new Map();
  style = {};
  hidden = false;
  #text = "";
  classList = { toggle() {} };

  constructor(tag) {
    super();
    this.tag = tag;
  }

  append(...nodes) {
    for (const node of nodes) this.children.push(node);
  }

  prepend(...nodes) {
    this.children.unshift(...nodes);
  }

  replaceChildren(...nodes) {
    this.children = nodes;
  }

  get childElementCount() {
    return this.children.length;
  }

  setAttribute(name, value) {
    this.attributes.set(name, value);
  }

  querySelectorAll() {
    return [];
  }

  focus() {}

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

/** Puts a document with elements of these ids, and what else a browser has, where scripts look for them. */
export function fakePage(...ids) {
  const body = new Element("body");
  const create = (/** @type {string} */ tag) => new Element(tag);
  for (const id of ids) body.append(Object.assign(create("div"), { id }));
  const kept = new Map();
  Object.assign(globalThis, {
    document: {
      body, cookie: "", documentElement: create("html"), createElement: create, createElementNS: (_, tag) => create(tag), createDocumentFragment: () => create(""),
      getElementById: (id) => body.find(id) ?? null,
    },
    sessionStorage: {
      getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value), removeItem: (key) => kept.delete(key),
      key: (at) => [...kept.keys()][at] ?? null, get length() { return kept.size; },
    },
    requestAnimationFrame: (run) => run(),
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
