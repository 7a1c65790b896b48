// @ts-check
// The HTTP API, as the page uses it. Mistakes are thrown as `ApiError`, with the problem's code.

/** What the server did not like. */
export class ApiError extends Error {
  /** @param {number} status @param {{code?: string, detail?: string, title?: string}} problem */
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `HTTP ${status}`);
    this.status = status;
    this.code = problem.code ?? "";
  }
}

function csrfToken() {
  const cookie = document.cookie.split("; ").find((one) => one.startsWith("csrftoken="));
  return cookie ? cookie.slice("csrftoken=".length) : "";
}

/** A new key for a request that makes something, so that trying again makes one. */
export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** To the sign-in, and back here after it. */
export function signInAgain() {
  location.assign(`/sign-in?next=${encodeURIComponent(location.pathname)}`);
}

/** How often a call is made that the server is too busy for, or cannot answer just now. */
const ATTEMPTS = 4;

/** A second, or what the server asks for up to three, with jitter. @param {Response} response */
const pause = (response) => {
  const seconds = Math.min(Number(response.headers.get("Retry-After")) || 1, 3);
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000 * (0.5 + Math.random() / 2)));
};

/**
 * Each of the calls may be made again: those that make something have a key.
 *
 * @param {string} method @param {string} path below `/api/v1` @param {any} [body]
 * @param {{key?: string, token?: string, stay?: boolean}} [more] `stay`: a 401 is an error like any other
 */
export async function call(method, path, body, more = {}) {
  /** @type {Record<string, string>} */
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRFToken"] = csrfToken();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (more.key) headers["Idempotency-Key"] = more.key;
  if (more.token) headers.Authorization = `Bearer ${more.token}`;
  const text = body === undefined ? undefined : JSON.stringify(body);
  for (let attempt = 1; ; attempt += 1) {
    const response = await fetch(`/api/v1${path}`, { method, headers, body: text });
    if (response.ok) return response.status === 204 ? null : response.json();
    const problem = await response.json().catch(() => ({}));
    if (problem.retryable && attempt < ATTEMPTS) {
      await pause(response);
      continue;
    }
    if (response.status === 401 && !more.stay) signInAgain();
    throw new ApiError(response.status, problem);
  }
}

export const get = (/** @type {string} */ path) => call("GET", path);

/** All pages of a list. @param {string} path @param {string} items the list's field @param {number} [most] */
export async function all(path, items, most = 2000) {
  const found = [];
  let cursor = null;
  do {
    const joint = path.includes("?") ? "&" : "?";
    const page = await get(`${path}${joint}limit=200${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
    found.push(...page[items]);
    cursor = page.next;
  } while (cursor && found.length < most);
  return found;
}
