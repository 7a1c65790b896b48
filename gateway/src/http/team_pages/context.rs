//! What a team's pages can show, under the names that Django pages use (docs/own-page.md).

use minijinja::{Value, context};
use natter_shared::{
    id::{GroupId, RoomName},
    rpc::{ChatPageData, GroupOverview, InboxEntry, Profile},
};
use serde_json::{Value as Json, json};

use super::filters::Escaped;

/// The chat room's page.
pub(in crate::http) struct Chat<'a> {
    pub(in crate::http) room: &'a RoomName,
    pub(in crate::http) room_group: GroupId,
    pub(in crate::http) path: &'a str,
    pub(in crate::http) csrf: &'a str,
    pub(in crate::http) dev_login: bool,
    pub(in crate::http) data: &'a ChatPageData,
}

impl Chat<'_> {
    /// The page's variables.
    pub(super) fn values(&self) -> Value {
        let data = self.data;
        let user = me(&data.profile);
        let groups: Vec<Json> = data.groups.iter().map(group).collect();
        let users: Vec<Json> = data.users.iter().map(profile).collect();
        let notifications: Vec<Json> = data.notifications.iter().map(notification).collect();
        let values = json!({
            "room_name": self.room.as_str(),
            "room": self.room.as_str(),
            "room_group": self.room_group,
            "user": user,
            "request": {"user": user, "path": self.path},
            "groups": groups,
            "users": users,
            "other_users": users,
            "notifications": notifications,
            "unseen_count": data.inbox.unseen,
            "csrf_token": self.csrf,
            "dev_login": self.dev_login,
        });
        with_csrf(values, self.csrf)
    }
}

/// The sign-in page.
pub(in crate::http) struct SignIn<'a> {
    pub(in crate::http) next: &'a str,
    pub(in crate::http) csrf: &'a str,
    pub(in crate::http) dev_login: bool,
}

impl SignIn<'_> {
    /// The page's variables.
    pub(super) fn values(&self) -> Value {
        let user = json!({"is_authenticated": false, "is_anonymous": true, "username": ""});
        let values = json!({
            "next": self.next,
            "csrf_token": self.csrf,
            "dev_login": self.dev_login,
            "user": user,
            "request": {"user": user, "path": "/sign-in"},
        });
        with_csrf(values, self.csrf)
    }
}

/// And `{% csrf_token %}`.
fn with_csrf(values: Json, csrf: &str) -> Value {
    let input = format!("<input type=\"hidden\" name=\"csrfmiddlewaretoken\" value=\"{}\">", Escaped(csrf));
    context! { csrf_input => Value::from_safe_string(input), ..of_json(values) }
}

/// The engine's value of JSON.
pub(super) fn of_json(json: Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::from(number),
            None => Value::from(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::from(text),
        Json::Array(items) => Value::from(items.into_iter().map(of_json).collect::<Vec<_>>()),
        Json::Object(fields) => Value::from_pairs(fields.into_iter().map(|(name, value)| (name, of_json(value)))),
    }
}

/// The user whose page it is, as Django's `request.user`.
fn me(user: &Profile) -> Json {
    let mut me = profile(user);
    if let Json::Object(fields) = &mut me {
        fields.insert("is_authenticated".to_owned(), Json::Bool(true));
        fields.insert("is_anonymous".to_owned(), Json::Bool(false));
    }
    me
}

fn profile(profile: &Profile) -> Json {
    let Profile { id, handle, display_name } = profile;
    json!({"id": id, "pk": id, "username": handle, "handle": handle, "display_name": display_name, "get_full_name": display_name})
}

fn group(overview: &GroupOverview) -> Json {
    let membership = &overview.membership;
    let name = membership.name.as_ref().map_or(membership.display_name.as_str(), RoomName::as_str);
    json!({
        "id": membership.group,
        "pk": membership.group,
        "name": name,
        "display_name": membership.display_name,
        "kind": membership.kind,
        "role": membership.role,
        "unread": membership.unread,
        "last_message": overview.last_message.as_ref().map(|last| json!({
            "id": last.id, "sender": last.sender, "body": last.body, "message": last.body, "sent_at": last.sent_at,
        })),
        "other": overview.other.as_ref().map(profile),
    })
}

fn notification(entry: &InboxEntry) -> Json {
    json!({
        "id": entry.id,
        "pk": entry.id,
        "message": entry.body,
        "body": entry.body,
        "sender": entry.sender.as_ref().map(profile),
        "group": entry.group,
        "data": entry.data,
        "seen": entry.seen,
        "read": entry.read,
        "sent_at": entry.sent_at,
    })
}

/// A page with something of everything, to try templates with.
pub(super) fn sample_chat() -> Value {
    let last = json!({"id": SAMPLE_ID, "sender": "ann", "body": "text", "message": "text", "sent_at": SAMPLE_TIME});
    sample_with(&last, &sample_user(), &sample_user())
}

/// A page without what is not always there, to try templates with.
pub(super) fn sparse_chat() -> Value {
    sample_with(&Json::Null, &Json::Null, &Json::Null)
}

const SAMPLE_ID: &str = "00000000-0000-8000-8000-000000000000";
const SAMPLE_TIME: &str = "2026-01-01T00:00:00.000Z";

fn sample_user() -> Json {
    json!({"id": "ann", "pk": "ann", "username": "ann", "handle": "ann", "display_name": "Ann", "get_full_name": "Ann",
        "is_authenticated": true, "is_anonymous": false})
}

/// A page with a group and a notification.
fn sample_with(last_message: &Json, other: &Json, sender: &Json) -> Value {
    let (id, user) = (SAMPLE_ID, sample_user());
    let group = json!({"id": id, "pk": id, "name": "lobby", "display_name": "lobby", "kind": "open", "role": "member", "unread": 1,
        "last_message": last_message, "other": other});
    let notification = json!({"id": id, "pk": id, "message": "text", "body": "text", "sender": sender, "group": null, "data": null,
        "seen": false, "read": false, "sent_at": SAMPLE_TIME});
    let values = json!({
        "room_name": "lobby", "room": "lobby", "room_group": id, "user": user, "request": {"user": user, "path": "/chat/lobby/"},
        "groups": [group], "users": [user], "other_users": [user], "notifications": [notification], "unseen_count": 1,
        "csrf_token": "token", "dev_login": true,
    });
    with_csrf(values, "token")
}

/// A page of somebody who is new, to try templates with.
pub(super) fn empty_chat() -> Value {
    let user = sample_user();
    let values = json!({
        "room_name": "lobby", "room": "lobby", "room_group": "", "user": user, "request": {"user": user, "path": "/chat/lobby/"},
        "groups": [], "users": [], "other_users": [], "notifications": [], "unseen_count": 0,
        "csrf_token": "token", "dev_login": false,
    });
    with_csrf(values, "token")
}

/// A sign-in page, to try templates with.
pub(super) fn sample_sign_in() -> Value {
    SignIn { next: "/chat/lobby/", csrf: "token", dev_login: true }.values()
}
