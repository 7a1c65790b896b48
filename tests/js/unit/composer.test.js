// What one writes and has not sent yet: there again for oneself, and for nobody else.

import assert from "node:assert/strict";
import { test } from "node:test";

import { fakePage } from "../page.js";

fakePage();
const { clearDrafts, composer } = await import("../../../gateway/assets/page/composer.js");

/** The field of a room, as it is when the room is opened. */
const fieldOf = (me, id = "g") => composer({ id, me, title: "g", send: () => true, typing() {} }).element.children[0].children[0].children[0];

function write(field, text) {
  field.value = text;
  field.dispatchEvent(new Event("input"));
}

test("a draft is there again in its room, for who wrote it", () => {
  write(fieldOf("alice"), "half a sen");
  assert.deepEqual([fieldOf("alice").value, fieldOf("alice", "h").value, fieldOf("bob").value], ["half a sen", "", ""]);
});

test("signing out forgets drafts, and nothing else", () => {
  write(fieldOf("alice"), "half a sen");
  sessionStorage.setItem("other", "kept");
  clearDrafts();
  assert.deepEqual([fieldOf("alice").value, sessionStorage.getItem("other")], ["", "kept"]);
});
