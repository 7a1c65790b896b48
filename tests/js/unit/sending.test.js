// Messages of one's own: order, retries under one nonce, bounds.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client } from "../../../gateway/assets/natter.js";
import { FakeClock, fakeSockets, group, message, ready, settle } from "../fake.js";

async function connected(options = {}) {
  const clock = new FakeClock();
  const { FakeSocket, made } = fakeSockets();
  const client = new Client({ url: "ws://x/ws", WebSocket: FakeSocket, clock, ...options });
  const open = async (more = {}) => {
    await settle();
    made.at(-1).onopen();
    made.at(-1).say(ready(clock, { groups: [group("g", "1.10")], ...more }));
    await settle();
    return made.at(-1);
  };
  client.connect();
  return { clock, made, client, open };
}

test("waits for the connection, then one after another in a group, at once across groups", async () => {
  const { client, open } = await connected();
  const [one, two, other] = [client.send("g", "1"), client.send("g", "2"), client.send("h", "3")];
  assert.equal(one.nonce, undefined, "made when first transmitted");
  const socket = await open();
  assert.deepEqual(socket.of("send").map(({ body }) => body), ["1", "3"]);
  socket.say({ type: "reply", id: socket.of("send")[0].id, message_id: "m", position: "1.11" });
  await one.done;
  assert.deepEqual([one.state, one.messageId, one.position, two.state, other.state], ["accepted", "m", "1.11", "pending", "pending"]);
  await settle();
  assert.equal(socket.of("send")[2].body, "2");
});

test("the nonce has the server's time, also after that was set", async () => {
  const { clock, client, open } = await connected();
  const at = (offset) => new Date(clock.time + offset).toISOString();
  const socket = await open({ time: at(3_600_000) });
  const sentAt = (nonce) => parseInt(nonce.replace("-", "").slice(0, 12), 16) - clock.time;
  client.send("g", "x");
  socket.say({ type: "time", time: at(-60_000) });
  client.send("h", "y");
  assert.deepEqual(socket.of("send").map(({ nonce }) => sentAt(nonce)), [3_600_000, -60_000]);
});

test("a lost reply: tried again on the next connection, with the same nonce and before later ones", async () => {
  const { clock, made, client, open } = await connected();
  const first = await open();
  const [one] = [client.send("g", "1"), client.send("g", "2")];
  first.drop(4408);
  await clock.advance(0);
  const second = await open();
  assert.notEqual(first, second);
  assert.deepEqual(second.of("send").map(({ body, nonce }) => [body, nonce]), [["1", first.of("send")[0].nonce]]);
  second.say({ type: "reply", id: second.of("send")[0].id, message_id: "m", position: "1.11" });
  assert.equal((await one.done).state, "accepted");
  assert.equal(made.length, 2);
});

test("one's own message counts as its reply", async () => {
  const { client, open } = await connected();
  const socket = await open();
  const sent = client.send("g", "1");
  socket.say(message("g", 11, { sender: "alice", nonce: sent.nonce }));
  assert.equal((await sent.done).messageId, "m11");
});

test("retryable refusals are tried again under the same nonce, after the time said", async () => {
  const { clock, client, open } = await connected();
  const socket = await open();
  const sent = client.send("g", "1");
  client.send("g", "2");
  const refuse = (more) => socket.say({ type: "error", id: socket.of("send").at(-1).id, code: "busy", message: "", retryable: true, ...more });
  refuse({ retry_after_ms: 700 });
  await clock.advance(600);
  assert.equal(socket.of("send").length, 1);
  await clock.advance(200);
  assert.equal(socket.of("send").length, 2);
  refuse({ code: "pending" });
  await clock.advance(5_000);
  const sends = socket.of("send");
  assert.deepEqual(sends.map(({ body, nonce }) => [body, nonce]), Array(3).fill(["1", sent.nonce]));
});

test("refused for good: failed, the next one goes on; a retry has the same nonce", async () => {
  const { client, open } = await connected();
  const socket = await open();
  const [bad, good] = [client.send("g", "1"), client.send("g", "2")];
  socket.say({ type: "error", id: socket.of("send")[0].id, code: "too_large", message: "too large", retryable: false });
  await bad.done;
  assert.deepEqual([bad.state, bad.error.code, good.state], ["failed", "too_large", "pending"]);
  await settle();
  socket.say({ type: "reply", id: socket.of("send")[1].id, message_id: "m", position: "1.11" });
  await good.done;
  client.retry(bad);
  assert.deepEqual([bad.state, socket.of("send")[2].nonce], ["pending", socket.of("send")[0].nonce]);
});

test("given up after a while of refusals", async () => {
  const { clock, client, open } = await connected({ giveUp: 10_000 });
  const socket = await open();
  const sent = client.send("g", "1");
  for (let i = 0; i < 40 && sent.state === "pending"; i += 1) {
    const last = socket.of("send").at(-1);
    socket.say({ type: "error", id: last.id, code: "unavailable", message: "", retryable: true, retry_after_ms: 1000 });
    await clock.advance(1000);
    socket.say({ type: "ping" });
  }
  assert.deepEqual([sent.state, sent.error.code], ["failed", "unavailable"]);
});

test("queues are bounded: messages and requests", async () => {
  const { client, open } = await connected({ mostQueued: 3 });
  for (let i = 0; i < 3; i += 1) client.send("g", `${i}`);
  assert.throws(() => client.send("g", "4"), { code: "queue_full" });
  await assert.rejects(client.history("g"), { code: "disconnected", retryable: true });
  const socket = await open();
  const asked = Array.from({ length: 400 }, () => client.history("h").catch((error) => error.code));
  await settle();
  assert.equal(socket.of("history").length + socket.of("send").length, 32);
  assert.equal((await Promise.race([asked.at(-1), settle()])), "busy");
});

test("typing goes where nothing waits, and takes of the rate in bytes", async () => {
  const { clock, client, open } = await connected();
  const socket = await open({ limits: { bytes_per_second: 10_000 } });
  for (let i = 0; i < 33; i += 1) client.history("h").catch(() => {});
  await clock.advance(1000);
  client.typing("g");
  assert.deepEqual([socket.of("history").length, socket.of("typing").length], [32, 0]);
  socket.say({ type: "reply", id: socket.of("history")[0].id, messages: [], more: false, position: "1.1" });
  await clock.advance(1000);
  for (let i = 0; i < 1000; i += 1) client.typing("g");
  const bytes = socket.of("typing").reduce((sum, frame) => sum + JSON.stringify(frame).length, 0);
  assert.ok(bytes > 2000 && bytes < 2500 + 100, `${bytes} at once`);
});

/** Sends, each accepted at once, and when each was sent. @returns {Promise<{at: number, bytes: number}[]>} */
async function flushed(limits, count, body) {
  const clock = new FakeClock();
  const { FakeSocket, made } = fakeSockets();
  const sent = [];
  class Server extends FakeSocket {
    send(text) {
      super.send(text);
      if (this.of("connect").length > 0 && sent.push({ at: clock.time, bytes: text.length }) === 1) return;
      const { id } = this.sent.at(-1);
      queueMicrotask(() => this.say({ type: "reply", id, message_id: `m${id}`, position: `1.${id}` }));
    }
  }
  const client = new Client({ url: "ws://x/ws", WebSocket: Server, clock });
  const items = Array.from({ length: count }, (_, place) => client.send(`g${place % 25}`, body));
  client.connect();
  await settle();
  made[0].onopen();
  made[0].say(ready(clock, { limits }));
  for (let i = 0; i < 2_000 && items.some(({ state }) => state === "pending"); i += 1) {
    await clock.advance(10);
    if (i % 500 === 0) made[0].say({ type: "ping" });
    client.typing("g1");
  }
  assert.ok(items.every(({ state }) => state === "accepted"));
  return sent;
}

/** More than `atOnce` and what `perSecond` allows were never sent. */
function assertWithin(sent, cost, perSecond, atOnce) {
  let [left, last] = [atOnce, sent[0].at];
  for (const one of sent) {
    left = Math.min(atOnce, left + ((one.at - last) * perSecond) / 1000) - cost(one);
    last = one.at;
    assert.ok(left >= 0, `too much at ${one.at - sent[0].at} ms`);
  }
}

test("what waited for the connection goes no faster than the server takes it, in frames and in bytes", async () => {
  const many = await flushed({ frames_per_second: 100 }, 500, "x");
  assertWithin(many, () => 1, 100, 50);
  assert.ok(many.at(-1).at - many[0].at < 7_000, "but hardly slower");
  const large = await flushed({ frames_per_second: 100, bytes_per_second: 2 ** 20 }, 100, "x".repeat(30_000));
  assertWithin(large, ({ bytes }) => bytes, 2 ** 20, 2 ** 19);
  assert.ok(large.at(-1).at - large[0].at < 4_000);
});

test("a message larger than the server takes fails by itself, and what follows is sent", async () => {
  const { client, open } = await connected();
  const socket = await open({ limits: { frame_bytes: 300 } });
  // Of three bytes each.
  const [long, next] = [client.send("g", "長".repeat(100)), client.send("g", "short")];
  await long.done;
  await settle();
  assert.deepEqual([long.state, long.error.code, next.state], ["failed", "too_large", "pending"]);
  assert.deepEqual(socket.of("send").map(({ body }) => body), ["short"]);
});

test("what cannot be written as JSON fails by itself, whatever waits beside it", async () => {
  const { clock, client, open } = await connected();
  const socket = await open({ limits: { frames_per_second: 10 } });
  const asked = Array.from({ length: 5 }, () => client.notify({ user: "bob" }, "x").catch((error) => error.code));
  const [bad, next] = [client.send("g", "1", { data: { n: 1n } }), client.send("g", "2")];
  await assert.rejects(client.notify({ user: "bob" }, "y", { data: 1n }), { code: "bad_request", retryable: false });
  await bad.done;
  assert.deepEqual([bad.state, bad.error.code, next.state], ["failed", "bad_request", "pending"]);
  await clock.advance(1000);
  assert.deepEqual([socket.of("notify").length, socket.of("send").map(({ body }) => body)], [asked.length, ["2"]]);
});
