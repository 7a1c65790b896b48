// @ts-check
// Loads the page's script, which `data-script` of the body names. While two releases run side by side, modules may come from
// both, and not fit together. So this one imports none, and where they do not load it says so and loads the page again.

const KEPT = "natter-loads-failed";
/** The pause (s) before the first reload, at most; twice that before the next, and so on, up to the longest. */
const PAUSE = 4;
const LONGEST_PAUSE = 60;

// In each of the page's languages: which one is in force is known once the page is loaded.
const NOTICE = [["en", "The page could not be loaded whole; trying again…"], ["zh-Hant", "網頁未能完整載入，正在重試…"]];

/** @param {unknown} reason */
function tryAgain(reason) {
  console.error(reason);
  const notice = document.createElement("div");
  notice.setAttribute("class", "not-whole");
  notice.setAttribute("role", "alert");
  document.body.prepend(notice);
  for (const [lang, text] of NOTICE) {
    const words = document.createElement("span");
    words.setAttribute("lang", lang);
    words.textContent = text;
    notice.append(words);
  }
  const failed = Number(sessionStorage.getItem(KEPT)) || 0;
  sessionStorage.setItem(KEPT, String(failed + 1));
  // With chance: all that were open at a change of releases do not come back at once.
  setTimeout(() => location.reload(), Math.min(LONGEST_PAUSE, PAUSE * 2 ** failed) * 1000 * (0.5 + Math.random() / 2));
}

import(`./${document.body.dataset.script}`).then(() => sessionStorage.removeItem(KEPT), tryAgain);
