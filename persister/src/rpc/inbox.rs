//! Inboxes: counts, and the chat-room page with its notifications.

use natter_shared::{
    event::{Event, InboxCounts},
    id::{GroupId, NotificationId, UserId},
    position::Position,
    rpc::{Answer, ChatPage, ChatPageData, GroupOverview, InboxEntry, Profile, RpcError},
    subject::{Shards, Topic},
    timestamp::Timestamp,
};
use sea_orm::QueryResult;

use super::{
    context::{Context, Snapshot, column},
    memberships, users,
};
use crate::error::not_found;

/// Rows of a page at most.
const MAX_ROWS: u32 = 200;

/// The counts of `user`'s inbox.
pub(super) async fn counts(snapshot: &Snapshot<'_>, shards: Shards, user: &UserId) -> Result<InboxCounts, RpcError> {
    let sql = "SELECT count(*) FILTER (WHERE s.seen IS NOT TRUE) AS unseen, count(*) FILTER (WHERE s.is_read IS NOT TRUE) AS unread \
               FROM notifications n LEFT JOIN inbox_state s ON s.recipient = n.recipient AND s.notification = n.id WHERE n.recipient = ?";
    let shard = shards.of(Topic::User(user.key())).0;
    let version = snapshot.applied().iter().find(|at| at.shard == shard).map_or(Position::START, |at| at.position);
    let Some(row) = snapshot.one(sql, [user.as_str().into()]).await? else {
        return Ok(InboxCounts { version, ..InboxCounts::default() });
    };
    let (unseen, unread): (i64, i64) = (column(&row, "unseen")?, column(&row, "unread")?);
    Ok(InboxCounts { unseen: unseen as u64, unread: unread as u64, version })
}

pub(super) async fn chat_page(context: &Context, call: ChatPage) -> Result<Answer<ChatPageData>, RpcError> {
    let snapshot = context.snapshot().await?;
    let own = snapshot.one("SELECT id, handle, display_name FROM users WHERE id = ?", [call.user.as_str().into()]).await?;
    let profile = users::profile(&own.ok_or_else(not_found)?)?;
    let (groups, _) = memberships::page(&snapshot, &call.user, None, call.groups).await?;
    let groups = groups.into_iter().map(|membership| GroupOverview { membership, last_message: None, other: None }).collect();
    let sql = "SELECT id, handle, display_name FROM users WHERE id <> ? ORDER BY id LIMIT ?";
    let rows = snapshot.all(sql, [call.user.as_str().into(), i64::from(call.users.min(MAX_ROWS)).into()]).await?;
    let users = rows.iter().map(users::profile).collect::<Result<Vec<_>, _>>()?;
    let notifications = newest(&snapshot, &call.user, call.notifications.min(MAX_ROWS)).await?;
    let inbox = counts(&snapshot, context.broker.shards(), &call.user).await?;
    snapshot.answer(ChatPageData { profile, groups, users, notifications, inbox }).await
}

/// The newest notifications, seen ones included.
async fn newest(snapshot: &Snapshot<'_>, user: &UserId, limit: u32) -> Result<Vec<InboxEntry>, RpcError> {
    let sql = "SELECT n.id AS notification, n.group_id, n.body, n.sent_at, n.sender, e.payload, coalesce(s.seen, FALSE) AS seen, \
               coalesce(s.is_read, FALSE) AS is_read, u.handle, u.display_name FROM notifications n \
               LEFT JOIN group_events e ON e.group_id = n.group_id AND e.epoch = n.epoch AND e.seq = n.seq \
               LEFT JOIN inbox_state s ON s.recipient = n.recipient AND s.notification = n.id LEFT JOIN users u ON u.id = n.sender \
               WHERE n.recipient = ? ORDER BY n.sent_at DESC, n.id DESC LIMIT ?";
    let rows = snapshot.all(sql, [user.as_str().into(), i64::from(limit).into()]).await?;
    rows.iter().map(entry).collect()
}

fn entry(row: &QueryResult) -> Result<InboxEntry, RpcError> {
    let sender: Option<String> = column(row, "sender")?;
    let sender = match sender.and_then(|sender| UserId::new(&sender).ok()) {
        Some(id) => {
            let handle: Option<String> = column(row, "handle")?;
            let display_name: Option<String> = column(row, "display_name")?;
            let named = |name: Option<String>| name.unwrap_or_else(|| id.to_string());
            Some(Profile { handle: named(handle), display_name: named(display_name), id })
        }
        None => None,
    };
    // What went to a group has its body with the group's event, once for all recipients.
    let (body, payload): (Option<String>, Option<String>) = (column(row, "body")?, column(row, "payload")?);
    let body = match (body, payload.map(|payload| Event::decode(payload.as_bytes()))) {
        (Some(body), _) => body,
        (None, Some(Ok(Event::Notification(notification)))) => notification.body,
        (None, Some(_) | None) => String::new(),
    };
    Ok(InboxEntry {
        id: NotificationId(column(row, "notification")?),
        sender,
        group: column::<Option<uuid::Uuid>>(row, "group_id")?.map(GroupId),
        body,
        sent_at: Timestamp(column::<i64>(row, "sent_at")? as u64),
        seen: column(row, "seen")?,
        read: column(row, "is_read")?,
        archived: false,
        data: None,
    })
}
