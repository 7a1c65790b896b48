// @ts-check
// What the page says, in each of its languages. `{x}` is filled in.

/** @type {Record<string, Record<string, string>>} */
export const STRINGS = {
  en: {
    accepted: "Delivered to the server",
    add: "Add",
    add_people: "Add people",
    added_you: "You are now in {room}",
    archive: "Archive",
    back: "Back to all rooms",
    beginning: "This is the beginning of {room}.",
    cancel: "Cancel",
    close: "Close",
    closed: "Disconnected",
    closed_by: "Disconnected: {reason}",
    connected: "Connected",
    connecting: "Connecting…",
    create: "Create",
    create_group: "New group",
    details: "Members and settings",
    discard: "Discard",
    empty_room: "No messages yet. Say hello!",
    error_bad_request: "{detail}",
    error_forbidden: "You are not allowed to do that.",
    error_not_found: "That is not there any more, or not for you to see.",
    error_rate_limited: "That was too fast. Please wait a moment.",
    error_too_large: "That is too long.",
    error_too_many_groups: "{detail}",
    error_unauthorized: "The token is missing, has expired, or is not for this service.",
    failed: "Not sent.",
    gap: "Loading missed messages…",
    group_name: "Group name",
    invite: "People to add",
    jump: "Jump to latest",
    language: "中文",
    language_label: "切換為繁體中文",
    leave: "Leave group",
    leave_sure: "Leave {room}? You will no longer see its messages.",
    loading: "Loading…",
    lost: "Connection lost.",
    mark_all: "Mark all seen",
    mark_seen: "Mark as seen",
    members: "Members",
    members_count: "{n} members",
    members_one: "1 member",
    message_from: "{who} in {room}: {text}",
    message_to: "Message {room}",
    new_messages: "New messages",
    no_groups: "No rooms yet",
    nobody_yet: "Nobody else is here yet",
    no_people: "Nobody found",
    not_member: "This room does not exist, or you are not a member of it.",
    notification_from: "Notification from {who}: {text}",
    notifications: "Notifications",
    notifications_none: "You're all caught up.",
    notifications_unseen: "Notifications, {n} unseen",
    notified: "Notification sent to {who}",
    notify: "Send",
    notify_title: "Send a notification",
    one_to_one: "Direct message",
    open_room: "Open room",
    pending: "Sending…",
    people: "People",
    people_search: "Find people",
    reconnect: "Reconnect now",
    remove_who: "Remove {who}",
    removed_you: "You are no longer in {room}",
    rename: "Rename",
    retry: "Try again",
    retry_in: "Trying again in {n} s.",
    role_admin: "admin",
    role_member: "member",
    role_owner: "owner",
    rooms: "Rooms",
    send: "Send message",
    show_archived: "Archived",
    sign_in: "Sign in",
    sign_in_dev: "Development sign-in: any name will do.",
    sign_in_hello: "Good to see you",
    sign_in_name: "Your name",
    sign_in_token: "Access token",
    sign_in_token_help: "Paste the token that your application gave you.",
    sign_in_tokens: "Sign in with a token",
    sign_out: "Sign out",
    skip: "Skip to messages",
    system: "System",
    today: "Today",
    to_handle: "To (handle)",
    typing_many: "Several people are typing…",
    typing_one: "{who} is typing…",
    typing_two: "{who} and {other} are typing…",
    unavailable: "That did not work just now. Please try again.",
    unknown_user: "There is no user “{who}”.",
    unread: "{n} unread",
    what: "Message",
    yesterday: "Yesterday",
    you: "You: {text}",
  },
  "zh-Hant": {
    accepted: "已送達伺服器",
    add: "加入",
    add_people: "加入成員",
    added_you: "您已加入「{room}」",
    archive: "封存",
    back: "返回所有聊天室",
    beginning: "這裡是「{room}」的開頭。",
    cancel: "取消",
    close: "關閉",
    closed: "已離線",
    closed_by: "已離線：{reason}",
    connected: "已連線",
    connecting: "連線中…",
    create: "建立",
    create_group: "新增群組",
    details: "成員與設定",
    discard: "捨棄",
    empty_room: "還沒有訊息，打個招呼吧！",
    error_bad_request: "這項內容不被接受（{detail}）。",
    error_forbidden: "您沒有這項權限。",
    error_not_found: "對象已不存在，或您無法檢視。",
    error_rate_limited: "操作太頻繁，請稍候。",
    error_too_large: "內容太長。",
    error_too_many_groups: "群組數量已達上限（{detail}）。",
    error_unauthorized: "權杖未提供、已過期，或不適用於此服務。",
    failed: "未送出。",
    gap: "正在載入錯過的訊息…",
    group_name: "群組名稱",
    invite: "要加入的人",
    jump: "跳到最新訊息",
    language: "English",
    language_label: "Switch to English",
    leave: "離開群組",
    leave_sure: "確定離開「{room}」？您將不再看到其中的訊息。",
    loading: "載入中…",
    lost: "連線中斷。",
    mark_all: "全部標為已看",
    mark_seen: "標為已看",
    members: "成員",
    members_count: "{n} 位成員",
    members_one: "1 位成員",
    message_from: "{who} 在「{room}」：{text}",
    message_to: "傳訊息到「{room}」",
    new_messages: "新訊息",
    no_groups: "還沒有聊天室",
    nobody_yet: "還沒有其他人",
    no_people: "找不到人",
    not_member: "這個聊天室不存在，或您不是其成員。",
    notification_from: "{who} 的通知：{text}",
    notifications: "通知",
    notifications_none: "您已看完所有通知。",
    notifications_unseen: "通知，{n} 則未看",
    notified: "已通知 {who}",
    notify: "送出",
    notify_title: "傳送通知",
    one_to_one: "私人訊息",
    open_room: "公開聊天室",
    pending: "傳送中…",
    people: "使用者",
    people_search: "搜尋使用者",
    reconnect: "立即重新連線",
    remove_who: "移除 {who}",
    removed_you: "您已不在「{room}」",
    rename: "重新命名",
    retry: "重試",
    retry_in: "{n} 秒後重試。",
    role_admin: "管理員",
    role_member: "成員",
    role_owner: "擁有者",
    rooms: "聊天室",
    send: "傳送訊息",
    show_archived: "已封存",
    sign_in: "登入",
    sign_in_dev: "開發用登入：輸入任何名字皆可。",
    sign_in_hello: "很高興見到您",
    sign_in_name: "您的名字",
    sign_in_token: "存取權杖",
    sign_in_token_help: "請貼上應用程式給您的權杖。",
    sign_in_tokens: "使用權杖登入",
    sign_out: "登出",
    skip: "跳到訊息",
    system: "系統",
    today: "今天",
    to_handle: "收件人（帳號）",
    typing_many: "好幾個人正在輸入…",
    typing_one: "{who} 正在輸入…",
    typing_two: "{who} 和 {other} 正在輸入…",
    unavailable: "目前無法完成，請再試一次。",
    unknown_user: "沒有「{who}」這位使用者。",
    unread: "{n} 則未讀",
    what: "訊息",
    yesterday: "昨天",
    you: "您：{text}",
  },
};

const KEPT = "natter-language";

/** The language in force: the one chosen, else the browser's. */
export const language = (() => {
  try {
    const kept = localStorage.getItem(KEPT);
    if (kept && STRINGS[kept]) return kept;
  } catch { /* storage may be forbidden */ }
  return (navigator.languages ?? [navigator.language]).some((one, index) => index === 0 && /^zh/i.test(one)) ? "zh-Hant" : "en";
})();

/** As browsers' formats know it. */
export const locale = language === "zh-Hant" ? "zh-Hant-TW" : navigator.language.startsWith("en") ? navigator.language : "en";

/** Goes on in the other language. */
export function switchLanguage() {
  try { localStorage.setItem(KEPT, language === "en" ? "zh-Hant" : "en"); } catch { /* as above */ }
  location.reload();
}

/** A text of the page. @param {string} key @param {Record<string, any>} [values] */
export function t(key, values = {}) {
  const text = STRINGS[language][key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** Translates what the server rendered: `data-t` the text, `data-t-label` the name of a control, `data-t-hint` its placeholder. */
export function translate(root = document.body) {
  document.documentElement.lang = language;
  const each = (/** @type {string} */ name, /** @type {(element: any, text: string) => void} */ set) => {
    for (const element of root.querySelectorAll(`[${name}]`)) set(element, t(element.getAttribute(name) ?? ""));
  };
  each("data-t", (element, text) => { element.textContent = text; });
  each("data-t-label", (element, text) => { element.setAttribute("aria-label", text); element.title = text; });
  each("data-t-hint", (element, text) => { element.placeholder = text; });
}

/**
 * What went wrong, in the page's language: by the code of an answer, whose own text is for programs.
 * @param {any} error an `ApiError`, a `RequestError`, or what the browser throws where nothing answered
 */
export function explain(error) {
  const key = `error_${error?.code}`;
  if (!error?.code || !(key in STRINGS[language])) return t("unavailable");
  const detail = String(error.message);
  return t(key, { detail: language === "en" ? `${detail.charAt(0).toUpperCase()}${detail.slice(1)}.` : detail });
}

const clock = new Intl.DateTimeFormat(locale, { hour: "numeric", minute: "2-digit" });
const whole = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "short" });
const dayOf = new Intl.DateTimeFormat(locale, { weekday: "long", month: "long", day: "numeric" });
const dayShort = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric" });

/** @param {string} time */
export const timeOf = (time) => clock.format(new Date(time));

/** Day and time, for who points at a time. @param {string} time */
export const wholeTime = (time) => whole.format(new Date(time));

/** The day that divides messages. @param {string} time */
export function dayName(time) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(time).setHours(0, 0, 0, 0)) / 86_400_000);
  return days === 0 ? t("today") : days === 1 ? t("yesterday") : dayOf.format(new Date(time));
}

/** For lists: the time of today, else the day. @param {string} time */
export const shortTime = (time) =>
  new Date(time).toDateString() === new Date().toDateString() ? timeOf(time) : dayShort.format(new Date(time));
