// Looking for people: pages of a search that show nobody are passed over.

import assert from "node:assert/strict";
import { test } from "node:test";

import { arrived, fakeApi, fakePage } from "../page.js";

fakePage();
const { picker } = await import("../../../gateway/assets/page/people.js");

const anna = { id: "anna", handle: "anna", display_name: "Anna" };

test("who is behind an empty page is found", async () => {
  const calls = fakeApi();
  const { element } = picker();
  calls[0].answer(200, { users: [], next: "further" });
  await arrived();
  assert.match(calls[1].path, /cursor=further/);
  calls[1].answer(200, { users: [anna], next: "more" });
  await arrived();
  assert.match(element.textContent, /anna/);
  assert.equal(calls.length, 2, "of those found no more are asked for");
});

test("a search that finds nobody ends", async () => {
  const calls = fakeApi();
  picker();
  for (let page = 0; page < 5; page += 1) {
    calls[page].answer(200, { users: [], next: "further" });
    await arrived();
  }
  assert.equal(calls.length, 5);
});
