// @ts-check
// The chat page: puts its parts together. What the server rendered is there at once; the API and the
// socket fill in the rest and keep it up to date.

import { call, get, signInAgain } from "./api.js";
import { showBell } from "./bell.js";
import { clearDrafts } from "./composer.js";
import { createGroup } from "./dialogs.js";
import { announce, byId } from "./dom.js";
import { Groups, showGroups } from "./groups.js";
import { Directory, showPeople } from "./people.js";
import { RoomView } from "./room.js";
import { showStatus } from "./status.js";
import { explain, switchLanguage, t, translate } from "./strings.js";
import { Client } from "../natter.js";

const page = /** @type {Record<string, string>} */ (document.body.dataset);
const me = page.userId;
translate();

const client = new Client({ url: `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/ws` });
const directory = new Directory();
directory.learn([{ id: me, handle: page.handle, display_name: page.displayName }]);
const groups = new Groups(client, directory, me);
const rooms = new RoomView(client, groups, directory, me);
let unseen = 0;

function showTitle() {
  const open = groups.rooms.get(groups.open);
  const count = groups.unread + unseen;
  document.title = `${count > 0 ? `(${count}) ` : ""}${open ? `${groups.title(open)} · ` : ""}Natter`;
}

/** The room that the path names: one of mine, or an open one to join. */
async function openPath() {
  const name = decodeURIComponent(location.pathname.split("/")[2] ?? "lobby");
  const isId = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(name);
  const mine = [...groups.rooms.values()].find((room) => (isId ? room.id === name.toLowerCase() : room.kind === "open" && room.name === name) || room.id === page.roomGroup && page.room === name);
  if (mine) return rooms.open(mine, { push: false, focus: !matchMedia("(pointer: coarse)").matches });
  const { isLatest } = rooms.ask();
  try {
    const joined = groups.learn(isId ? await get(`/groups/${name}`) : await call("POST", "/groups/open", { name }));
    if (isLatest()) rooms.open(joined, { push: false });
  } catch {
    if (isLatest()) rooms.notice(t("not_member"));
  }
}

showStatus(client);
showGroups(groups, directory, me, (room) => rooms.open(room));
const heardOf = showPeople(directory, (user) => void openSingle(user.id));
client.on("message", ({ sender }) => { if (sender !== me) heardOf(sender); });
client.on("typing", ({ user }) => { if (user !== me) heardOf(user); });
showBell(client, directory, {
  onCount: (count) => { unseen = count; showTitle(); },
  groupTitle: (id) => { const room = groups.rooms.get(id); return room && groups.title(room); },
});

/** @param {string} user */
async function openSingle(user) {
  const turn = rooms.ask();
  try {
    const single = groups.learn(await call("POST", "/groups/single", { user }));
    if (turn.isLatest()) rooms.open(single);
  } catch (error) {
    turn.giveUp();
    announce(explain(error));
  }
}

groups.addEventListener("change", showTitle);
groups.addEventListener("joined", (/** @type {any} */ event) => announce(t("added_you", { room: groups.title(event.detail) })));
byId("new-group").addEventListener("click", () => createGroup(() => {
  const { isLatest, giveUp } = rooms.ask();
  const made = (/** @type {any} */ group) => {
    const created = groups.learn(group);
    if (isLatest()) rooms.open(created);
  };
  return { made, giveUp };
}));
byId("language").addEventListener("click", switchLanguage);
addEventListener("popstate", () => void openPath());
byId("sign-out").addEventListener("click", async () => {
  client.close();
  const isOut = await call("DELETE", "/session", undefined, { stay: true }).then(() => true, (error) => error.status === 401);
  if (isOut) clearDrafts();
  location.assign("/");
});

// Another window may have signed in as somebody else: nothing is sent in that name from a page of this one.
client.on("ready", ({ user }) => {
  if (user.id === me) return;
  client.close();
  location.reload();
});

// Ready first, so that nothing falls between what is loaded and what is told.
const ready = new Promise((resolve) => client.on("groups", ({ more }) => { if (!more) resolve(undefined); }));
const { isLatest } = rooms.ask();
client.connect();
await ready;
await groups.load().catch((error) => { if (error.status === 401) signInAgain(); });
if (isLatest()) await openPath();
document.body.dataset.loaded = "true";
