// The page says everything in each language, and nothing that it has no words for.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

globalThis.localStorage ??= { getItem: () => null };
Object.defineProperty(globalThis, "navigator", { value: { languages: ["en"], language: "en" }, configurable: true });
const { STRINGS, explain } = await import("../../../gateway/assets/page/strings.js");
const gateway = new URL("../../../gateway/", import.meta.url);

test("all languages have the same keys, with the same things to fill in", () => {
  const [first, ...others] = Object.keys(STRINGS);
  const holes = (text) => (text.match(/\{\w+\}/g) ?? []).sort();
  for (const other of others) {
    assert.deepEqual(Object.keys(STRINGS[other]).sort(), Object.keys(STRINGS[first]).sort());
    for (const [key, text] of Object.entries(STRINGS[first])) assert.deepEqual(holes(STRINGS[other][key]), holes(text), `${other}: ${key}`);
  }
});

test("what scripts and templates ask for is there, and nothing else is", () => {
  const scripts = readdirSync(new URL("assets/page/", gateway)).map((name) => readFileSync(new URL(`assets/page/${name}`, gateway), "utf8"));
  const templates = ["chat.html", "sign_in.html"].map((name) => readFileSync(new URL(`templates/${name}`, gateway), "utf8"));
  const asked = new Set(["role_owner", "role_admin", "role_member"]);
  // Those of errors are asked for by the code that the server says.
  const protocol = readFileSync(new URL("../PROTOCOL.md", gateway), "utf8");
  for (const [, code] of protocol.matchAll(/^\| `(\w+)` \| (?:yes|no) \|/gm)) if (`error_${code}` in STRINGS.en) asked.add(`error_${code}`);
  for (const text of templates) for (const [, key] of text.matchAll(/data-t(?:-\w+)?="(\w+)"/g)) asked.add(key);
  const known = Object.keys(STRINGS.en);
  for (const text of scripts) for (const [, key] of text.matchAll(/\bt\("(\w+)"/g)) asked.add(key);
  for (const text of scripts.filter((one) => !one.includes("export const STRINGS"))) {
    for (const [, key] of text.matchAll(/"(\w+)"/g)) if (known.includes(key)) asked.add(key);
  }
  assert.deepEqual([...asked].filter((key) => !known.includes(key)), [], "asked for, and not there");
  assert.deepEqual(known.filter((key) => !asked.has(key)), [], "there, and not asked for");
});

test("who is in too many groups is said by name, for it need not be who asks", () => {
  const error = { code: "too_many_groups", message: "user cid is in 500 groups or more" };
  assert.equal(explain(error), "User cid is in 500 groups or more.");
  assert.match(STRINGS["zh-Hant"].error_too_many_groups, /\{detail\}/);
});
