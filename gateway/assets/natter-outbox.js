// @ts-check
/**
 * Messages of one's own: each once, and those of a group in their order, whatever happens to the connection.
 *
 * @typedef {import("./natter.js").Client} Client
 * @typedef {import("./natter-clock.js").Timers} Timers
 * @typedef {import("./natter-wire.js").Message} Message
 * @typedef {import("./natter-wire.js").Position} Position
 */

import { RequestError, uuidv7 } from "./natter-wire.js";

/** A message on its way. `done` resolves with it, accepted or failed, and never rejects. */
export class Outgoing {
  /** @param {string} group @param {string} body @param {{replyTo?: string, data?: any}} more */
  constructor(group, body, more) {
    this.group = group;
    this.body = body;
    this.replyTo = more.replyTo;
    this.data = more.data;
    /** @type {"pending"|"accepted"|"failed"} */
    this.state = "pending";
    /** Made at the first transmission, and the same in every other. @type {string|undefined} */
    this.nonce = undefined;
    /** Of an accepted one. @type {string|undefined} */
    this.messageId = undefined;
    /** @type {Position|undefined} */
    this.position = undefined;
    /** Of a failed one. @type {RequestError|undefined} */
    this.error = undefined;
    this.tries = 0;
    this.failingSince = 0;
    /** @type {(item: Outgoing) => void} */
    this.settle = () => {};
    /** @type {Promise<Outgoing>} */
    this.done = new Promise((resolve) => { this.settle = resolve; });
  }
}

/** The timer of a group whose first message waits to be tried again. @param {string} group */
const again = (group) => `again ${group}`;

/** What a client has to send. */
export class Outbox {
  /** By group, in order; the first is on its way. @type {Map<string, Outgoing[]>} */ #queues = new Map();
  /** @type {Set<Outgoing>} */ #transmitted = new Set();

  /** @param {Client} client @param {Timers} timers those of the connection @param {(item: Outgoing) => void} told of each that is accepted, or failed */
  constructor(client, timers, told) {
    this.client = client;
    this.timers = timers;
    this.told = told;
  }

  /** A connection is ready. */
  begin() {
    for (const group of this.#queues.keys()) this.#pump(group);
  }

  /** It is lost: what was transmitted goes again. */
  end() {
    this.#transmitted.clear();
  }

  /** All that waits has failed. @param {RequestError} error */
  fail(error) {
    for (const item of [...this.#queues.values()].flat()) {
      item.error = error;
      this.#settle(item, "failed");
    }
  }

  /** @param {string} group @param {string} body @param {{replyTo?: string, data?: any}} more @returns {Outgoing} */
  send(group, body, more) {
    const queued = [...this.#queues.values()].reduce((sum, queue) => sum + queue.length, 0);
    if (queued >= this.client.options.mostQueued) throw new RequestError("queue_full", "too many messages wait to be sent", true);
    const item = new Outgoing(group, body, more);
    this.#enqueue(item);
    return item;
  }

  /** @param {Outgoing} item @returns {Outgoing} */
  retry(item) {
    if (item.state !== "failed") return item;
    item.state = "pending";
    item.error = undefined;
    item.tries = 0;
    item.failingSince = 0;
    item.done = new Promise((resolve) => { item.settle = resolve; });
    this.#enqueue(item);
    return item;
  }

  /** @param {Outgoing} item */
  #enqueue(item) {
    const queue = this.#queues.get(item.group) ?? [];
    queue.push(item);
    this.#queues.set(item.group, queue);
    this.#pump(item.group);
  }

  /** Transmits the first message of a group's queue. @param {string} group */
  #pump(group) {
    const item = this.#queues.get(group)?.[0];
    if (!item || this.client.state !== "ready" || this.#transmitted.has(item)) return;
    if (this.timers.has(again(group))) return;
    item.nonce ??= uuidv7(this.client.serverNow);
    item.tries += 1;
    this.#transmitted.add(item);
    const { nonce, body, data, replyTo: reply_to } = item;
    this.client.request({ type: "send", group, nonce, body, reply_to, data }).then(
      (reply) => this.#settle(item, "accepted", reply.message_id, reply.position),
      (error) => this.#refused(item, error),
    );
  }

  /** @param {Outgoing} item @param {RequestError} error */
  #refused(item, error) {
    this.#transmitted.delete(item);
    if (item.state !== "pending" || error.code === "disconnected") return;
    item.failingSince ||= this.client.clock.now();
    if (!error.retryable || this.client.clock.now() - item.failingSince > this.client.options.giveUp) {
      item.error = error;
      return this.#settle(item, "failed");
    }
    const longest = Math.min(this.client.options.firstPause * 2 ** Math.min(item.tries, 16), this.client.options.longestPause);
    const pause = error.retryAfter ?? this.client.clock.random() * longest;
    this.timers.set(again(item.group), pause, () => this.#pump(item.group));
  }

  /** One's own message is as good as its reply, which may be lost. @param {Message} message */
  cameBack(message) {
    for (const queue of this.#queues.values()) {
      const item = queue.find((one) => one.nonce === message.nonce);
      if (item) return this.#settle(item, "accepted", message.id, message.position);
    }
  }

  /** @param {Outgoing} item @param {"accepted"|"failed"} state @param {string} [messageId] @param {Position} [position] */
  #settle(item, state, messageId, position) {
    this.#transmitted.delete(item);
    if (item.state !== "pending") return;
    item.state = state;
    item.messageId = messageId;
    item.position = position;
    const rest = (this.#queues.get(item.group) ?? []).filter((one) => one !== item);
    if (rest.length > 0) this.#queues.set(item.group, rest);
    else this.#queues.delete(item.group);
    this.told(item);
    item.settle(item);
    this.#pump(item.group);
  }
}
