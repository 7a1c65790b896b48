// What is known of groups: from the socket and from the API, whose answers may be late.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { group } from "../fake.js";
import { FakeClient, arrived, fakeApi, fakePage } from "../page.js";

fakePage();
const { Groups } = await import("../../../gateway/assets/page/groups.js");

let calls, client, groups;
const left = (id) => client.tell("group", { group: id, change: "left", user: "alice", position: "1.20" });
const listed = () => [...groups.rooms.keys()];

beforeEach(() => {
  calls = fakeApi();
  client = new FakeClient();
  groups = new Groups(client, Object.assign(new EventTarget(), { learn() {}, name: (id) => id }), "alice");
  client.tell("groups", { groups: [group("g", "1.10"), group("h", "1.10")], more: false });
});

test("a list that was asked for before a group was left does not bring it back, a later one does", async () => {
  const loaded = groups.load();
  left("g");
  calls[0].answer(200, { groups: [group("g"), group("h")], next: null });
  await loaded;
  assert.deepEqual(listed(), ["h"]);
  const again = groups.load();
  calls[1].answer(200, { groups: [group("g"), group("h")], next: null });
  await again;
  assert.deepEqual(listed(), ["h", "g"]);
});

test("nor does what was asked of that group alone", async () => {
  client.tell("gap", { group: "g" });
  left("g");
  calls[0].answer(200, group("g"));
  await arrived();
  assert.deepEqual(listed(), ["h"]);
});
