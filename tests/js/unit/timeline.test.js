// History and live delivery as one list: nothing missing, nothing twice.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client } from "../../../gateway/assets/natter.js";
import { FakeClock, fakeSockets, group, message, ready, settle } from "../fake.js";

/** A server that stores messages, and answers history up to what "SQL" has applied. */
async function room({ stored = 0, applied = stored } = {}) {
  const clock = new FakeClock();
  const { FakeSocket, made } = fakeSockets();
  const server = { stored: [], applied, socket: null, asked: 0, failing: 0, refusing: false, held: null };
  const add = () => {
    const one = message("g", server.stored.length + 1);
    server.stored.push(one);
    return one;
  };
  for (let i = 0; i < stored; i += 1) add();
  class Server extends FakeSocket {
    send(text) {
      super.send(text);
      const frame = this.sent.at(-1);
      if (frame.type !== "history") return;
      server.asked += 1;
      if (server.held) return server.held.push(frame.id);
      if (server.refusing) return this.say({ type: "error", id: frame.id, code: "not_found", message: "no such group", retryable: false });
      if (server.failing-- > 0) return this.say({ type: "error", id: frame.id, code: "unavailable", message: "", retryable: true });
      const seq = (position) => Number(position.split(".")[1]);
      const visible = server.stored.slice(0, server.applied);
      const found = visible.filter((one) => (!frame.before || seq(one.position) < seq(frame.before)) && (!frame.after || seq(one.position) > seq(frame.after)));
      const messages = frame.after ? found.slice(0, frame.limit) : found.slice(-frame.limit);
      const reply = { type: "reply", id: frame.id, messages, more: found.length > frame.limit, position: `1.${server.applied}` };
      queueMicrotask(() => this.say(reply));
    }
  }
  const client = new Client({ url: "ws://x/ws", WebSocket: Server, clock });
  const open = async (position, recovered = false) => {
    await settle();
    server.socket = made.at(-1);
    server.socket.onopen();
    server.socket.say(ready(clock, { groups: [group("g", position, recovered)] }));
    await settle();
  };
  client.connect();
  await open(`1.${stored}`);
  const live = () => server.socket.say(add());
  return { clock, client, server, made, open, live, add, timeline: client.timeline("g", { page: 10 }) };
}

const seqs = (timeline) => timeline.messages.map((one) => Number(one.body));
const upTo = (last, first = 1) => Array.from({ length: last - first + 1 }, (_, i) => first + i);

test("pages to the beginning while new ones arrive: each once, in order", async () => {
  const { timeline, live, server } = await room({ stored: 95 });
  await timeline.open();
  while (!timeline.atStart) {
    live();
    server.applied += 1;
    await timeline.older();
    live();
  }
  assert.deepEqual(seqs(timeline), upTo(server.stored.length));
});

test("the database is behind live delivery: the seam is filled when it has caught up", async () => {
  const { clock, timeline, live, server } = await room({ stored: 30, applied: 25 });
  const opened = timeline.open();
  live();
  await opened;
  assert.deepEqual(seqs(timeline), [...upTo(25, 16), 31], "live ones are shown at once");
  assert.ok(timeline.hasGap);
  server.applied = 28;
  await clock.advance(250);
  server.applied = 30;
  live();
  await clock.advance(250);
  assert.deepEqual(seqs(timeline), upTo(32, 16));
  assert.ok(!timeline.hasGap);
  const { asked } = server;
  await clock.advance(5000);
  assert.equal(server.asked, asked, "nothing more is asked for");
});

test("opened on a group that is live: what was told before is loaded, though the database has it later", async () => {
  const { clock, client, live, server } = await room({ stored: 30 });
  live();
  const later = client.timeline("g", { page: 10 });
  await later.open();
  assert.deepEqual(seqs(later), upTo(30, 21));
  assert.ok(later.hasGap);
  server.applied = 31;
  await clock.advance(250);
  assert.deepEqual(seqs(later), upTo(31, 21));
  assert.ok(!later.hasGap);
});

test("a gap that is told of after what came live behind it is filled", async () => {
  const { clock, timeline, add, made, server } = await room({ stored: 20 });
  await timeline.open();
  server.socket.drop(4408);
  for (let i = 0; i < 5; i += 1) add();
  server.applied = 25;
  await clock.advance(0);
  server.socket = made.at(-1);
  server.socket.onopen();
  server.socket.say(ready(clock, { more: true }));
  server.socket.say(add());
  server.socket.say({ type: "groups", groups: [group("g", "1.25")], more: false });
  await clock.advance(1000);
  assert.deepEqual(seqs(timeline), upTo(26, 11));
});

test("a gap between two memberships is filled, though history was refused between them", async () => {
  const { clock, timeline, live, add, server } = await room({ stored: 20 });
  live();
  await timeline.open();
  server.held = [];
  await clock.advance(250);
  const change = (what, position) => server.socket.say({ type: "group", group: "g", change: what, user: "alice", position });
  change("left", "1.21");
  for (let i = 0; i < 3; i += 1) add();
  change("joined", "1.24");
  const [asked] = server.held;
  server.held = null;
  server.applied = 24;
  server.socket.say({ type: "error", id: asked, code: "not_found", message: "no such group", retryable: false });
  await clock.advance(1000);
  assert.deepEqual(seqs(timeline), upTo(24, 11));
  assert.ok(!timeline.hasGap);
});

test("a gap after a reconnect is filled", async () => {
  const { clock, timeline, add, live, server, open } = await room({ stored: 20 });
  await timeline.open();
  server.socket.drop(4408);
  for (let i = 0; i < 15; i += 1) add();
  server.applied = 35;
  await clock.advance(0);
  await open("1.35");
  live();
  await clock.advance(1000);
  assert.deepEqual(seqs(timeline), upTo(36, 11));
});

test("a gap too long to go through: begins anew at the newest", async () => {
  const { clock, timeline, add, server, open } = await room({ stored: 20 });
  await timeline.open();
  server.socket.drop(4408);
  for (let i = 0; i < 500; i += 1) add();
  server.applied = 520;
  await clock.advance(0);
  await open("1.520");
  await clock.advance(1000);
  assert.deepEqual(seqs(timeline), upTo(520, 511));
});

test("after a reset: what was lost comes by the next live message at the latest", async () => {
  const { clock, timeline, add, live, server } = await room({ stored: 20 });
  await timeline.open();
  add();
  server.socket.say({ type: "reset", group: "g" });
  add();
  live();
  server.applied = 23;
  await clock.advance(3000);
  assert.deepEqual(seqs(timeline), upTo(23, 11));
  assert.ok(!timeline.hasGap);
});

test("after a reset: a room that stays silent is asked a few times, and made whole by what comes much later", async () => {
  const { clock, timeline, add, live, server } = await room({ stored: 20 });
  await timeline.open();
  server.socket.say({ type: "reset", group: "g" });
  assert.ok(timeline.hasGap);
  await clock.advance(20_000);
  assert.ok(!timeline.hasGap);
  const asked = server.asked;
  await clock.advance(20_000);
  assert.equal(server.asked, asked);
  assert.ok(asked < 10, `asked ${asked} times`);
  add();
  add();
  live();
  server.applied = 23;
  await clock.advance(3000);
  assert.deepEqual(seqs(timeline), upTo(23, 11));
  assert.ok(!timeline.hasGap);
});

test("errors and disconnects while loading are tried again", async () => {
  const { clock, timeline, server, open } = await room({ stored: 20 });
  server.failing = 2;
  const opened = timeline.open();
  await clock.advance(2000);
  await opened;
  assert.deepEqual(seqs(timeline), upTo(20, 11));
  server.socket.drop(4408);
  const older = timeline.older();
  await clock.advance(0);
  await open("1.20", true);
  await clock.advance(1000);
  await older;
  assert.deepEqual(seqs(timeline), upTo(20));
});

/** All pages, as docs/client.md says; a loop that does not end is one that fails. */
async function toTheStart(timeline) {
  for (let pages = 0; await timeline.older(); pages += 1) assert.ok(pages < 100, "no end of it");
}

test("the loop to the start ends: there, and where history is refused or the timeline is closed", async () => {
  const { timeline, server } = await room({ stored: 35 });
  await timeline.open();
  await toTheStart(timeline);
  assert.deepEqual([seqs(timeline), timeline.atStart], [upTo(35), true]);

  const refused = await room({ stored: 35 });
  const failed = [];
  refused.timeline.addEventListener("failed", ({ detail }) => failed.push(detail.code));
  refused.server.refusing = true;
  await refused.timeline.open();
  await toTheStart(refused.timeline);
  assert.deepEqual([failed, refused.timeline.atStart], [["not_found"], false]);

  const closed = await room({ stored: 35 });
  await closed.timeline.open();
  const older = closed.timeline.older();
  closed.timeline.close();
  assert.equal(await older, false);
  await toTheStart(closed.timeline);
  assert.deepEqual(seqs(closed.timeline), upTo(35, 26));
  assert.equal(server.asked, 4);
});

test("the loop to the start goes on over a list that begins anew meanwhile", async () => {
  const { clock, timeline, add, server, open } = await room({ stored: 20 });
  await timeline.open();
  server.socket.drop(4408);
  for (let i = 0; i < 500; i += 1) add();
  server.applied = 520;
  await clock.advance(0);
  await open("1.520");
  let done = false;
  void toTheStart(timeline).then(() => { done = true; });
  for (let i = 0; i < 100 && !done; i += 1) await clock.advance(100);
  assert.deepEqual([done, seqs(timeline)], [true, upTo(520)]);
});

for (const how of ["told", "asked for", "listed"]) {
  test(`left and joined again (${how}): what was said meanwhile is loaded`, async () => {
    const { clock, client, timeline, add, live, made, server } = await room({ stored: 20 });
    await timeline.open();
    server.socket.say({ type: "group", group: "g", change: "left", user: "alice", position: "1.20" });
    for (let i = 0; i < 5; i += 1) add();
    server.applied = 25;
    if (how === "told") {
      server.socket.say({ type: "group", group: "g", change: "joined", user: "alice", position: "1.25", role: "member", kind: "group", display_name: "g" });
    } else if (how === "asked for") {
      const joined = client.join("g");
      server.socket.say({ type: "reply", id: server.socket.of("join")[0].id, group: group("g", "1.25") });
      await joined;
    } else {
      server.socket.drop(4408);
      await clock.advance(0);
      server.socket = made.at(-1);
      server.socket.onopen();
      server.socket.say(ready(clock, { groups: [group("g", "1.25")] }));
    }
    live();
    server.applied = 26;
    await clock.advance(1000);
    assert.deepEqual(seqs(timeline), upTo(26, 11));
    assert.ok(!timeline.hasGap);
  });
}

test("after a loss of all data a group that is joined again is loaded, and history is left alone then", async () => {
  const { clock, client, made, server } = await room({ stored: 20 });
  server.socket.drop(4408);
  [server.stored, server.applied] = [upTo(3).map((seq) => message("g", seq)), 3];
  await clock.advance(0);
  server.socket = made.at(-1);
  server.socket.onopen();
  server.socket.say(ready(clock));
  const joined = client.join("g");
  server.socket.say({ type: "reply", id: server.socket.of("join")[0].id, group: group("g", "1.3") });
  await joined;
  const later = client.timeline("g", { page: 10 });
  await later.open();
  await clock.advance(5000);
  assert.deepEqual([seqs(later), later.hasGap, server.asked], [upTo(3), false, 1]);
});

test("an empty group is at its start, and takes its first message", async () => {
  const { timeline, live } = await room();
  await timeline.open();
  assert.ok(timeline.atStart);
  live();
  assert.deepEqual(seqs(timeline), [1]);
});

test("closed, it hears nothing more", async () => {
  const { timeline, live } = await room({ stored: 3 });
  await timeline.open();
  timeline.close();
  live();
  assert.deepEqual(seqs(timeline), upTo(3));
});

test("is open once the newest page is there, whatever came live before it", async () => {
  const { clock, timeline, add, live, server, open } = await room({ stored: 20 });
  const seen = [];
  timeline.addEventListener("change", () => seen.push([timeline.isOpen, timeline.messages.length]));
  const opened = timeline.open();
  live();
  await opened;
  assert.deepEqual(seen, [[false, 1], [true, 11]]);
  server.socket.drop(4408);
  for (let i = 0; i < 500; i += 1) add();
  server.applied = 521;
  await clock.advance(0);
  await open("1.521");
  await clock.advance(1000);
  assert.ok(timeline.isOpen);
  assert.deepEqual(seqs(timeline), upTo(521, 512));
});

test("what is forgotten is loaded again, without a hole", async () => {
  const { timeline, live, server } = await room({ stored: 40 });
  await timeline.open();
  for (let i = 0; i < 10; i += 1) live();
  server.applied = 50;
  timeline.forget(5);
  live();
  assert.deepEqual([seqs(timeline), timeline.atStart], [upTo(51, 46), false]);
  await toTheStart(timeline);
  assert.deepEqual(seqs(timeline), upTo(51));
});
