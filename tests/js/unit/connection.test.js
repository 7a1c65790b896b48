// Connecting, closing, pausing, resuming: over fake sockets and a fake clock.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { CLOSE_CODES, Client, comparePositions, uuidv7 } from "../../../gateway/assets/natter.js";
import { FakeClock, fakeSockets, group, message, ready, settle } from "../fake.js";

async function connected(more = {}, options = {}) {
  const clock = new FakeClock();
  const { FakeSocket, made } = fakeSockets();
  const client = new Client({ url: "ws://x/ws", WebSocket: FakeSocket, clock, ...options });
  const events = [];
  for (const type of ["state", "message", "notification", "gap", "inbox", "group"]) client.on(type, (detail) => events.push([type, detail]));
  client.connect();
  await settle();
  made[0].onopen();
  made[0].say(ready(clock, more));
  return { clock, made, client, events, of: (type) => events.filter(([one]) => one === type).map(([, detail]) => detail) };
}

/** The next socket, opened. */
async function reopened(made) {
  await settle();
  const socket = made[made.length - 1];
  socket.onopen();
  return socket;
}

test("the close codes are those of PROTOCOL.md", () => {
  const text = readFileSync(new URL("../../../PROTOCOL.md", import.meta.url), "utf8");
  const rows = [...text.matchAll(/^\| (\d{4}) \|[^|]*\| (now|later|never) \|/gm)].map(([, code, then]) => [code, then]);
  assert.ok(rows.length >= 14);
  assert.deepEqual(Object.entries(CLOSE_CODES).sort(), rows.sort());
});

test("the first frame is connect, and ready makes it ready", async () => {
  const { made, client, of } = await connected({}, { token: () => "a.b.c" });
  assert.deepEqual(made[0].protocols, ["natter.v1.json"]);
  assert.deepEqual(made[0].sent[0], { type: "connect", id: 0, token: "a.b.c", resume: { groups: {} } });
  assert.equal(client.state, "ready");
  assert.deepEqual(of("state").map(({ state }) => state), ["connecting", "ready"]);
});

for (const [code, then] of Object.entries(CLOSE_CODES)) {
  test(`close ${code}: reconnects ${then}`, async () => {
    const { clock, made, client } = await connected();
    await clock.advance(11_000);
    made[0].say({ type: "ping" });
    made[0].drop(Number(code), "said so");
    await clock.advance(0);
    assert.equal(made.length, then === "now" ? 2 : 1);
    assert.equal(client.state, { now: "connecting", later: "waiting", never: "closed" }[then]);
    await clock.advance(60_000);
    assert.equal(made.length > 1, then !== "never");
  });
}

test("pauses grow with full jitter up to the longest, and start anew after a lasting connection", async () => {
  const { clock, made, client, of } = await connected({}, { firstPause: 100, longestPause: 1000 });
  const pauses = [];
  made[0].drop(1006);
  for (let i = 0; i < 6; i += 1) {
    const { retryAt } = of("state").at(-1);
    pauses.push(retryAt - clock.time);
    await clock.advance(retryAt - clock.time);
    made.at(-1).drop(1006);
  }
  assert.deepEqual(pauses, [100, 200, 400, 800, 1000, 1000]);
  clock.luck = 0.25;
  await clock.advance(1000);
  made.at(-1).drop(1006);
  assert.equal(of("state").at(-1).retryAt - clock.time, 250, "anything between nothing and the longest");
  client.reconnect();
  const socket = await reopened(made);
  socket.say(ready(clock));
  await clock.advance(10_000);
  clock.luck = 1;
  socket.drop(1006);
  assert.equal(of("state").at(-1).retryAt - clock.time, 100);
});

test("closes that say now do not make a loop", async () => {
  const { clock, made } = await connected();
  for (let i = 0; i < 10; i += 1) {
    made.at(-1).drop(4408);
    await clock.advance(100);
  }
  assert.ok(made.length < 4, `${made.length}`);
});

test("silence of twice the heartbeat is a lost connection, and any frame breaks it", async () => {
  const { clock, made, client } = await connected();
  await clock.advance(40_000);
  made[0].say({ type: "ping" });
  assert.deepEqual(made[0].of("pong"), [{ type: "pong" }]);
  await clock.advance(49_000);
  assert.equal(client.state, "ready");
  await clock.advance(2_000);
  assert.notEqual(client.state, "ready");
  assert.equal(made[0].closedWith, 1000);
  assert.equal(made.length, 2);
});

test("no answer to connect is a lost connection", async () => {
  const clock = new FakeClock();
  const { FakeSocket, made } = fakeSockets();
  new Client({ url: "ws://x/ws", WebSocket: FakeSocket, clock }).connect();
  await clock.advance(14_000);
  assert.equal(made.length, 1);
  await clock.advance(3_000);
  assert.equal(made.length, 2);
});

test("a token that does not come is a lost connection, and one that comes late is for the next", async () => {
  const clock = new FakeClock();
  const { FakeSocket, made } = fakeSockets();
  const asked = [];
  const token = () => new Promise((resolve) => asked.push(resolve));
  const client = new Client({ url: "ws://x/ws", WebSocket: FakeSocket, clock, token });
  client.connect();
  await clock.advance(17_000);
  assert.deepEqual([asked.length, made.length], [1, 0]);
  asked[0]("a.b.c");
  const socket = await reopened(made);
  assert.equal(made.length, 1);
  assert.equal(socket.sent[0].token, "a.b.c");
  socket.drop(1006);
  await clock.advance(2_000);
  assert.equal(asked.length, 2, "another connection, another token");
  await clock.advance(100_000);
  assert.equal(asked.length, 3, "one that never comes is asked for anew");
  client.close();
  client.connect();
  await settle();
  assert.equal(asked.length, 4, "who connects after a close may be somebody else");
});

test("docs/client.md asks for a token such that a page of errors does not end the client", async (t) => {
  const manual = readFileSync(new URL("../../../docs/client.md", import.meta.url), "utf8");
  const [, written] = manual.match(/^  token: (async[^]*?),\n\}\);/m);
  const answers = [new Response("<html>Bad Gateway</html>", { status: 502 }), new Response("a.b.c")];
  t.mock.method(globalThis, "fetch", async () => answers.shift());
  const clock = new FakeClock();
  const { FakeSocket, made } = fakeSockets();
  new Client({ url: "ws://x/ws", WebSocket: FakeSocket, clock, token: new Function(`return ${written}`)() }).connect();
  // The answer's text comes when Node has read it.
  for (let turns = 0; turns < 100 && made.length === 0; turns += 1) {
    await new Promise((resolve) => setImmediate(resolve));
    await clock.advance(100);
  }
  assert.equal((await reopened(made)).sent[0].token, "a.b.c");
});

test("a page of groups that comes after what was told of them does not turn back", async () => {
  const { clock, made, client, of } = await connected({ groups: [group("g", "1.10"), group("h", "1.10")] });
  made[0].drop(4408);
  await clock.advance(0);
  const socket = await reopened(made);
  socket.say(ready(clock, { more: true }));
  socket.say(message("g", 31));
  socket.say({ type: "groups", groups: [group("g", "1.30"), group("h", "1.30")], more: false });
  socket.say(message("g", 31));
  assert.deepEqual(of("message").map(({ position }) => position), ["1.31"], "told once");
  assert.deepEqual(of("gap").filter((gap) => gap.group), [{ group: "g", after: "1.10", until: "1.30" }, { group: "h", after: "1.10", until: "1.30" }]);
  assert.deepEqual(["g", "h"].map((id) => client.lastHeard(id)), ["1.31", "1.30"]);
  socket.drop(4408);
  await clock.advance(1000);
  assert.deepEqual((await reopened(made)).sent[0].resume.groups, { g: "1.31", h: "1.30" });
});

test("draining: reconnects after the time said, and hears what comes until then", async () => {
  const { clock, made, of } = await connected({ groups: [group("g", "1.10")] });
  made[0].say({ type: "draining", retry_after_ms: 2500 });
  made[0].say(message("g", 11));
  await clock.advance(2400);
  assert.equal(made.length, 1);
  assert.equal(of("message").length, 1);
  await clock.advance(200);
  assert.equal(made.length, 2);
});

test("draining: a close before that waits for the rest", async () => {
  const { clock, made } = await connected();
  clock.luck = 0;
  made[0].say({ type: "draining", retry_after_ms: 2500 });
  made[0].drop(1012);
  await clock.advance(2400);
  assert.equal(made.length, 1);
  await clock.advance(200);
  assert.equal(made.length, 2);
});

test("resumes from the last position of each group and of the inbox; duplicates are not told", async () => {
  const { clock, made, of } = await connected({ groups: [group("g", "1.10"), group("h", "1.7")] });
  made[0].say(message("g", 11));
  made[0].say({ type: "notification", id: "n", group: "h", body: "", position: "1.8", sent_at: "" });
  made[0].say({ type: "notification", id: "o", body: "", position: "1.6", sent_at: "" });
  made[0].drop(4408);
  await clock.advance(0);
  const socket = await reopened(made);
  assert.deepEqual(socket.sent[0].resume, { groups: { g: "1.11", h: "1.8" }, inbox: "1.6" });
  // Recovered: what was missed follows, and the position is that of what was heard.
  socket.say(ready(clock, { groups: [group("g", "1.11", true), group("h", "1.8", true)], inbox_position: "1.9", inbox_recovered: true }));
  socket.say(message("g", 11));
  socket.say(message("g", 12));
  assert.deepEqual(of("message").map(({ position }) => position), ["1.11", "1.12"]);
  assert.deepEqual(of("gap"), []);
  socket.drop(4408);
  await clock.advance(1000);
  assert.deepEqual((await reopened(made)).sent[0].resume, { groups: { g: "1.12", h: "1.8" }, inbox: "1.6" });
});

test("what is not recovered is a gap, and so is a reset", async () => {
  const { clock, made, of } = await connected({ groups: [group("g", "1.10")] });
  made[0].drop(4408);
  await clock.advance(0);
  const socket = await reopened(made);
  socket.say(ready(clock, { groups: [group("g", "2.3")], inbox_position: "2.1" }));
  assert.deepEqual(of("gap"), [{ group: "g", after: "1.10", until: "2.3" }, {}]);
  socket.say({ type: "reset", group: "g" });
  socket.say({ type: "reset" });
  assert.deepEqual(of("gap").slice(2), [{ group: "g", after: "2.3" }, { group: undefined, after: undefined }]);
});

test("where a membership ended is sent along, and a gateway that is behind tells nothing twice", async () => {
  const { clock, made, client, of } = await connected({ groups: [group("g", "1.10")] });
  const listed = [];
  client.on("groups", ({ groups }) => listed.push(groups.map(({ id }) => id)));
  const left = { type: "group", group: "g", change: "left", user: "alice", position: "1.12" };
  made[0].say(message("g", 11));
  made[0].say(left);
  made[0].drop(4408);
  await clock.advance(0);
  const socket = await reopened(made);
  assert.deepEqual(socket.sent[0].resume.groups, { g: "1.12" });
  // Behind: it lists the group still, and comes to the end once more.
  socket.say(ready(clock, { groups: [group("g", "1.12", true)] }));
  socket.say(message("g", 11));
  socket.say(left);
  assert.deepEqual(of("message").map(({ position }) => position), ["1.11"]);
  assert.equal(of("group").length, 1);
  assert.deepEqual(listed, [[]], "nobody takes it for one that goes on");
  // Another membership is another.
  socket.say({ ...left, change: "joined", position: "1.20" });
  socket.say(message("g", 21));
  assert.deepEqual(of("message").map(({ position }) => position), ["1.11", "1.21"]);
  socket.drop(4408);
  await clock.advance(1000);
  assert.deepEqual((await reopened(made)).sent[0].resume.groups, { g: "1.21" });
});

test("joined again: what lies between the two memberships is a gap, told once", async () => {
  const { clock, made, client, of } = await connected({ groups: [group("g", "1.10"), group("h", "1.10")] });
  const change = (what, id, position) => ({ type: "group", group: id, change: what, user: "alice", position });
  const join = async (position) => {
    const joined = client.join("g");
    made.at(-1).say({ type: "reply", id: made.at(-1).of("join").at(-1).id, group: group("g", position) });
    await joined;
  };
  made[0].say(change("left", "g", "1.12"));
  made[0].say(change("joined", "g", "1.20"));
  await join("1.20");
  made[0].say(message("g", 21));
  assert.deepEqual(of("gap"), [{ group: "g", after: "1.12", until: "1.20" }], "one that goes on has none");
  made[0].say(change("left", "g", "1.22"));
  // Live before the answer comes.
  const joined = client.join("g");
  made[0].say(message("g", 31));
  made[0].say({ type: "reply", id: made[0].of("join").at(-1).id, group: group("g", "1.30") });
  await joined;
  assert.deepEqual(of("gap").slice(1), [{ group: "g", after: "1.22", until: "1.31" }]);
  // Left while away: nothing tells of it, but that it is not in `ready`.
  made[0].drop(4408);
  await clock.advance(0);
  (await reopened(made)).say(ready(clock, { groups: [group("g", "1.31", true)] }));
  made[1].say(change("joined", "h", "1.40"));
  assert.deepEqual(of("gap").filter((gap) => gap.group === "h"), [{ group: "h", after: "1.10", until: "1.40" }]);
  assert.equal(client.liveFrom("h"), "1.40");
});

test("after a loss of all data smaller positions hold, of a group that is joined again too", async () => {
  for (const how of ["answered", "live before the answer", "told"]) {
    const { clock, made, client, of } = await connected({ groups: [group("g", "5.1000")] });
    made[0].drop(4408);
    await clock.advance(0);
    const socket = await reopened(made);
    socket.say(ready(clock));
    const live = () => socket.say(message("g", 4));
    if (how === "told") {
      socket.say({ type: "group", group: "g", change: "joined", user: "alice", position: "1.3" });
    } else {
      const joined = client.join("g");
      if (how === "live before the answer") live();
      socket.say({ type: "reply", id: socket.of("join")[0].id, group: group("g", "1.3") });
      await joined;
    }
    assert.equal(client.liveFrom("g"), how === "live before the answer" ? "1.4" : "1.3", how);
    live();
    assert.deepEqual(of("message").map(({ position }) => position), ["1.4"], how);
    assert.deepEqual(of("gap").filter((gap) => gap.group), [{ group: "g", after: "5.1000", until: how === "live before the answer" ? "1.4" : "1.3" }], how);
    assert.equal(client.lastHeard("g"), "1.4", how);
  }
});

test("an error that no request waits for is the reason of a close only where that follows at once", async () => {
  const { clock, made, of } = await connected();
  const busy = { type: "error", code: "not_found", message: "no such group", retryable: false };
  made[0].say(busy);
  await clock.advance(5_000);
  made[0].drop(4408, "slow consumer");
  assert.equal(of("state").at(-1).reason, "slow consumer");
  await clock.advance(1_000);
  const socket = await reopened(made);
  socket.say({ ...busy, id: 0, message: "the token is forged" });
  socket.drop(4401, "token");
  assert.equal(of("state").at(-1).reason, "the token is forged");
});

test("as another user it begins anew: nothing of the former one is sent or resumed", async () => {
  const { clock, made, client, of } = await connected({ groups: [group("g", "1.10"), group("h", "1.10")] });
  made[0].say({ type: "group", group: "h", change: "left", user: "alice", position: "1.12" });
  const [sent, waits] = [client.send("g", "hers"), client.send("g", "hers too")];
  client.close();
  client.connect();
  const bob = ready(clock, { user: { id: "bob", handle: "bob", display_name: "Bob" }, groups: [group("g", "1.4")], inbox_position: "1.2" });
  (await reopened(made)).say(bob);
  assert.deepEqual([sent, waits].map(({ state, error }) => [state, error.code]), [["failed", "unauthorized"], ["failed", "unauthorized"]]);
  await clock.advance(0);
  const socket = await reopened(made);
  assert.deepEqual(socket.sent[0].resume, { groups: {} });
  socket.say(bob);
  assert.deepEqual([client.state, client.user.id, client.lastHeard("g"), made.length], ["ready", "bob", "1.4", 3]);
  assert.deepEqual(made.slice(1).flatMap((one) => one.of("send")), []);
  socket.say({ type: "notification", id: "o", body: "", position: "1.3", sent_at: "" });
  assert.equal(of("notification").length, 1, "positions are those of his inbox");
  assert.deepEqual(of("gap"), []);
});

test("a date that is set while the connection is on changes no nonce's time and no pause", async (t) => {
  const { FakeSocket, made } = fakeSockets();
  const client = new Client({ url: "ws://x/ws", WebSocket: FakeSocket });
  t.after(() => client.close());
  const states = [];
  client.on("state", (change) => states.push(change));
  client.connect();
  await settle();
  made[0].onopen();
  const start = Date.now();
  made[0].say(ready({ time: start }));
  const hour = 3_600_000;
  const real = Date.now;
  t.mock.method(Date, "now", () => real() + hour);
  const { nonce } = client.send("g", "x");
  const sentAt = parseInt(nonce.replace("-", "").slice(0, 12), 16);
  assert.ok(sentAt >= start - 1 && sentAt < start + hour / 2, `${sentAt - start} ms after ready`);
  made[0].say({ type: "draining", retry_after_ms: 2_000 });
  t.mock.method(Date, "now", () => real() - hour);
  made[0].drop(1012);
  const wait = states.at(-1).retryAt - Date.now();
  assert.ok(wait > 1_000 && wait <= 2_000, `${wait} ms, by the date as it is`);
});

const jwt = (exp) => `x.${Buffer.from(JSON.stringify({ exp })).toString("base64url")}.y`;

test("a token is refreshed in band before it expires", async () => {
  const clock = new FakeClock();
  const { FakeSocket, made } = fakeSockets();
  const expiries = [600, 1200, 1800].map((after) => clock.time / 1000 + after);
  const client = new Client({ url: "ws://x/ws", WebSocket: FakeSocket, clock, token: () => jwt(expiries.shift()) });
  client.connect();
  await settle();
  made[0].onopen();
  made[0].say(ready(clock));
  const beat = async (seconds) => {
    for (let i = 0; i < seconds; i += 10) {
      await clock.advance(10_000);
      made[0].say({ type: "ping" });
    }
  };
  await beat(520);
  assert.equal(made[0].of("refresh").length, 0);
  await beat(20);
  const [refresh] = made[0].of("refresh");
  assert.equal(refresh.token, jwt(clock.time / 1000 - 540 + 1200));
  made[0].say({ type: "reply", id: refresh.id });
  await beat(610);
  assert.equal(made[0].of("refresh").length, 2);
});

test("4401 of a session that was on: a fresh token is tried, once; without a provider it is over", async () => {
  let asked = 0;
  const { clock, made, client } = await connected({}, { token: () => `t${(asked += 1)}` });
  made[0].drop(4401);
  await clock.advance(0);
  assert.equal((await reopened(made)).sent[0].token, "t2");
  made[1].drop(4401);
  await clock.advance(100_000);
  assert.deepEqual([client.state, made.length], ["closed", 2]);
});

test("positions compare as two numbers, nonces hold their time", () => {
  assert.ok(comparePositions("1.9", "1.10") < 0 && comparePositions("2.1", "1.99") > 0 && comparePositions("1.5", "1.5") === 0);
  const nonce = uuidv7(0x0123456789ab);
  assert.match(nonce, /^01234567-89ab-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.notEqual(nonce, uuidv7(0x0123456789ab));
});
