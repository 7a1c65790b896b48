// A clock that stands still until told, and sockets that do what the test says.

/** A clock; `advance` runs what falls due, letting promises settle in between. */
export class FakeClock {
  time = Date.parse("2026-11-22T08:30:00.000Z");
  luck = 1;
  #timers = new Map();
  #next = 1;
  now = () => this.time;
  date = () => this.time;
  random = () => this.luck;
  setTimeout = (run, ms) => {
    this.#timers.set(this.#next, { at: this.time + ms, run });
    return this.#next++;
  };
  clearTimeout = (timer) => this.#timers.delete(timer);

  async advance(ms) {
    const end = this.time + ms;
    await settle();
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort((a, b) => a[1].at - b[1].at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.time = Math.max(this.time, due[1].at);
      due[1].run();
      await settle();
    }
    this.time = end;
  }
}

/** Lets promises go on. */
export async function settle() {
  for (let i = 0; i < 400; i += 1) await Promise.resolve();
}

/** A class of sockets, and those that were made. */
export function fakeSockets() {
  const made = [];
  class FakeSocket {
    sent = [];
    constructor(url, protocols) {
      Object.assign(this, { url, protocols });
      made.push(this);
    }
    send(text) {
      this.sent.push(JSON.parse(text));
    }
    close(code) {
      this.closedWith = code;
    }
    // What the server does.
    say(frame) {
      this.onmessage({ data: JSON.stringify(frame) });
    }
    drop(code, reason = "") {
      this.onclose({ code, reason });
    }
    of(type) {
      return this.sent.filter((frame) => frame.type === type);
    }
  }
  return { FakeSocket, made };
}

export const ME = { id: "alice", handle: "alice", display_name: "Alice" };

export function ready(clock, more = {}) {
  return {
    type: "ready", id: 0, time: new Date(clock.time).toISOString(), user: ME, session: "s", groups: [], more: false,
    inbox: { unseen: 0, unread: 0, version: "1.1" }, inbox_position: "1.5", inbox_recovered: false,
    ping_interval_ms: 25_000, limits: {}, ...more,
  };
}

export const group = (id, position, recovered = false) => ({
  id, kind: "group", display_name: id, role: "member", position, unread: 0, unread_at: position, recovered,
});

export const message = (of, seq, more = {}) => ({
  type: "message", group: of, id: `m${seq}`, sender: "bob", nonce: `n${seq}`, body: `${seq}`, position: `1.${seq}`,
  sent_at: "2026-11-22T08:30:00.000Z", ...more,
});
