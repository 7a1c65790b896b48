// @ts-check
// The sign-in page: a name or a token for a cookie, then on to where the user was going.

import { call } from "./api.js";
import { byId } from "./dom.js";
import { explain, switchLanguage, t, translate } from "./strings.js";

translate();
document.title = `${t("sign_in")} · Natter`;
byId("language").addEventListener("click", switchLanguage);

/** @param {string} form @param {(data: FormData) => Promise<any>} signIn */
function onSubmit(form, signIn) {
  const button = byId(form)?.querySelector("button");
  if (!button) return;
  // Only now: a browser that submits the form by itself puts the token into the URL.
  button.disabled = false;
  byId(form).addEventListener("submit", async (/** @type {any} */ event) => {
    event.preventDefault();
    const error = byId("sign-in-error");
    error.hidden = true;
    button.disabled = true;
    try {
      await signIn(new FormData(event.target));
      location.assign(document.body.dataset.next ?? "/");
    } catch (problem) {
      error.textContent = explain(problem);
      error.hidden = false;
      button.disabled = false;
    }
  });
}

onSubmit("sign-in-form", (data) => call("POST", "/dev/login", { name: String(data.get("name")).trim() }, { stay: true }));
onSubmit("token-form", (data) => call("POST", "/session", undefined, { token: String(data.get("token")).trim(), stay: true }));
