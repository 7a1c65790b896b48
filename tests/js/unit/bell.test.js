// The list of notifications: what is loaded and what comes live, in whatever order.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { FakeClient, arrived, fakeApi, fakePage } from "../page.js";

fakePage();
const { showBell } = await import("../../../gateway/assets/page/bell.js");

const sentAt = "2026-11-22T08:30:00.000Z";
const stored = (...ids) => ids.map((id) => ({ id, sender: null, body: id, sent_at: sentAt, seen: false, archived: false }));
const page = (ids, more = {}) => ({ notifications: stored(...ids), next: null, inbox: { unseen: ids.length, unread: ids.length, version: "1.1" }, ...more });

let body, calls, client;
const listed = () => body.find("notifications").children.map(({ id }) => id.slice("notification_".length));
const click = (id) => body.find(id).dispatchEvent(new Event("click"));
const live = (id) => client.tell("notification", { id, body: id, position: "1.9", sent_at: sentAt });

beforeEach(() => {
  body = fakePage("bell", "notification-panel", "notifications", "more-notifications", "unseen-count", "clean-seen", "no-notifications", "notification-result",
    "close-notifications", "show-archived", "notification-message-submit", "notification-form", "user-input", "chat-message-input", "announcer");
  calls = fakeApi();
  client = new FakeClient();
  const directory = Object.assign(new EventTarget(), { learn() {}, name: (id) => id });
  showBell(client, directory, { onCount() {}, groupTitle() {} });
});

test("is loaded once the connection is ready, and not again by every further one", async () => {
  await arrived();
  assert.equal(calls.length, 0, "what is stored before the connection is ready would be in neither");
  client.tell("ready", {});
  calls[0].answer(200, page(["b", "a"]));
  await arrived();
  assert.deepEqual(listed(), ["b", "a"]);
  client.tell("ready", {});
  assert.equal(calls.length, 1);
});

test("what comes live while it is loaded stays, each once", async () => {
  client.tell("ready", {});
  for (const id of ["c", "d", "e"]) live(id);
  calls[0].answer(200, page(["c", "b", "a"]));
  await arrived();
  assert.deepEqual(listed(), ["e", "d", "c", "b", "a"]);
  client.tell("gap", {});
  calls[1].answer(200, page(["c"]));
  await arrived();
  assert.deepEqual(listed(), ["c"], "what came before the next one began is in its answer, or gone");
});

test("of two loads the later one holds, in whichever order they are answered", async () => {
  client.tell("ready", {});
  client.tell("gap", {});
  calls[1].answer(200, page(["b", "a"]));
  await arrived();
  calls[0].answer(200, page(["a"]));
  await arrived();
  assert.deepEqual(listed(), ["b", "a"]);
  click("show-archived");
  click("show-archived");
  calls[3].answer(200, page(["b", "a"]));
  calls[2].answer(200, page(["archived"]));
  await arrived();
  assert.deepEqual(listed(), ["b", "a"]);
});

test("more is appended once, however often it is asked for", async () => {
  client.tell("ready", {});
  calls[0].answer(200, page(["c"], { next: "n" }));
  await arrived();
  click("more-notifications");
  click("more-notifications");
  for (const call of calls.slice(1)) call.answer(200, page(["b", "a"]));
  await arrived();
  assert.deepEqual(listed(), ["c", "b", "a"]);
});

test("a load that is not answered takes nothing from one that is", async () => {
  client.tell("ready", {});
  live("c");
  client.tell("gap", {});
  live("d");
  calls[1].answer(403, { code: "forbidden", retryable: false });
  await arrived();
  calls[0].answer(200, page(["b", "a"]));
  await arrived();
  assert.deepEqual(listed(), ["d", "c", "b", "a"]);
});

test("what could not be loaded is when the connection is ready again", async () => {
  client.tell("ready", {});
  calls[0].answer(403, { code: "forbidden", retryable: false });
  await arrived();
  client.tell("ready", {});
  calls[1].answer(200, page(["a"]));
  await arrived();
  assert.deepEqual(listed(), ["a"]);
});

test("a page that has nothing is not the last one", async () => {
  client.tell("ready", {});
  calls[0].answer(200, page([], { next: "n1" }));
  await arrived();
  calls[1].answer(200, page([], { next: "n2" }));
  await arrived();
  calls[2].answer(200, page(["a"]));
  await arrived();
  assert.deepEqual(calls.map(({ path }) => new URL(path, "http://x").searchParams.get("cursor")), [null, "n1", "n2"]);
  assert.deepEqual(listed(), ["a"]);
});

test("who has many that are archived is not told that there are none, and asks on", async () => {
  client.tell("ready", {});
  for (let number = 0; number < 20; number += 1) {
    calls[number].answer(200, page([], { next: `n${number + 1}` }));
    await arrived();
  }
  assert.equal(calls.length, 20);
  assert.equal(body.find("no-notifications").hidden, true);
  assert.equal(body.find("more-notifications").hidden, false);
});

test("all are marked seen, page by page, past those that have nothing", async () => {
  client.tell("inbox", { unseen: 2, unread: 2, version: "1.2" });
  click("clean-seen");
  calls[0].answer(200, page([], { next: "n1" }));
  await arrived();
  calls[1].answer(200, page(["b"], { next: "n2" }));
  await arrived();
  assert.deepEqual(calls[2].body, { ids: ["b"] });
  calls[2].answer(204);
  await arrived();
  calls[3].answer(200, { unseen: 1, unread: 1, version: "1.3" });
  await arrived();
  calls[4].answer(200, page([]));
  await arrived();
  assert.match(calls[4].path, /cursor=n2/);
  assert.equal(calls.length, 5);
});
