// The chat room's page. What others wrote is only ever set as text, never as markup.

const page = document.body.dataset;
const byId = (id) => document.getElementById(id);
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 15000;

// --- Rooms: a list on the side, and a pane for each that was opened. ---

// What was said in each group since the page was loaded, whether its pane is open or not.
const lines = new Map();

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function addRoom(group, name) {
  const known = byId(`room_${group}`);
  if (known) return known;
  const item = element("li", "exist_room", name);
  item.id = `room_${group}`;
  item.tabIndex = 0;
  byId("exist-rooms").append(item);
  return item;
}

// The field's fourth parent is the pane: pages that come with other scripts rely on it.
function addPane(group, name) {
  const pane = element("section", "display_room");
  pane.id = `display_room_${group}`;
  const body = element("div", "msg_card_body");
  body.setAttribute("aria-live", "polite");
  const footer = element("div", "card-footer");
  const form = element("form", "message_form");
  const inputs = element("div", "input-group");
  const field = element("textarea", "type_msg");
  field.placeholder = "Write something";
  field.setAttribute("aria-label", `Message to ${name}`);
  field.rows = 2;
  const button = element("button", "send_btn", "Send");
  button.type = "submit";
  inputs.append(field, button);
  form.append(inputs);
  footer.append(form);
  pane.append(element("h2", "room_name", name), body, footer);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    say(group, field);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      say(group, field);
    }
  });
  byId("display-rooms").append(pane);
  for (const line of lines.get(group) ?? []) drawLine(pane, line);
  return pane;
}

function openRoom(group, name) {
  addRoom(group, name).classList.remove("has_news");
  const pane = byId(`display_room_${group}`) ?? addPane(group, name);
  for (const other of document.querySelectorAll(".display_room")) other.hidden = other !== pane;
  pane.querySelector(".type_msg").focus();
}

function drawLine(pane, { text, own }) {
  const body = pane.querySelector(".msg_card_body");
  body.append(element("p", own ? "line own" : "line", text));
  body.scrollTop = body.scrollHeight;
}

function addLine(group, line) {
  if (!lines.has(group)) lines.set(group, []);
  lines.get(group).push(line);
  const pane = byId(`display_room_${group}`);
  if (pane) drawLine(pane, line);
  if (!pane || pane.hidden) byId(`room_${group}`)?.classList.add("has_news");
}

// The server does not send a line back to the connection it came by: the page draws its own.
function say(group, field) {
  const message = field.value.trim();
  if (message && transmit({ message, type: "chat", groupname: group })) {
    addLine(group, { text: message, own: true });
    field.value = "";
  }
}

// --- Notifications. ---

const unseenItems = () => document.querySelectorAll("#notifications .list-group-item-primary");

function setUnseen(count) {
  const badge = byId("unseen-count");
  badge.textContent = String(count);
  badge.hidden = count === 0;
}

function addNotification(id, message) {
  if (byId(`notification_${id}`)) return;
  const item = element("li", "list-group-item-primary", message);
  item.id = `notification_${id}`;
  byId("notifications").prepend(item);
  setUnseen(Number(byId("unseen-count").textContent) + 1);
}

async function markSeen(items) {
  if (items.length === 0) return;
  const form = new URLSearchParams({ type: "Clean_Seen" });
  for (const item of items) form.append("seen_id[]", item.id.slice("notification_".length));
  if (await submit(form)) {
    for (const item of items) item.className = "list-group-item";
    setUnseen(Math.max(0, Number(byId("unseen-count").textContent) - items.length));
  }
}

function notify() {
  const user = byId("user-input");
  const text = byId("chat-message-input");
  const message = text.value.trim();
  const name = user.value.trim();
  if (message && name && transmit({ message, type: "notification", user_name: name })) text.value = "";
}

// --- Forms. ---

function csrfToken() {
  const cookie = document.cookie.split("; ").find((one) => one.startsWith("csrftoken="));
  return cookie ? cookie.slice("csrftoken=".length) : "";
}

async function post(path, body, method = "POST") {
  const response = await fetch(path, { method, headers: { "X-CSRFToken": csrfToken() }, body });
  if (response.status === 401) location.assign("/");
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail ?? `refused (${response.status})`);
  }
  return response;
}

async function submit(form) {
  try {
    return await post(location.pathname, form);
  } catch (error) {
    showStatus(error.message);
    return null;
  }
}

async function openSingle(user) {
  const response = await submit(new URLSearchParams({ type: "Create_Group_Single", user }));
  if (!response) return;
  const group = JSON.parse(await response.text());
  openRoom(group.id, group.display_name);
}

// --- The socket. ---

let socket = null;
let retryMs = FIRST_RETRY_MS;

function showStatus(text) {
  byId("status").textContent = text;
}

function transmit(frame) {
  if (socket?.readyState !== WebSocket.OPEN) {
    showStatus("not connected; try again in a moment");
    return false;
  }
  socket.send(JSON.stringify(frame));
  return true;
}

function receive(text) {
  const frame = JSON.parse(text);
  if (frame.type === "chat") {
    addRoom(frame.group_name, frame.display_name);
    addLine(frame.group_name, { text: frame.message, own: false });
  } else if (frame.type === "notification") {
    addNotification(frame.id, frame.message);
  } else if (frame.type === "error") {
    showStatus(frame.message);
  }
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/ws${location.pathname}`);
  let openedAt = Infinity;
  socket.onopen = () => {
    openedAt = Date.now();
    showStatus("connected");
  };
  socket.onmessage = (event) => receive(event.data);
  socket.onclose = (event) => {
    if (event.code === 4401) {
      location.assign("/");
      return;
    }
    showStatus("disconnected; trying again…");
    // An upgrade that is refused by a close has opened, too: only a lasting connection counts.
    if (Date.now() - openedAt > LAST_RETRY_MS) retryMs = FIRST_RETRY_MS;
    // Spread out, so that a restart does not bring everybody back at the same moment.
    setTimeout(connect, retryMs * (0.5 + Math.random()));
    retryMs = Math.min(retryMs * 2, LAST_RETRY_MS);
  };
}

// --- What the user does. ---

function onActivate(list, className, action) {
  const run = (event) => {
    const item = event.target.closest(`.${className}`);
    if (item) action(item);
  };
  byId(list).addEventListener("click", run);
  byId(list).addEventListener("keydown", (event) => {
    if (event.key === "Enter") run(event);
  });
}

onActivate("exist-rooms", "exist_room", (item) => openRoom(item.id.slice("room_".length), item.textContent));
onActivate("other-users", "other_user", (item) => openSingle(item.id.slice("user_".length)));
onActivate("notifications", "list-group-item-primary", (item) => markSeen([item]));
byId("clean-seen").addEventListener("click", () => markSeen([...unseenItems()]));
byId("notification-message-submit").addEventListener("click", notify);
byId("notification-form").addEventListener("submit", (event) => event.preventDefault());
byId("chat-message-input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.isComposing) notify();
});
byId("sign-out")?.addEventListener("click", async () => {
  try {
    await post("/api/v1/session", undefined, "DELETE");
    location.assign("/");
  } catch (error) {
    showStatus(error.message);
  }
});

openRoom(page.roomGroup, byId(`room_${page.roomGroup}`)?.textContent ?? page.room);
connect();
