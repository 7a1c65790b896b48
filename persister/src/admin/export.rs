//! All that is stored of a user, as JSON lines: profile, memberships, messages sent, notifications
//! received and sent, read marks, marks of the whole inbox, dead letters of the user's. Page by page: nothing is held
//! in memory, and no snapshot is kept open beside a busy persister.

use std::io::Write;

use natter_shared::{
    event::{Audience, Event},
    id::UserId,
    position::Position,
    subject::{self, Topic},
    timestamp::Timestamp,
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value as Bind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::AdminError;
use crate::{
    checkpoint,
    database::Store,
    erasure::{DeadLetters, naming},
};

/// Rows read at once.
const PAGE: i64 = 5000;

/// Writes everything of `user` to `out`.
pub(super) async fn export(store: &Store, user: &UserId, out: &mut impl Write) -> Result<(), AdminError> {
    let id = || Bind::from(user.as_str());
    let profile = all(store, "SELECT * FROM users WHERE id = ?", [id()]).await?;
    let profile = profile.first().ok_or_else(|| AdminError::NoUser(user.to_string()))?;
    let text = |row: &QueryResult, column: &str| row.try_get::<Option<String>>("", column);
    line(
        out,
        &json!({
            "type": "profile", "id": user, "handle": text(profile, "handle")?, "display_name": text(profile, "display_name")?,
            "claimed_handle": text(profile, "claimed_handle")?, "claimed_name": text(profile, "claimed_name")?,
            "created_at": time(profile, "created_at")?,
        }),
    )?;
    let sql = "SELECT m.*, g.kind, g.name, g.display_name FROM members m LEFT JOIN groups g ON g.id = m.group_id WHERE m.user_id = ?";
    for row in all(store, sql, [id()]).await? {
        line(
            out,
            &json!({
                "type": "membership", "group": uuid(&row, "group_id")?, "kind": text(&row, "kind")?, "name": text(&row, "name")?,
                "display_name": text(&row, "display_name")?, "role": text(&row, "role")?,
                "since": position(&row, "since_epoch", "since_seq")?, "until": position(&row, "until_epoch", "until_seq")?,
            }),
        )?;
    }
    for row in all(store, "SELECT * FROM read_positions WHERE user_id = ?", [id()]).await? {
        let read = position(&row, "epoch", "seq")?;
        line(out, &json!({ "type": "read_mark", "group": uuid(&row, "group_id")?, "position": read }))?;
    }
    for row in all(store, "SELECT * FROM marked_upto WHERE recipient = ?", [id()]).await? {
        let upto = position(&row, "epoch", "seq")?;
        line(out, &json!({ "type": "inbox_mark", "mark": text(&row, "mark")?, "position": upto }))?;
    }
    messages(store, user, out).await?;
    received(store, user, out).await?;
    sent(store, user, out).await?;
    sent_to_groups(store, user, out).await?;
    dead_letters(store, user, out).await?;
    out.flush()?;
    Ok(())
}

/// Senders have no index, which every message would pay for: all messages are walked through.
async fn messages(store: &Store, user: &UserId, out: &mut impl Write) -> Result<(), AdminError> {
    let mut after = Uuid::nil();
    loop {
        let end = all(store, "SELECT id FROM messages WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?", [after.into(), PAGE.into()]).await?;
        let end = end.first().map(|row| row.try_get::<Uuid>("", "id")).transpose()?;
        let upto = end.unwrap_or(Uuid::max());
        let sql = "SELECT * FROM messages WHERE id > ? AND id <= ? AND sender = ? ORDER BY id";
        for row in all(store, sql, [after.into(), upto.into(), user.as_str().into()]).await? {
            line(
                out,
                &json!({
                    "type": "message", "id": uuid(&row, "id")?, "group": uuid(&row, "group_id")?, "position": position(&row, "epoch", "seq")?,
                    "body": row.try_get::<String>("", "body")?, "data": data(&row)?, "sent_at": time(&row, "sent_at")?,
                    "reply_to": row.try_get::<Option<Uuid>>("", "reply_to")?,
                }),
            )?;
        }
        match end {
            Some(end) => after = end,
            None => return Ok(()),
        }
    }
}

const NOTIFICATIONS: &str = "SELECT n.*, e.payload, coalesce(s.seen, FALSE) AS seen, coalesce(s.is_read, FALSE) AS is_read, \
    coalesce(s.archived, FALSE) AS archived FROM notifications n \
    LEFT JOIN group_events e ON e.group_id = n.group_id AND e.epoch = n.epoch AND e.seq = n.seq \
    LEFT JOIN inbox_state s ON s.recipient = n.recipient AND s.notification = n.id";

async fn received(store: &Store, user: &UserId, out: &mut impl Write) -> Result<(), AdminError> {
    let mut after = Uuid::nil();
    loop {
        let sql = format!("{NOTIFICATIONS} WHERE n.recipient = ? AND n.id > ? ORDER BY n.id LIMIT ?");
        let rows = all(store, &sql, [user.as_str().into(), after.into(), PAGE.into()]).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.try_get("", "id")?;
        for row in &rows {
            let mut entry = notification(row, "notification_received")?;
            add(&mut entry, "seen", row.try_get::<bool>("", "seen")?);
            add(&mut entry, "read", row.try_get::<bool>("", "is_read")?);
            add(&mut entry, "archived", row.try_get::<bool>("", "archived")?);
            line(out, &entry)?;
        }
    }
}

/// Notifications sent to users.
async fn sent(store: &Store, user: &UserId, out: &mut impl Write) -> Result<(), AdminError> {
    let mut after = (String::new(), Uuid::nil());
    loop {
        let sql = "SELECT recipient, id FROM notifications WHERE (recipient, id) > (?, ?) ORDER BY recipient, id LIMIT 1 OFFSET ?";
        let end = all(store, sql, [after.0.clone().into(), after.1.into(), PAGE.into()]).await?;
        let end: Option<(String, Uuid)> = match end.first() {
            Some(row) => Some((row.try_get("", "recipient")?, row.try_get("", "id")?)),
            None => None,
        };
        let mut sql = format!("{NOTIFICATIONS} WHERE (n.recipient, n.id) > (?, ?) AND n.sender = ? AND n.group_id IS NULL");
        let mut values: Vec<Bind> = vec![after.0.clone().into(), after.1.into(), user.as_str().into()];
        if let Some(end) = &end {
            sql.push_str(" AND (n.recipient, n.id) <= (?, ?)");
            values.extend([end.0.clone().into(), end.1.into()]);
        }
        for row in all(store, &sql, values).await? {
            let mut entry = notification(&row, "notification_sent")?;
            add(&mut entry, "recipient", row.try_get::<String>("", "recipient")?);
            line(out, &entry)?;
        }
        match end {
            Some(end) => after = end,
            None => return Ok(()),
        }
    }
}

/// Notifications sent to groups: each is one event of its group, also where no inbox has it (any more).
async fn sent_to_groups(store: &Store, user: &UserId, out: &mut impl Write) -> Result<(), AdminError> {
    const OF_KIND: &str = "FROM group_events WHERE kind = 'notification' AND (group_id, epoch, seq) > (?, ?, ?)";
    let key = |row: &QueryResult| -> Result<[Bind; 3], DbErr> {
        Ok([uuid(row, "group_id")?.into(), row.try_get::<i64>("", "epoch")?.into(), row.try_get::<i64>("", "seq")?.into()])
    };
    let (names, quoted) = naming(store.backend(), user);
    let mut after: [Bind; 3] = [Uuid::nil().into(), 0_i64.into(), 0_i64.into()];
    loop {
        let sql = format!("SELECT group_id, epoch, seq {OF_KIND} ORDER BY group_id, epoch, seq LIMIT 1 OFFSET ?");
        let end = all(store, &sql, after.clone().into_iter().chain([PAGE.into()])).await?.first().map(key).transpose()?;
        let mut sql = format!("SELECT group_id, epoch, seq, payload, stored_at {OF_KIND} AND {names}");
        let mut values: Vec<Bind> = after.into_iter().chain([quoted.clone().into()]).collect();
        if let Some(end) = end.clone() {
            sql.push_str(" AND (group_id, epoch, seq) <= (?, ?, ?)");
            values.extend(end);
        }
        for row in all(store, &sql, values).await? {
            let payload: String = row.try_get("", "payload")?;
            let Ok(Event::Notification(sent)) = Event::decode(payload.as_bytes()) else { continue };
            if sent.sender.as_ref() == Some(user) {
                line(
                    out,
                    &json!({
                        "type": "notification_sent", "id": sent.id, "sender": user, "group": uuid(&row, "group_id")?,
                        "position": position(&row, "epoch", "seq")?, "body": sent.body,
                        "data": sent.data.as_ref().map_or(Value::Null, |data| readable(data.get())), "sent_at": time(&row, "stored_at")?,
                    }),
                )?;
            }
        }
        match end {
            Some(end) => after = end,
            None => return Ok(()),
        }
    }
}

/// Events that could not be applied, and are the user's. Others' may name the user, in what they attached.
async fn dead_letters(store: &Store, user: &UserId, out: &mut impl Write) -> Result<(), AdminError> {
    let mut letters = DeadLetters::naming(store, user);
    while let Some(rows) = letters.next(store.database()).await? {
        for row in &rows {
            let (topic, payload): (String, Vec<u8>) = (row.try_get("", "topic")?, row.try_get("", "payload")?);
            let mut entry = json!({
                "type": "dead_letter", "topic": topic, "position": position(row, "epoch", "seq")?, "sent_at": time(row, "stored_at")?,
            });
            let is_users_topic = matches!(subject::parse(&topic), Some((_, _, Topic::User(key))) if key == user.key());
            match Event::decode(&payload) {
                Ok(event) if !is_users_topic && !concerns(&event, user) => continue,
                // Whose it is, it does not say; nor does the reason, which may quote it.
                Err(_) if !is_users_topic => {}
                Ok(_) | Err(_) => {
                    add(&mut entry, "reason", row.try_get::<String>("", "reason")?);
                    add(&mut entry, "event", readable(&String::from_utf8_lossy(&payload)));
                }
            }
            line(out, &entry)?;
        }
    }
    Ok(())
}

/// Whether `user` said `event`, was told it, or is the one it is about.
fn concerns(event: &Event, user: &UserId) -> bool {
    match event {
        Event::Message(message) => message.sender == *user,
        Event::Notification(notification) => {
            notification.sender.as_ref() == Some(user) || matches!(&notification.to, Audience::User(to) if to == user)
        }
        Event::GroupCreated(created) => created.members.iter().any(|(member, _)| member == user),
        Event::MemberAdded(added) => added.user == *user || added.by.as_ref() == Some(user),
        Event::MemberRemoved(removed) => removed.user == *user || removed.by.as_ref() == Some(user),
        Event::GroupRenamed(renamed) => renamed.by.as_ref() == Some(user),
        Event::GroupJoined(joined) => joined.user == *user,
        Event::GroupLeft(left) => left.user == *user,
        Event::Read(read) => read.user == *user,
        Event::Seen(seen) => seen.user == *user,
        Event::Canary => false,
    }
}

fn notification(row: &QueryResult, kind: &str) -> Result<Value, AdminError> {
    let (body, payload): (Option<String>, Option<String>) = (row.try_get("", "body")?, row.try_get("", "payload")?);
    let (body, data) = match (body, payload.map(|payload| Event::decode(payload.as_bytes()))) {
        (Some(body), _) => (body, data(row)?),
        (None, Some(Ok(Event::Notification(notification)))) => {
            (notification.body, notification.data.as_ref().map_or(Value::Null, |data| readable(data.get())))
        }
        (None, Some(_) | None) => (String::new(), Value::Null),
    };
    Ok(json!({
        "type": kind, "id": uuid(row, "id")?, "sender": row.try_get::<Option<String>>("", "sender")?,
        "group": row.try_get::<Option<Uuid>>("", "group_id")?, "position": position(row, "epoch", "seq")?, "body": body, "data": data,
        "sent_at": time(row, "sent_at")?,
    }))
}

async fn all(store: &Store, sql: &str, values: impl IntoIterator<Item = Bind>) -> Result<Vec<QueryResult>, DbErr> {
    store.database().query_all_raw(store.statement(sql, values)).await
}

fn add(entry: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(entry) = entry.as_object_mut() {
        entry.insert(field.to_owned(), value.into());
    }
}

fn line(out: &mut impl Write, entry: &Value) -> Result<(), AdminError> {
    serde_json::to_writer(&mut *out, entry)?;
    out.write_all(b"\n")?;
    Ok(())
}

fn uuid(row: &QueryResult, column: &str) -> Result<Uuid, DbErr> {
    row.try_get("", column)
}

fn time(row: &QueryResult, column: &str) -> Result<Timestamp, DbErr> {
    Ok(Timestamp(row.try_get::<i64>("", column)? as u64))
}

fn position(row: &QueryResult, epoch: &str, seq: &str) -> Result<Option<Position>, DbErr> {
    let at: (Option<i64>, Option<i64>) = (row.try_get("", epoch)?, row.try_get("", seq)?);
    Ok(at.0.zip(at.1).map(|(epoch, seq)| checkpoint::position(epoch, seq)))
}

/// What a sender wrote as JSON; as text where it is JSON that cannot be written anew, as half of a surrogate pair is.
fn readable(data: &str) -> Value {
    serde_json::from_str(data).unwrap_or_else(|_| data.into())
}

fn data(row: &QueryResult) -> Result<Value, AdminError> {
    let text: Option<String> = row.try_get("", "data")?;
    Ok(text.map_or(Value::Null, |text| readable(&text)))
}

#[cfg(test)]
mod tests {
    use crate::{connect, migrate, options::DatabaseOptions};

    use super::*;

    #[test]
    fn what_cannot_be_written_anew_is_exported_as_text() {
        assert_eq!(readable(r#"{"a":[1]}"#), json!({"a": [1]}));
        let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for odd in [r#""\ud800""#, "1e400", &nested] {
            assert_eq!(readable(odd), json!(odd));
        }
    }

    #[tokio::test]
    async fn an_unknown_user_is_said_so() {
        let folder = tempfile::tempdir().unwrap();
        let url = natter_shared::config::database_url::of_sqlite_file(&folder.path().join("natter.db"));
        let database = connect(&DatabaseOptions { url, max_connections: 1, ..Default::default() }).await.unwrap();
        migrate(&database).await.unwrap();
        let nobody = UserId::new("nobody").unwrap();
        let error = export(&Store::new(database), &nobody, &mut Vec::new()).await.unwrap_err();
        assert!(matches!(error, AdminError::NoUser(_)), "{error}");
    }
}
