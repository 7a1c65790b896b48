//! Inboxes: counts, pages of notifications, and the chat-room page.

use std::collections::HashMap;

use natter_shared::{
    event::{Event, InboxCounts},
    frame::ErrorCode,
    id::{GroupId, NotificationId, UserId},
    rpc::{
        Answer, ChatPage, ChatPageData, CountInbox, InboxCursor, InboxEntry, ListNotifications, NotificationsPage, Profile, RpcError,
        TellInboxes,
    },
    timestamp::Timestamp,
};
use sea_orm::{QueryResult, Value};

use super::{
    context::{Context, Snapshot, column},
    groups,
    history::{self, MAX_BYTES},
    memberships, users,
};
use crate::{
    checkpoint,
    database::rows::{Kind, Rows},
    error::not_found,
    inbox::{Change, counting, version},
};

/// Rows of a page at most.
const MAX_ROWS: u32 = 200;

/// The counts of `user`'s inbox.
pub(super) async fn counts(context: &Context, snapshot: &Snapshot<'_>, user: &UserId) -> Result<InboxCounts, RpcError> {
    let counts = counts_of(context, snapshot, &[user]).await?;
    Ok(counts.into_values().next().unwrap_or_else(|| none_counted(snapshot)))
}

/// What an empty inbox counts.
pub(super) fn none_counted(snapshot: &Snapshot<'_>) -> InboxCounts {
    InboxCounts { version: version(snapshot.applied()), ..InboxCounts::default() }
}

/// The counts of `users` whose inbox is not empty.
pub(super) async fn counts_of(
    context: &Context,
    snapshot: &Snapshot<'_>,
    users: &[&UserId],
) -> Result<HashMap<String, InboxCounts>, RpcError> {
    let mut rows = Rows::new([("u", Kind::Text)]);
    for user in users {
        rows.push([user.as_str().into()]);
    }
    let counts = snapshot.rows(rows, &counting(context.options.inbox_counted)).await?;
    counts.iter().map(|row| Ok((column(row, "u")?, counted(snapshot, row)?))).collect()
}

fn counted(snapshot: &Snapshot<'_>, row: &QueryResult) -> Result<InboxCounts, RpcError> {
    let (unseen, unread): (i64, i64) = (column(row, "unseen")?, column(row, "unread")?);
    Ok(InboxCounts { unseen: unseen as u64, unread: unread as u64, version: version(snapshot.applied()) })
}

pub(super) async fn chat_page(context: &Context, call: ChatPage) -> Result<Answer<ChatPageData>, RpcError> {
    let snapshot = context.snapshot().await?;
    let own = snapshot.one("SELECT id, handle, display_name FROM users WHERE id = ?", [call.user.as_str().into()]).await?;
    let profile = users::profile(&own.ok_or_else(not_found)?)?;
    let (groups, more_groups) = memberships::page(&snapshot, &call.user, None, call.groups).await?;
    let groups = groups::overviews(&snapshot, &call.user, groups).await?;
    let sql = "SELECT id, handle, display_name FROM users WHERE id <> ? AND erased_at IS NULL ORDER BY id LIMIT ?";
    let rows = snapshot.all(sql, [call.user.as_str().into(), i64::from(call.users.min(MAX_ROWS)).into()]).await?;
    let users = rows.iter().map(users::profile).collect::<Result<Vec<_>, _>>()?;
    // Users and groups are in the same answer.
    let newest = Page { before: None, archived: false, unseen: false, limit: call.notifications, bytes: MAX_BYTES / 2 };
    let Found { entries: notifications, .. } = notifications(context, &snapshot, &call.user, newest).await?;
    let inbox = counts(context, &snapshot, &call.user).await?;
    snapshot.answer(ChatPageData { profile, groups, more_groups, users, notifications, inbox }).await
}

pub(super) async fn list(context: &Context, call: ListNotifications) -> Result<Answer<NotificationsPage>, RpcError> {
    let snapshot = context.snapshot().await?;
    let page = Page { before: call.before, archived: call.archived, unseen: call.unseen, limit: call.limit, bytes: MAX_BYTES };
    let Found { entries: notifications, next } = notifications(context, &snapshot, &call.user, page).await?;
    let inbox = counts(context, &snapshot, &call.user).await?;
    snapshot.answer(NotificationsPage { notifications, more: next.is_some(), next, inbox }).await
}

pub(super) async fn count(context: &Context, call: CountInbox) -> Result<Answer<InboxCounts>, RpcError> {
    let snapshot = context.snapshot().await?;
    let inbox = counts(context, &snapshot, &call.user).await?;
    snapshot.answer(inbox).await
}

pub(super) async fn tell(context: &Context, call: TellInboxes) -> Result<Answer<()>, RpcError> {
    if call.users.len() > TellInboxes::MOST {
        return Err(RpcError::new(ErrorCode::BadRequest, format!("{} users at most", TellInboxes::MOST)));
    }
    for user in call.users {
        let waits = context.changes.try_send(Change::Of(user));
        waits.map_err(|_| RpcError::new(ErrorCode::Busy, "too many inboxes wait to be counted; try again later"))?;
    }
    Ok(Answer { applied: Vec::new(), reply: () })
}

/// Which notifications of an inbox.
struct Page {
    before: Option<InboxCursor>,
    archived: bool,
    unseen: bool,
    limit: u32,
    /// It is cut when it passes so many.
    bytes: usize,
}

/// A page of an inbox.
struct Found {
    entries: Vec<InboxEntry>,
    /// Where the next page begins.
    next: Option<InboxCursor>,
}

/// A page of `user`'s notifications, newest first. What is not asked for is read over one by one, so a page is looked for in so many only.
async fn notifications(context: &Context, snapshot: &Snapshot<'_>, user: &UserId, page: Page) -> Result<Found, RpcError> {
    let end = end_of_look(context, snapshot, user, page.before).await?;
    let mut sql = "SELECT n.id AS notification, n.group_id, n.epoch, n.seq, n.body, n.data, n.sent_at, n.sender, e.payload, \
                   coalesce(s.seen, FALSE) AS seen, coalesce(s.is_read, FALSE) AS is_read, coalesce(s.archived, FALSE) AS archived, \
                   u.handle, u.display_name FROM notifications n \
                   LEFT JOIN inbox_state s ON s.recipient = n.recipient AND s.notification = n.id \
                   LEFT JOIN group_events e ON e.group_id = n.group_id AND e.epoch = n.epoch AND e.seq = n.seq \
                   LEFT JOIN users u ON u.id = n.sender \
                   WHERE n.recipient = ?"
        .to_owned();
    let mut values: Vec<Value> = vec![user.as_str().into()];
    sql.push_str(if page.archived { " AND s.archived IS TRUE" } else { " AND s.archived IS NOT TRUE" });
    if page.unseen {
        sql.push_str(" AND s.seen IS NOT TRUE");
    }
    for (bound, compared) in [(page.before, "<"), (end, ">=")] {
        if let Some(bound) = bound {
            sql = format!("{sql} AND (n.sent_at, n.id) {compared} (?, ?)");
            values.extend(key(bound));
        }
    }
    sql.push_str(" ORDER BY n.sent_at DESC, n.id DESC LIMIT ?");
    let limit = page.limit.min(MAX_ROWS) as usize;
    values.push((limit as i64 + 1).into());
    let rows = snapshot.all(&sql, values).await?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for row in rows.iter().take(limit) {
        let entry = entry(row)?;
        bytes += 400 + history::written(&entry.body) + entry.data.as_ref().map_or(0, |data| data.get().len());
        // One always fits, or a reader would never get past it.
        if bytes > page.bytes && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    let next = if entries.len() < rows.len() { entries.last().map(InboxCursor::from) } else { end };
    Ok(Found { entries, next })
}

/// The last one that a page is looked for in, where more come after it.
async fn end_of_look(
    context: &Context,
    snapshot: &Snapshot<'_>,
    user: &UserId,
    before: Option<InboxCursor>,
) -> Result<Option<InboxCursor>, RpcError> {
    let mut sql = "SELECT n.sent_at, n.id FROM notifications n WHERE n.recipient = ?".to_owned();
    let mut values: Vec<Value> = vec![user.as_str().into()];
    if let Some(before) = before {
        sql.push_str(" AND (n.sent_at, n.id) < (?, ?)");
        values.extend(key(before));
    }
    sql.push_str(" ORDER BY n.sent_at DESC, n.id DESC LIMIT 2 OFFSET ?");
    values.push(i64::from(context.options.inbox_looked_through.saturating_sub(1)).into());
    match snapshot.all(&sql, values).await?.as_slice() {
        [last, _] => {
            Ok(Some(InboxCursor { sent_at: Timestamp(column::<i64>(last, "sent_at")? as u64), id: NotificationId(column(last, "id")?) }))
        }
        _ => Ok(None),
    }
}

/// A cursor as its columns.
fn key(cursor: InboxCursor) -> [Value; 2] {
    [(cursor.sent_at.0 as i64).into(), cursor.id.0.into()]
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
    // What went to a group has its text and data with the group's event, once for all recipients.
    let (body, payload): (Option<String>, Option<String>) = (column(row, "body")?, column(row, "payload")?);
    let (body, data) = match (body, payload.map(|payload| Event::decode(payload.as_bytes()))) {
        (Some(body), _) => (body, history::data(row)?),
        (None, Some(Ok(Event::Notification(notification)))) => (notification.body, notification.data),
        (None, Some(_) | None) => (String::new(), None),
    };
    Ok(InboxEntry {
        id: NotificationId(column(row, "notification")?),
        sender,
        group: column::<Option<uuid::Uuid>>(row, "group_id")?.map(GroupId),
        body,
        position: Some(checkpoint::position(column(row, "epoch")?, column(row, "seq")?)),
        sent_at: Timestamp(column::<i64>(row, "sent_at")? as u64),
        seen: column(row, "seen")?,
        read: column(row, "is_read")?,
        archived: column(row, "archived")?,
        data,
    })
}
