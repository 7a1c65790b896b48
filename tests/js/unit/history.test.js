// The messages of a room as they are shown: where it opens, what counts as read, what is in the document.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { message } from "../fake.js";
import { FakeClient, LINE, SHOWN, fakePage } from "../page.js";

fakePage();
const { Outgoing, Timeline } = await import("../../../gateway/assets/natter.js");
const { History } = await import("../../../gateway/assets/page/history.js");

const upTo = (last, first = 1) => Array.from({ length: last - first + 1 }, (_, i) => message("g", first + i));

let client, pages, shown, marks;

/** A room whose pages come when told. */
function room(lastRead) {
  fakePage();
  pages = [];
  marks = [];
  client = Object.assign(new FakeClient(), {
    historyPage: 200, clock: globalThis, lastHeard: () => undefined, liveFrom: () => undefined,
    history: (_, what) => new Promise((resolve) => pages.push({ what, resolve })),
  });
  shown = new History(new Timeline(client, "g"), {
    me: "alice", name: (id) => id, title: () => "g", lastRead, retry() {}, discard() {}, onFailed() {}, onRead: (position) => marks.push(position),
  });
}

/** Answers the page that was asked for last. */
async function answer(messages, more = false) {
  pages.at(-1).resolve({ messages, more, position: messages.at(-1)?.position ?? "1.0" });
  await new Promise((resolve) => setImmediate(resolve));
}

async function opened(messages, lastRead) {
  room(lastRead);
  void shown.timeline.open();
  await answer(messages, true);
}

const live = (seq, more) => client.tell("message", message("g", seq, more));
const rows = () => shown.element.querySelectorAll(".line");
const lines = () => rows().map((row) => row.dataset.id ?? "own");
const scrollTo = (top) => {
  shown.element.scrollTop = top;
  shown.element.dispatchEvent(new Event("scroll"));
};

beforeEach(() => room());

test("what comes live while a room is loaded reads nothing, and the room opens at what is new", async () => {
  room("1.20");
  void shown.timeline.open();
  live(101);
  assert.deepEqual([lines(), marks, shown.element.attributes.get("aria-busy")], [["m101"], [], "true"]);
  shown.lookedAway();
  await answer(upTo(100, 11), true);
  assert.deepEqual(marks, [], "the end is not in view");
  const [divider] = shown.element.querySelectorAll(".new");
  assert.equal(divider.nextSibling.dataset.id, "m21");
  assert.ok(divider.offsetTop >= shown.element.scrollTop && divider.offsetTop < shown.element.scrollTop + SHOWN, "what is new is in view");
  shown.toEnd();
  assert.deepEqual([...new Set(marks)], ["1.101"]);
});

test("a message of one's own that is far up by now does not stay at the end", async () => {
  await opened(upTo(50));
  const own = Object.assign(new Outgoing("g", "mine", {}), { nonce: "mine" });
  shown.outgoing.push(own);
  shown.update();
  assert.equal(lines().at(-1), "own");
  live(51, { sender: "alice", nonce: "mine" });
  assert.equal(lines().at(-1), "m51", "told");
  for (let seq = 52; seq <= 300; seq += 1) live(seq);
  // As in a room that is opened again much later.
  shown.outgoing.push(own);
  shown.update();
  assert.equal(lines().at(-1), "own", "nobody knows yet");
  Object.assign(own, { state: "accepted", position: "1.51" });
  shown.update();
  assert.equal(lines().at(-1), "m300");
});

test("rows stay bounded for who reads a little further up, and what they read stays where it is", async () => {
  await opened(upTo(100));
  scrollTo(shown.element.scrollHeight - SHOWN - 5 * LINE);
  const inView = () => rows().find((row) => row.getBoundingClientRect().top >= 0).dataset.id;
  const at = inView();
  for (let seq = 101; seq <= 1_000; seq += 1) live(seq);
  assert.ok(rows().length <= 240, `${rows().length} rows`);
  assert.equal(inView(), at);
  assert.equal(shown.jump.hidden, false);
  while (lines().at(-1) !== "m1000") scrollTo(shown.element.scrollHeight);
  assert.ok(rows().length <= 240, `${rows().length} rows`);
});

test("a room that stays open forgets what is far up, and loads it again for who scrolls there", async () => {
  await opened(upTo(100));
  for (let seq = 101; seq <= 5_000; seq += 1) live(seq);
  const { messages } = shown.timeline;
  assert.ok(messages.length <= 4_000, `${messages.length} messages`);
  assert.equal(lines().at(-1), "m5000");
  const first = Number(messages[0].body);
  void shown.timeline.older();
  assert.equal(pages.at(-1).what.before, `1.${first}`);
  await answer(upTo(first - 1, first - 50), true);
  assert.deepEqual(shown.timeline.messages.slice(0, 60).map(({ body }) => Number(body)), upTo(first + 9, first - 50).map(({ body }) => Number(body)));
});

test("a room that is left scrolled up does not grow for ever, and nothing of it is read", async () => {
  await opened(upTo(100), "1.100");
  scrollTo(SHOWN);
  marks.length = 0;
  const draws = [];
  globalThis.requestAnimationFrame = (run) => draws.push(run);
  let most = 0;
  for (let seq = 101; seq <= 100_000; seq += 1) {
    live(seq);
    most = Math.max(most, shown.timeline.messages.length);
  }
  for (const draw of draws.splice(0)) draw();
  assert.ok(most < 25_000, `${most} messages`);
  assert.deepEqual([lines()[0], marks, shown.jump.hidden], [`m${shown.timeline.messages[0].body}`, [], false]);
  assert.ok(lines().length <= 240, `${lines().length} rows`);
  shown.toEnd();
  assert.equal(lines().at(-1), "m100000");
});

test("who reads after a busy room, a little behind it, is not thrown back", async () => {
  await opened(upTo(100));
  scrollTo(SHOWN);
  const inView = () => Number(rows().find((row) => row.getBoundingClientRect().top >= 0).dataset.position.slice(2));
  const draws = [];
  globalThis.requestAnimationFrame = (run) => draws.push(run);
  let seen = inView();
  for (let seq = 101; seq <= 25_000; seq += 1) {
    live(seq);
    if (seq % 500 !== 0) continue;
    for (const draw of draws.splice(0)) draw();
    const now = inView();
    assert.ok(now >= seen, `from ${seen} back to ${now}, at ${seq}`);
    if (seq % 1_000 === 0) while (Number(lines().at(-1).slice(1)) < seq - 200) scrollTo(shown.element.scrollHeight);
    seen = inView();
  }
  assert.ok(seen > 24_000, `${seen}`);
  assert.equal(shown.jump.hidden, false);
});

test("a room with much that is new opens where that begins, whatever comes before it is drawn", async () => {
  room("1.0");
  const draws = [];
  globalThis.requestAnimationFrame = (run) => draws.push(run);
  void shown.timeline.open();
  for (let seq = 201; seq <= 245; seq += 1) live(seq);
  await answer(upTo(200, 1), false);
  live(246);
  for (const draw of draws.splice(0)) draw();
  assert.deepEqual(marks, [], "the end is not in view");
  assert.ok(lines().includes("m1"), "the first that is new is there");
});
