// @ts-check
/**
 * How far natter.js has heard of each group and of the inbox: what it resumes from, what is new, and where something is missing.
 *
 * @typedef {import("./natter-wire.js").Group} Group
 * @typedef {import("./natter-wire.js").Position} Position
 * @typedef {{group: string, after: Position, until: Position}} Gap  what lies between the two was not told
 */

import { comparePositions } from "./natter-wire.js";

/** So many memberships that ended are remembered. */
const MOST_ENDED = 100;

/** What one user has been told of, over one connection after another. */
export class Positions {
  /** The last position heard of each group. @type {Map<string, Position>} */ #heard = new Map();
  /** Where the last memberships that ended did: a gateway that is behind may not know it yet. @type {Map<string, Position>} */ #ended = new Map();
  /** From where on delivery of each group is without a gap. @type {Map<string, Position>} */ #liveFrom = new Map();
  /** What this connection was asked to go on from. @type {Map<string, Position>} */ #resumed = new Map();
  /** Groups that this connection has listed, or told something of. @type {Set<string>} */ #known = new Set();
  /** @type {Position|undefined} */ #inbox = undefined;

  /** @param {(gap: Gap) => void} tellGap */
  constructor(tellGap) {
    this.tellGap = tellGap;
  }

  /** A connection begins; gives what it is to resume from. */
  begin() {
    this.#resumed = new Map(this.#heard);
    this.#known.clear();
    const groups = Object.fromEntries([...this.#ended, ...this.#heard]);
    return this.#inbox ? { groups, inbox: this.#inbox } : { groups };
  }

  /** Another user has heard nothing. */
  clear() {
    this.#heard.clear();
    this.#ended.clear();
    this.#liveFrom.clear();
    this.#inbox = undefined;
  }

  /** @param {string} group */
  last(group) {
    return this.#heard.get(group);
  }

  /** @param {string} group */
  liveFrom(group) {
    return this.#liveFrom.get(group);
  }

  /** Without those that one has left, as a gateway that is behind does not know yet. @param {Group[]} groups */
  current(groups) {
    return groups.filter((group) => !(group.recovered && this.#ended.has(group.id)));
  }

  /** A page of groups: those that are current, and what was missed of them. @param {Group[]} page */
  list(page) {
    const groups = this.current(page);
    /** @type {Gap[]} */
    const gaps = [];
    for (const group of groups) {
      if (group.recovered) continue;
      const heard = this.#known.has(group.id) ? this.#heard.get(group.id) : undefined;
      const after = this.#resumed.get(group.id) ?? this.#ended.get(group.id);
      this.#ended.delete(group.id);
      // Of a group of a later page more may have been told already.
      if (!heard || comparePositions(heard, group.position) < 0) this.#heard.set(group.id, group.position);
      this.#liveFrom.set(group.id, group.position);
      if (after) gaps.push({ group: group.id, after, until: group.position });
    }
    for (const { id } of page) this.#known.add(id);
    return { groups, gaps };
  }

  /**
   * Something of a group was told; false if it was there before. Of what lies between two memberships nothing is told.
   * @param {string} group @param {Position} position @param {boolean} [begins]  where a membership begins
   */
  advance(group, position, begins = false) {
    const heard = this.#heard.get(group);
    const last = heard ?? this.#ended.get(group);
    const ahead = last ? comparePositions(position, last) : 1;
    // In an installation that has lost its data positions are smaller than before: of a group that was not listed what comes first holds.
    const isAnew = ahead < 0 && !this.#known.has(group);
    if (ahead <= 0 && !isAnew) return false;
    this.#ended.delete(group);
    this.#known.add(group);
    this.#heard.set(group, position);
    if (begins || isAnew || !this.#liveFrom.has(group)) this.#liveFrom.set(group, position);
    if (last && (begins || isAnew || !heard)) this.tellGap({ group, after: last, until: position });
    return true;
  }

  /** A membership ended; false if that was known. @param {string} group @param {Position} position */
  end(group, position) {
    const ended = this.#ended.get(group);
    if (ended && comparePositions(position, ended) <= 0) return false;
    this.#ended.delete(group);
    this.#ended.set(group, position);
    if (this.#ended.size > MOST_ENDED) this.#ended.delete(this.#ended.keys().next().value ?? "");
    this.#heard.delete(group);
    this.#liveFrom.delete(group);
    return true;
  }

  /** The inbox goes on from here; whether something of it was missed. @param {Position} position @param {boolean} recovered */
  beginInbox(position, recovered) {
    const missed = this.#inbox !== undefined && !recovered;
    // Of a resumed inbox the missed ones follow, each with its position.
    if (!this.#inbox || missed) this.#inbox = position;
    return missed;
  }

  /** Something of the inbox was told; false if it was there before. @param {Position} position */
  advanceInbox(position) {
    if (this.#inbox && comparePositions(position, this.#inbox) <= 0) return false;
    this.#inbox = position;
    return true;
  }
}
