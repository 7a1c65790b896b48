// The dialog of a new group: tried again, there is one group, and the one that was asked for.

import assert from "node:assert/strict";
import { test } from "node:test";

import { arrived, fakeApi, fakePage } from "../page.js";

fakePage();
const { createGroup } = await import("../../../gateway/assets/page/dialogs.js");

test("a group has one key for all tries, and another group another", async () => {
  const body = fakePage();
  const calls = fakeApi();
  const made = [];
  let givenUp = 0;
  createGroup(() => ({ made: (group) => made.push(group.id), giveUp: () => { givenUp += 1; } }));
  const tries = () => calls.filter(({ method }) => method === "POST");
  const submit = async (name, status, answer) => {
    body.find("group-name").value = name;
    body.children.at(-1).children[0].dispatchEvent(new Event("submit"));
    tries().at(-1).answer(status, answer);
    await arrived();
  };
  const problem = { code: "unavailable", retryable: false };
  await submit("Launch", 503, problem);
  await submit("Launch", 503, problem);
  await submit("Landing", 201, { id: "g" });
  const [first, again, other] = tries().map(({ headers }) => headers["Idempotency-Key"]);
  assert.equal(first, again);
  assert.notEqual(first, other);
  assert.deepEqual([made, givenUp], [["g"], 2]);
});
