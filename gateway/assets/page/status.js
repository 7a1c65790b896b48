// @ts-check
// The state of the connection: a dot with a word, and a banner with a countdown while it is lost.

import { signInAgain } from "./api.js";
import { byId } from "./dom.js";
import { t } from "./strings.js";

/** @param {import("../natter.js").Client} client */
export function showStatus(client) {
  const status = byId("status");
  const banner = byId("banner");
  const text = byId("banner-text");
  const countdown = byId("banner-countdown");
  let retryAt = 0;
  /** @type {any} */
  let ticking;
  let wasReady = false;

  function tick() {
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    countdown.textContent = t("retry_in", { n: seconds });
  }

  client.on("state", ({ state, retryAt: at, code, reason }) => {
    document.body.dataset.state = state;
    clearInterval(ticking);
    if (state === "closed" && code === 4401) return signInAgain();
    if (state === "ready") wasReady = true;
    status.textContent = t(state === "ready" ? "connected" : state === "closed" ? "closed" : "connecting");
    // A first connect needs no alarm.
    banner.hidden = state === "ready" || (state === "connecting" && !wasReady && banner.hidden);
    countdown.textContent = "";
    if (state === "waiting") {
      text.textContent = t("lost");
      retryAt = at ?? Date.now();
      tick();
      ticking = setInterval(tick, 250);
    } else if (state === "connecting") {
      text.textContent = t("connecting");
    } else if (state === "closed") {
      text.textContent = reason ? t("closed_by", { reason }) : t("closed");
    }
    byId("reconnect").hidden = state === "connecting";
  });

  byId("reconnect").addEventListener("click", () => client.reconnect());
  addEventListener("online", () => client.state === "waiting" && client.reconnect());
}
