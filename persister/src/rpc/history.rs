//! What happened: pages of messages, events for recovery, and what became of an old nonce.

use natter_shared::{
    event::{Audience, Data, Event, Message, Notification},
    id::{EventId, GroupId, MessageId, Nonce, NotificationId, UserId},
    position::Position,
    rpc::{Accepted, Answer, EventsAfter, EventsPage, FindAccepted, HistoryPage, MessageHistory, RecoveredEvent, RpcError},
    subject::Topic,
    timestamp::Timestamp,
};
use sea_orm::{QueryResult, Value};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    context::{Context, Snapshot, column},
    groups, memberships,
};
use crate::{
    checkpoint,
    error::{not_found, unavailable},
};

/// Events in a page at most.
const MAX_EVENTS: u32 = 500;

/// An answer is cut when its texts pass this many bytes.
pub(super) const MAX_BYTES: usize = 512 * 1024;

const MESSAGES: &str = "SELECT id, group_id, epoch, seq, sender, nonce, body, reply_to, data, sent_at AS stored_at FROM messages";

const NOTIFICATIONS: &str = "SELECT recipient, id, epoch, seq, sender, nonce, body, data, sent_at AS stored_at FROM notifications";

pub(super) async fn messages(context: &Context, call: MessageHistory) -> Result<Answer<HistoryPage>, RpcError> {
    let snapshot = context.snapshot().await?;
    groups::check_access(&snapshot, call.user.as_ref(), call.group).await?;
    let limit = call.limit.min(MAX_EVENTS) as usize;
    let mut sql = format!("{MESSAGES} WHERE group_id = ?");
    let mut values: Vec<Value> = vec![call.group.0.into()];
    for (position, compare) in [(call.after, ">"), (call.before, "<")] {
        if let Some(position) = position {
            let (epoch, seq) = checkpoint::sql(position);
            sql = format!("{sql} AND (epoch, seq) {compare} (?, ?)");
            values.extend([epoch.into(), seq.into()]);
        }
    }
    let order = if call.after.is_some() { "ASC" } else { "DESC" };
    sql = format!("{sql} ORDER BY epoch {order}, seq {order} LIMIT ?");
    values.push((limit as i64 + 1).into());
    let found = snapshot.all(&sql, values).await?.iter().map(message).collect::<Result<Vec<_>, _>>()?;
    let (mut messages, more) = cut(found, limit);
    if call.after.is_none() {
        messages.reverse();
    }
    snapshot.answer(HistoryPage { messages, more }).await
}

pub(super) async fn events_after(context: &Context, call: EventsAfter) -> Result<Answer<EventsPage>, RpcError> {
    let snapshot = context.snapshot().await?;
    let limit = call.limit.min(MAX_EVENTS) as usize;
    let topic = match (call.group, &call.user) {
        (Some(group), Some(user)) if memberships::find(&snapshot, user, group).await?.is_none() => return Err(not_found()),
        (Some(group), _) => Topic::Group(group),
        (None, Some(user)) => Topic::User(user.key()),
        (None, None) => return Err(not_found()),
    };
    let mut after = call.after;
    let (events, more) = loop {
        let mut rows = rows_after(&snapshot, &call, after, limit).await?;
        // What cannot be read takes its place too: beyond it others may follow that were not fetched.
        let beyond = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().map(|(position, _)| *position);
        let (events, is_cut) = cut(rows.into_iter().filter_map(|(_, event)| event).collect(), limit);
        match last {
            // Who asks goes on from the last event: there has to be one.
            Some(last) if events.is_empty() && beyond => after = last,
            Some(_) | None => break (events, beyond || is_cut),
        }
    };
    let complete = is_complete(context, &snapshot, topic, call.after).await? && call.after >= floor(&snapshot, &call).await?;
    snapshot.answer(EventsPage { events, more, complete }).await
}

/// The rows of what is asked for that follow `after`, more than `limit` if there are more; without an event what this release
/// cannot read.
async fn rows_after(
    snapshot: &Snapshot<'_>,
    call: &EventsAfter,
    after: Position,
    limit: usize,
) -> Result<Vec<(Position, Option<RecoveredEvent>)>, RpcError> {
    let (epoch, seq) = checkpoint::sql(after);
    let page = "AND (epoch, seq) > (?, ?) ORDER BY epoch, seq LIMIT ?";
    let values = |whose: Value| [whose, epoch.into(), seq.into(), (limit as i64 + 1).into()];
    let readable = |event: RecoveredEvent| (event.position, Some(event));
    let mut found = Vec::new();
    let Some(group) = call.group else {
        let sql = format!("{NOTIFICATIONS} WHERE recipient = ? AND group_id IS NULL {page}");
        for row in snapshot.all(&sql, values(call.user.as_ref().map_or("", UserId::as_str).into())).await? {
            found.push(readable(notification(&row)?));
        }
        return Ok(found);
    };
    // Messages are events too, kept in their own table: both streams of rows, merged.
    let sql = format!("{MESSAGES} WHERE group_id = ? {page}");
    for row in snapshot.all(&sql, values(group.0.into())).await? {
        found.push(readable(message(&row)?));
    }
    let sql = format!("SELECT epoch, seq, event_id, payload, stored_at FROM group_events WHERE group_id = ? {page}");
    for row in snapshot.all(&sql, values(group.0.into())).await? {
        found.push((position(&row)?, group_event(&row)?));
    }
    found.sort_by_key(|(position, _)| *position);
    Ok(found)
}

/// Whether SQL has everything of `topic`'s shard after `after`.
async fn is_complete(context: &Context, snapshot: &Snapshot<'_>, topic: Topic, after: Position) -> Result<bool, RpcError> {
    let sql = "SELECT a.floor_epoch, a.floor_seq, e.epoch, e.last_seq FROM applied a \
               LEFT JOIN epochs e ON e.shard = a.shard AND e.epoch = ? WHERE a.shard = ?";
    let shard = i64::from(context.broker.shards().of(topic).0);
    let Some(row) = snapshot.one(sql, [checkpoint::sql(after).0.into(), shard.into()]).await? else { return Ok(false) };
    let floor = checkpoint::position(column(&row, "floor_epoch")?, column(&row, "floor_seq")?);
    let known: Option<i64> = column(&row, "epoch")?;
    let last: Option<i64> = column(&row, "last_seq")?;
    // Beyond the end of an epoch: events that a client has seen and that were lost since.
    let within = last.is_none_or(|last| checkpoint::sql(after).1 <= last);
    Ok(after >= floor && (known.is_some() || after == Position::START) && within)
}

/// Up to where retention has deleted some of the events that are asked for.
async fn floor(snapshot: &Snapshot<'_>, call: &EventsAfter) -> Result<Position, RpcError> {
    let row = match call.group {
        Some(group) => {
            let sql = "SELECT floor_epoch AS epoch, floor_seq AS seq FROM group_counters WHERE group_id = ?";
            snapshot.one(sql, [group.0.into()]).await?
        }
        None => {
            let sql = "SELECT inbox_floor_epoch AS epoch, inbox_floor_seq AS seq FROM users WHERE id = ?";
            snapshot.one(sql, [call.user.as_ref().map_or("", UserId::as_str).into()]).await?
        }
    };
    row.map_or(Ok(Position::START), |row| Ok(checkpoint::position(column(&row, "epoch")?, column(&row, "seq")?)))
}

pub(super) async fn find_accepted(context: &Context, call: FindAccepted) -> Result<Answer<Option<Accepted>>, RpcError> {
    let snapshot = context.snapshot().await?;
    let id = || [call.id.0.into()];
    let accepted = |event: RecoveredEvent| Accepted { position: event.position, event: event.event };
    if let Some(row) = snapshot.one(&format!("{MESSAGES} WHERE id = ?"), id()).await? {
        let found = accepted(message(&row)?);
        return snapshot.answer(Some(found)).await;
    }
    if let Some(row) = snapshot.one(&format!("{NOTIFICATIONS} WHERE id = ? AND group_id IS NULL"), id()).await? {
        let found = accepted(notification(&row)?);
        return snapshot.answer(Some(found)).await;
    }
    let sql = "SELECT epoch, seq, event_id, payload, stored_at FROM group_events WHERE event_id = ? AND kind = 'notification'";
    let found = match snapshot.one(sql, id()).await? {
        Some(row) => group_event(&row)?.map(accepted),
        None => None,
    };
    snapshot.answer(found).await
}

/// The first `limit` of `found` that fit an answer, and whether any were left out.
fn cut(found: Vec<RecoveredEvent>, limit: usize) -> (Vec<RecoveredEvent>, bool) {
    let (all, mut bytes, mut kept) = (found.len(), 0, Vec::new());
    for event in found.into_iter().take(limit) {
        bytes += size(&event.event);
        // One always fits, or a reader would never get past it.
        if bytes > MAX_BYTES && !kept.is_empty() {
            break;
        }
        kept.push(event);
    }
    let more = kept.len() < all;
    (kept, more)
}

/// The bytes of a text in JSON: a control character takes six, or two, as a quote does.
pub(super) fn written(text: &str) -> usize {
    let extra = |byte: u8| match byte {
        0..0x20 => 5,
        b'"' | b'\\' => 1,
        _ => 0,
    };
    text.bytes().map(|byte| 1 + extra(byte)).sum()
}

/// Roughly the bytes of an event in an answer, and no fewer.
fn size(event: &Event) -> usize {
    let data = |data: &Option<Data>| data.as_ref().map_or(0, |data| data.get().len());
    400 + match event {
        Event::Message(message) => written(&message.body) + data(&message.data),
        Event::Notification(notification) => written(&notification.body) + data(&notification.data),
        Event::GroupCreated(created) => created.members.len() * 160,
        Event::GroupRenamed(renamed) => written(&renamed.display_name),
        Event::MemberAdded(_)
        | Event::MemberRemoved(_)
        | Event::GroupJoined(_)
        | Event::GroupLeft(_)
        | Event::Read(_)
        | Event::Seen(_)
        | Event::Canary => 0,
    }
}

fn message(row: &QueryResult) -> Result<RecoveredEvent, RpcError> {
    let id: Uuid = column(row, "id")?;
    let message = Message {
        id: MessageId(id),
        group: GroupId(column(row, "group_id")?),
        sender: user(&column::<String>(row, "sender")?)?,
        nonce: nonce(row)?,
        body: column(row, "body")?,
        reply_to: column::<Option<Uuid>>(row, "reply_to")?.map(MessageId),
        data: data(row)?,
        origin: None,
    };
    recovered(row, EventId(id), Event::Message(message))
}

fn notification(row: &QueryResult) -> Result<RecoveredEvent, RpcError> {
    let id: Uuid = column(row, "id")?;
    let sender: Option<String> = column(row, "sender")?;
    let notification = Notification {
        id: NotificationId(id),
        to: Audience::User(user(&column::<String>(row, "recipient")?)?),
        sender: sender.as_deref().map(user).transpose()?,
        nonce: nonce(row)?,
        body: column::<Option<String>>(row, "body")?.unwrap_or_default(),
        data: data(row)?,
    };
    recovered(row, EventId(id), Event::Notification(notification))
}

/// `None` for what this release cannot read.
fn group_event(row: &QueryResult) -> Result<Option<RecoveredEvent>, RpcError> {
    let payload: String = column(row, "payload")?;
    match Event::decode(payload.as_bytes()) {
        Ok(event) => recovered(row, EventId(column(row, "event_id")?), event).map(Some),
        Err(_) => Ok(None),
    }
}

fn recovered(row: &QueryResult, id: EventId, event: Event) -> Result<RecoveredEvent, RpcError> {
    Ok(RecoveredEvent { position: position(row)?, id, stored_at: Timestamp(column::<i64>(row, "stored_at")? as u64), event })
}

fn position(row: &QueryResult) -> Result<Position, RpcError> {
    Ok(checkpoint::position(column(row, "epoch")?, column(row, "seq")?))
}

fn user(text: &str) -> Result<UserId, RpcError> {
    UserId::new(text).map_err(|error| unreadable(&error))
}

fn nonce(row: &QueryResult) -> Result<Nonce, RpcError> {
    Nonce::new(column(row, "nonce")?).map_err(|error| unreadable(&error))
}

/// The column `data` of a row.
pub(super) fn data(row: &QueryResult) -> Result<Option<Data>, RpcError> {
    let text: Option<String> = column(row, "data")?;
    text.map(|text| RawValue::from_string(text).map(Data::from).map_err(|error| unreadable(&error))).transpose()
}

/// A row that no event of ours can have become.
fn unreadable(error: &dyn std::error::Error) -> RpcError {
    unavailable(&sea_orm::DbErr::Type(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_by_what_json_makes_of_it() {
        // What a frame may bring at most, all of it characters that JSON writes in six bytes.
        let body = "\u{1}".repeat(10_000);
        let (sender, nonce) = (UserId::new("ann").unwrap(), Nonce::now());
        let message = |seq| {
            let id = MessageId::derive(&sender, nonce);
            let (group, body) = (GroupId(Uuid::nil()), body.clone());
            let message = Message { id, group, sender: sender.clone(), nonce, body, reply_to: None, data: None, origin: None };
            let position = Position::new(natter_shared::position::Epoch(1), seq);
            RecoveredEvent { id: id.into(), position, stored_at: Timestamp(1), event: Event::Message(message) }
        };
        let (events, more) = cut((1..=500).map(message).collect(), 500);
        assert!(more && !events.is_empty());
        let answer = serde_json::to_vec(&EventsPage { events, more, complete: true }).unwrap();
        assert!(answer.len() <= MAX_BYTES, "{} bytes", answer.len());
        for text in ["plain", "a \"quote\" and a \\", "\u{0}\u{1f}\n\t\r", "\u{7f}漢字 😀"] {
            let json = serde_json::to_string(text).unwrap().len() - 2;
            let counted = written(text);
            assert!(
                counted >= json && counted <= json + 4 * text.bytes().filter(|byte| *byte < 0x20).count(),
                "{text:?}: {counted} for {json}"
            );
        }
    }
}
