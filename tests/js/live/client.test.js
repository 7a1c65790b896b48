// natter.js against live gateways: started, killed and stopped by the Rust test `client_js`, which
// tells where they are and takes orders over HTTP.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { after, test } from "node:test";
import WebSocket from "ws";

import { Client, comparePositions } from "../../../gateway/assets/natter.js";

const { GATEWAYS, CONTROL, SECRET, ISSUER, AUDIENCE } = process.env;
const gateways = GATEWAYS.split(",");
const PATIENCE = 20_000;

/** @type {Client[]} */
const clients = [];
after(() => { for (const client of clients) client.close(); });

/** Asks the Rust test for something: `kill/0`, `start/0`. */
async function order(what) {
  const answer = await fetch(`http://${CONTROL}/${what}`, { method: "POST" });
  assert.equal(answer.status, 200, what);
}

/** A token that lasts so many seconds. */
function token(name, lasts = 3600, secret = SECRET) {
  const now = Math.floor(Date.now() / 1000);
  const claims = { sub: `id-${name}`, preferred_username: name, iss: ISSUER, aud: AUDIENCE, iat: now, exp: now + lasts };
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

/** Waits until `look` finds something. */
async function until(what, look) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < end, `waited in vain for ${what}`);
    await new Promise((resume) => setTimeout(resume, 10));
  }
}

/** A client on a gateway, and all that it tells. */
function start(name, gateway, options = {}) {
  const client = new Client({
    url: `ws://${gateways[gateway]}/ws`, WebSocket, token: () => token(name), firstPause: 50, longestPause: 300, ...options,
  });
  clients.push(client);
  const told = [];
  for (const type of ["state", "message", "notification", "gap", "inbox", "group", "read", "typing"]) {
    client.on(type, (detail) => told.push([type, detail]));
  }
  client.connect();
  const of = (type) => told.filter(([one]) => one === type).map(([, detail]) => detail);
  return { client, of, bodies: (group) => of("message").filter((message) => message.group === group).map((message) => message.body) };
}

async function connected(name, gateway, options) {
  const one = start(name, gateway, options);
  await until(`${name} ready`, () => one.client.state === "ready");
  return one;
}

/** The platform's socket, through which a test can drop frames, spoil them, and see what is sent. */
function wiretapped(tap) {
  return class extends WebSocket {
    send(text) {
      const sent = tap.onSend?.(JSON.parse(text));
      if (sent !== null) super.send(sent ?? text);
    }

    set onmessage(listener) {
      super.onmessage = (event) => { if (tap.onReceive?.(JSON.parse(event.data), this) !== false) listener(event); };
    }
  };
}

test("connects, sends, receives, reads, types and notifies over two gateways", async () => {
  const ann = await connected("ann", 0);
  const ben = await connected("ben", 1);
  assert.equal(ann.client.user.handle, "ann");
  assert.ok(Math.abs(ann.client.serverNow - Date.now()) < 2_000);
  const group = (await ann.client.join("hall")).id;
  await ben.client.join("hall");
  const items = ["one", "two", "three"].map((body) => ann.client.send(group, body, { data: { of: body } }));
  for (const item of items) assert.equal((await item.done).state, "accepted");
  await until("all three", () => ben.bodies(group).length === 3);
  assert.deepEqual(ben.bodies(group), ["one", "two", "three"]);
  const heard = ben.of("message");
  assert.deepEqual(heard.map((message) => [message.id, message.position, message.nonce, message.sender, message.data]),
    items.map((item) => [item.messageId, item.position, item.nonce, "id-ann", { of: item.body }]));
  await until("her own", () => ann.bodies(group).length === 3);

  ann.client.typing(group);
  await until("typing", () => ben.of("typing").some(({ user }) => user === "id-ann"));
  const window = await connected("ben", 0);
  await ben.client.read(group, heard[2].position);
  await until("read in the other window", () => window.of("read").some(({ position }) => position === heard[2].position));
  const { notification_id: id } = await ann.client.notify({ user: "id-ben" }, "ping");
  await until("the notification", () => ben.of("notification").some((one) => one.id === id && one.body === "ping"));
  await until("it counted", () => ben.of("inbox").some(({ unseen }) => unseen === 1));
  await until("it in the list", async () => ben.client.seen({ ids: [id] }).then(() => true, () => false));
  await until("it seen", () => ben.of("inbox").at(-1).unseen === 0);
  await assert.rejects(ann.client.notify({ user: "nobody" }, "?"), { code: "not_found", retryable: false });
});

test("goes on where it was after its gateway was killed: nothing missing, nothing doubled, all in order", async () => {
  const ann = await connected("ann", 0);
  const ben = await connected("ben", 1);
  const group = (await ann.client.join("killed")).id;
  await ben.client.join("killed");
  const timeline = ann.client.timeline(group, { page: 20 });
  await timeline.open();
  const said = (from, to) => Array.from({ length: to - from }, (_, index) => ben.client.send(group, `line ${from + index}`).done);
  await Promise.all(said(0, 20));
  await until("the first lines", () => ann.bodies(group).length === 20);
  await order("kill/0");
  await until("it noticed", () => ann.client.state === "waiting");
  assert.equal(ann.of("state").at(-1).code, 1006);
  const own = ann.client.send(group, "said while away");
  await Promise.all(said(20, 120));
  assert.equal(own.state, "pending");
  await order("start/0");
  const meanwhile = said(120, 140);
  assert.equal((await own.done).state, "accepted");
  await Promise.all(meanwhile);
  const lines = () => ann.bodies(group).filter((body) => body.startsWith("line"));
  await until("all lines", () => lines().length >= 140 && ann.bodies(group).includes("said while away"));
  assert.deepEqual(lines(), Array.from({ length: 140 }, (_, index) => `line ${index}`));
  assert.equal(ann.bodies(group).filter((body) => body === "said while away").length, 1);
  const positions = ann.of("message").filter((message) => message.group === group).map((message) => message.position);
  for (let at = 1; at < positions.length; at += 1) assert.ok(comparePositions(positions[at - 1], positions[at]) < 0);
  assert.deepEqual(ann.of("gap"), [], "resumed, not begun anew");
  // The same list as somebody sees who comes later.
  await until("the timeline", () => timeline.messages.length === 141);
  const later = ben.client.timeline(group, { page: 50 });
  await until("history", async () => {
    await later.open();
    while (!later.atStart) await later.older();
    return later.messages.length === 141;
  });
  assert.deepEqual(timeline.messages.map(({ id }) => id), later.messages.map(({ id }) => id));
});

test("a reply that is lost with its connection: sent again under its nonce, there once", async () => {
  const sent = [];
  const tap = {
    onSend: (frame) => { if (frame.type === "send") sent.push(frame); },
    // What the server says to the first one never arrives, nor what it tells of it.
    onReceive: (frame, socket) => {
      if (sent.length !== 1 || !["reply", "message"].includes(frame.type)) return true;
      setImmediate(() => socket.terminate());
      return false;
    },
  };
  const ann = await connected("ann", 0, { WebSocket: wiretapped(tap) });
  const ben = await connected("ben", 1);
  const group = (await ann.client.join("retries")).id;
  await ben.client.join("retries");
  const item = await ann.client.send(group, "once").done;
  assert.equal(item.state, "accepted");
  await ann.client.send(group, "after it").done;
  await until("both", () => ben.bodies(group).includes("after it"));
  assert.deepEqual(ben.bodies(group), ["once", "after it"]);
  assert.equal(ben.of("message").find(({ body }) => body === "once").id, item.messageId);
  const tries = sent.filter(({ body }) => body === "once");
  assert.ok(tries.length === 2 && new Set(tries.map(({ nonce }) => nonce)).size === 1);
  assert.ok(ann.of("state").some(({ state }) => state === "waiting"), "the connection was lost");

  // Refused for good: failed. Tried again as it should have been: accepted, under the same nonce.
  tap.onSend = (frame) => {
    sent.push(frame);
    return sent.filter(({ body }) => body === "spoilt").length === 1
      ? JSON.stringify({ ...frame, group: "01920000-0000-7000-8000-000000000000" }) : undefined;
  };
  tap.onReceive = undefined;
  const failed = await ann.client.send(group, "spoilt").done;
  assert.deepEqual([failed.state, failed.error.code], ["failed", "not_found"]);
  assert.equal((await ann.client.retry(failed).done).state, "accepted");
  const nonces = sent.filter(({ body }) => body === "spoilt").map(({ nonce }) => nonce);
  assert.ok(nonces.length === 2 && nonces[0] === nonces[1]);
});

test("a fresh token in band: the connection outlives the first one", async () => {
  let made = 0;
  const ann = await connected("ann", 0, { token: () => { made += 1; return token("ann", made === 1 ? 4 : 3600); } });
  const ready = Date.now();
  const ben = await connected("ben", 1);
  const group = (await ann.client.join("tokens")).id;
  await ben.client.join("tokens");
  await until("a second token", () => made === 2);
  assert.ok(Date.now() - ready < 4_000, "before the first one is over");
  await until("the end of the first one", () => Date.now() - ready > 5_500);
  assert.equal((await ann.client.send(group, "still here").done).state, "accepted");
  await ben.client.send(group, "so I hear").done;
  await until("what comes", () => ann.bodies(group).includes("so I hear"));
  assert.deepEqual(ann.of("state").map(({ state }) => state), ["connecting", "ready"], "one connection");
});

test("closes of a live gateway: never without a person, now, or later, as the table says", async () => {
  const closed = (one) => until("closed", () => one.client.state === "closed").then(() => one.of("state").at(-1).code);
  const reopened = async (one) => {
    await until("lost", () => one.of("state").some(({ state }) => state === "waiting"));
    await until("ready again", () => one.client.state === "ready");
    return one.of("state").find(({ state }) => state === "waiting").code;
  };
  // 4401: a token that does not hold, and one that ends without another.
  assert.equal(await closed(start("ann", 0, { token: () => token("ann", 3600, "another secret, just as long as the first") })), 4401);
  // The same where fresh ones can be had, but cannot be told in band: at once, with the next one.
  let made = 0;
  const tap = { onSend: (frame) => (frame.type === "refresh" ? null : undefined) };
  const renewed = await connected("ann", 0, { WebSocket: wiretapped(tap), token: () => { made += 1; return token("ann", made === 1 ? 2 : 3600); } });
  // 4400, 1009: what no retry helps.
  for (const [code, spoil] of [[4400, () => "no frame"], [1009, () => "x".repeat(300_000)]]) {
    const one = await connected("ann", 0, { WebSocket: wiretapped({ onSend: (frame) => (frame.type === "typing" ? spoil() : undefined) }) });
    one.client.typing("anything");
    assert.equal(await closed(one), code);
    // A person may: by hand it comes back.
    one.client.connect();
    await until("ready by hand", () => one.client.state === "ready");
  }
  // 4429: later, and it comes back. By itself the client keeps to the rate.
  const Loud = class extends WebSocket {
    send(text) {
      for (let left = text.includes('"typing"') ? 1_000 : 1; left > 0; left -= 1) super.send(text);
    }
  };
  const loud = await connected("ann", 0, { WebSocket: Loud });
  loud.client.typing("hall");
  assert.equal(await reopened(loud), 4429);
  assert.equal(await reopened(renewed), 4401);
  // A gateway that drains: told, and elsewhere (here: back) before it ends.
  const moved = await connected("ann", 0);
  await order("stop/0");
  await until("lost", () => moved.of("state").some(({ state }) => state === "waiting"));
  assert.ok([1001, 1006, 1012, 4410].includes(moved.of("state").find(({ state }) => state === "waiting").code));
  await order("start/0");
  await until("ready again", () => moved.client.state === "ready");
});
