// What loads a page's script: where modules do not load, or do not fit together, it says so and loads the page again.

import assert from "node:assert/strict";
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { after, beforeEach, test } from "node:test";
import { pathToFileURL } from "node:url";

import { fakePage } from "../page.js";

const gateway = new URL("../../../gateway/", import.meta.url);
const shipped = new URL("assets/page/start.js", gateway);
const MAIN = 'import { part } from "./part.js";\npart();\n';
const PART = "export const part = () => { globalThis.isStarted = true; };\n";
const folders = [];
let pauses, reloads, logged;

/** As a browser loads the page: with what a gateway has of its modules just then. Resolves to the page's body. */
async function load(modules) {
  const folder = mkdtempSync(`${tmpdir()}/natter-start-`);
  folders.push(folder);
  copyFileSync(shipped, `${folder}/start.js`);
  for (const [name, text] of Object.entries({ "package.json": '{"type":"module"}', ...modules })) writeFileSync(`${folder}/${name}`, text);
  const kept = globalThis.sessionStorage;
  const body = fakePage();
  globalThis.sessionStorage = kept ?? globalThis.sessionStorage;
  body.dataset.script = "main.js";
  Object.assign(globalThis, { isStarted: false, location: { reload: () => { reloads += 1; } } });
  const { setTimeout } = globalThis;
  const { error } = console;
  globalThis.setTimeout = (run, ms) => pauses.push({ run, ms });
  console.error = (reason) => logged.push(reason);
  const until = Date.now() + 10_000;
  await import(pathToFileURL(`${folder}/start.js`).href);
  while (!globalThis.isStarted && pauses.length === 0 && Date.now() < until) await new Promise(setImmediate);
  await new Promise(setImmediate);
  globalThis.setTimeout = setTimeout;
  console.error = error;
  return body;
}

beforeEach(() => {
  delete globalThis.sessionStorage;
  pauses = [];
  logged = [];
  reloads = 0;
});

after(() => folders.forEach((folder) => rmSync(folder, { recursive: true })));

for (const [what, modules] of [["answers 404", { "main.js": MAIN }], ["lacks a name", { "main.js": MAIN, "part.js": "export const other = 1;\n" }], ["breaks", { "main.js": "null.part();\n" }]]) {
  test(`where a module ${what}, the page says so and is loaded again, and then goes on`, async () => {
    const body = await load(modules);
    const [notice] = body.querySelectorAll(".not-whole");
    assert.match(notice.textContent, /^The page could not be loaded whole; trying again…/);
    assert.equal(notice.attributes.get("role"), "alert");
    assert.deepEqual([pauses.length, reloads, logged.length], [1, 0, 1]);
    assert.ok(pauses[0].ms >= 2_000 && pauses[0].ms <= 4_000, `${pauses[0].ms} ms`);
    pauses.pop().run();
    assert.equal(reloads, 1);
    const again = await load({ "main.js": MAIN, "part.js": PART });
    assert.deepEqual([globalThis.isStarted, again.querySelectorAll(".not-whole").length, pauses.length], [true, 0, 0]);
    await load(modules);
    assert.ok(pauses[0].ms <= 4_000, "what was whole in between begins anew");
  });
}

test("reloads become rare where the page never loads", async () => {
  const most = [];
  for (let loads = 0; loads < 7; loads += 1) {
    await load({});
    most.push(pauses.pop().ms);
  }
  const bounds = [4, 8, 16, 32, 60, 60, 60].map((seconds) => seconds * 1000);
  most.forEach((ms, at) => assert.ok(ms >= bounds[at] / 2 && ms <= bounds[at], `${ms} ms after ${at} failures`));
});

test("pages load nothing else, and it imports nothing that may be missing", () => {
  assert.doesNotMatch(readFileSync(shipped, "utf8"), /^\s*(import|export)[\s{*"']|\bfrom ["']/m);
  for (const name of ["chat.html", "sign_in.html"]) {
    const page = readFileSync(new URL(`templates/${name}`, gateway), "utf8");
    const [, script] = page.match(/<body [^>]*data-script="([\w-]+\.js)"/) ?? [];
    assert.ok(script && existsSync(new URL(script, shipped)), `${name}: ${script}`);
    assert.deepEqual(page.match(/<script[^>]*>/g), ['<script type="module" src="/assets/page/start.js">'], name);
  }
});
