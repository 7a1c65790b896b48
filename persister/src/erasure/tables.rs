//! What of a user is emptied in each table, a chunk at a time.

use natter_shared::{
    event::{Event, GroupKind},
    id::UserId,
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, QueryResult, Value};
use uuid::Uuid;

use super::{CHUNK, Eraser};
use crate::{database::Store, error::Error, retention};

/// What the walk through a table did to a chunk of it.
pub(super) struct Done {
    /// Where it ended; none at the end of the table.
    pub(super) end: Option<Vec<Value>>,
    pub(super) messages: u64,
    pub(super) notifications: u64,
}

impl Eraser {
    pub(super) async fn delete_received(&self, user: &UserId) -> Result<(), Error> {
        while self.received(user).await? > 0 {}
        let marks = format!(
            "DELETE FROM inbox_state WHERE recipient = ? AND notification IN \
             (SELECT notification FROM inbox_state WHERE recipient = ? LIMIT {CHUNK})"
        );
        while self.store.execute(&marks, [user.as_str().into(), user.as_str().into()]).await? > 0 {}
        for table in ["read_positions WHERE user_id", "marked_upto WHERE recipient"] {
            self.store.execute(&format!("DELETE FROM {table} = ?"), [user.as_str().into()]).await?;
        }
        Ok(())
    }

    /// Deletes a chunk of what is in the inbox, and says so by its floor: it stays deleted when the user has signed in again. Returns how
    /// many there were.
    async fn received(&self, user: &UserId) -> Result<usize, Error> {
        let sql = format!(
            "DELETE FROM notifications WHERE recipient = ? AND id IN (SELECT id FROM notifications WHERE recipient = ? LIMIT {CHUNK}) \
             RETURNING epoch, seq, group_id"
        );
        let write = self.store.write().await?;
        // First the user's row, as retention does: one of the two waits for the other, and not each for both.
        let lock = "UPDATE users SET inbox_floor_seq = inbox_floor_seq WHERE id = ?";
        self.execute(&write, lock, [user.as_str().into()]).await?;
        let rows = self.rows(&write.transaction, &sql, [user.as_str().into(), user.as_str().into()]).await?;
        retention::raise_inbox_floor(&self.store, &write, user, &rows).await?;
        let sql = "UPDATE erasures SET notifications = notifications + ? WHERE user_id = ?";
        self.execute(&write, sql, [(rows.len() as i64).into(), user.as_str().into()]).await?;
        write.commit().await?;
        Ok(rows.len())
    }

    pub(super) async fn messages(&self, database: &DatabaseTransaction, user: &UserId, after: &[String]) -> Result<Done, Error> {
        let after = after.first().and_then(|id| id.parse::<Uuid>().ok()).unwrap_or_default();
        let sql = format!("SELECT id FROM messages WHERE id > ? ORDER BY id LIMIT 1 OFFSET {CHUNK}");
        let end = self.rows(database, &sql, [after.into()]).await?.first().map(|row| row.try_get::<Uuid>("", "id")).transpose()?;
        let sql = "UPDATE messages SET body = '', data = NULL WHERE id > ? AND id <= ? AND sender = ? AND (body <> '' OR data IS NOT NULL)";
        let values = [after.into(), end.unwrap_or(Uuid::max()).into(), user.as_str().into()];
        let emptied = database.execute_raw(self.store.statement(sql, values)).await?.rows_affected();
        Ok(Done { end: end.map(|end| vec![end.into()]), messages: emptied, notifications: 0 })
    }

    pub(super) async fn notifications(&self, database: &DatabaseTransaction, user: &UserId, after: &[String]) -> Result<Done, Error> {
        let recipient = after.first().cloned().unwrap_or_default();
        let id = after.get(1).and_then(|id| id.parse::<Uuid>().ok()).unwrap_or_default();
        let sql =
            format!("SELECT recipient, id FROM notifications WHERE (recipient, id) > (?, ?) ORDER BY recipient, id LIMIT 1 OFFSET {CHUNK}");
        let end = match self.rows(database, &sql, [recipient.clone().into(), id.into()]).await?.first() {
            Some(row) => Some((row.try_get::<String>("", "recipient")?, row.try_get::<Uuid>("", "id")?)),
            None => None,
        };
        let mut sql = "UPDATE notifications SET body = '', data = NULL WHERE (recipient, id) > (?, ?) AND sender = ? \
                       AND group_id IS NULL AND (body <> '' OR data IS NOT NULL)"
            .to_owned();
        let mut values: Vec<Value> = vec![recipient.into(), id.into(), user.as_str().into()];
        if let Some((recipient, id)) = &end {
            sql.push_str(" AND (recipient, id) <= (?, ?)");
            values.extend([recipient.clone().into(), (*id).into()]);
        }
        let emptied = database.execute_raw(self.store.statement(&sql, values)).await?.rows_affected();
        Ok(Done { end: end.map(|(recipient, id)| vec![recipient.into(), id.into()]), messages: 0, notifications: emptied })
    }

    /// Notifications to groups have their text with the group's event; the name of a one-to-one
    /// group is made of handles.
    pub(super) async fn group_events(&self, database: &DatabaseTransaction, user: &UserId, after: &[String]) -> Result<Done, Error> {
        let group = after.first().and_then(|id| id.parse::<Uuid>().ok()).unwrap_or_default();
        let number = |index: usize| after.get(index).and_then(|n| n.parse::<i64>().ok()).unwrap_or_default();
        let from: [Value; 3] = [group.into(), number(1).into(), number(2).into()];
        let sql = format!(
            "SELECT group_id, epoch, seq FROM group_events WHERE (group_id, epoch, seq) > (?, ?, ?) \
             ORDER BY group_id, epoch, seq LIMIT 1 OFFSET {CHUNK}"
        );
        let end: Option<[Value; 3]> = match self.rows(database, &sql, from.clone()).await?.first() {
            Some(row) => Some(key(row)?),
            None => None,
        };
        let (names, quoted) = naming(self.store.backend(), user);
        let mut sql =
            format!("SELECT group_id, epoch, seq, payload FROM group_events WHERE (group_id, epoch, seq) > (?, ?, ?) AND {names}");
        let mut values: Vec<Value> = from.into_iter().chain([quoted.into()]).collect();
        if let Some(end) = end.clone() {
            sql.push_str(" AND (group_id, epoch, seq) <= (?, ?, ?)");
            values.extend(end);
        }
        let mut emptied = 0;
        for row in self.rows(database, &sql, values).await? {
            let [group, epoch, seq] = key(&row)?;
            let payload: String = row.try_get("", "payload")?;
            let event = match Event::decode(payload.as_bytes()) {
                Ok(Event::Notification(mut notification)) if notification.sender.as_ref() == Some(user) => {
                    notification.body = String::new();
                    notification.data = None;
                    emptied += 1;
                    Event::Notification(notification)
                }
                Ok(Event::GroupCreated(mut created)) if created.kind == GroupKind::Single => {
                    "erased".clone_into(&mut created.display_name);
                    let rename = self.store.statement("UPDATE groups SET display_name = 'erased' WHERE id = ?", [group.clone()]);
                    database.execute_raw(rename).await?;
                    Event::GroupCreated(created)
                }
                Ok(_) | Err(_) => continue,
            };
            let Ok(payload) = event.encode() else { continue };
            let payload = String::from_utf8_lossy(&payload).into_owned();
            let sql = "UPDATE group_events SET payload = ? WHERE group_id = ? AND epoch = ? AND seq = ?";
            database.execute_raw(self.store.statement(sql, [payload.into(), group, epoch, seq])).await?;
        }
        Ok(Done { end: end.map(Vec::from), messages: 0, notifications: emptied })
    }

    /// Dead letters that name the user lose their payload.
    pub(super) async fn dead_letters(&self, database: &DatabaseTransaction, user: &UserId) -> Result<(), Error> {
        let mut letters = DeadLetters::naming(&self.store, user);
        while let Some(rows) = letters.next(database).await? {
            for row in &rows {
                let sql = "UPDATE dead_letters SET payload = ?, reason = 'erased' WHERE shard = ? AND epoch = ? AND seq = ?";
                let values = std::iter::once(Vec::<u8>::new().into()).chain(letter_key(row)?);
                database.execute_raw(self.store.statement(sql, values)).await?;
            }
        }
        Ok(())
    }
}

/// The dead letters whose payload names a user, page by page; there are few of them all.
pub(crate) struct DeadLetters<'a> {
    store: &'a Store,
    quoted: String,
    after: [Value; 3],
}

impl<'a> DeadLetters<'a> {
    pub(crate) fn naming(store: &'a Store, user: &UserId) -> Self {
        Self { store, quoted: naming(store.backend(), user).1, after: [(-1_i64).into(), 0_i64.into(), 0_i64.into()] }
    }

    /// The rows of the next page, which may be none; nothing at the end.
    pub(crate) async fn next(&mut self, database: &impl ConnectionTrait) -> Result<Option<Vec<QueryResult>>, DbErr> {
        let sql = "SELECT * FROM dead_letters WHERE (shard, epoch, seq) > (?, ?, ?) ORDER BY shard, epoch, seq LIMIT 200";
        let rows = database.query_all_raw(self.store.statement(sql, self.after.clone())).await?;
        let Some(last) = rows.last() else { return Ok(None) };
        self.after = letter_key(last)?;
        let mut naming = Vec::new();
        for row in rows {
            let payload: Vec<u8> = row.try_get("", "payload")?;
            if payload.windows(self.quoted.len()).any(|part| part == self.quoted.as_bytes()) {
                naming.push(row);
            }
        }
        Ok(Some(naming))
    }
}

/// The key of a row of `dead_letters`.
fn letter_key(row: &QueryResult) -> Result<[Value; 3], DbErr> {
    let number = |column| row.try_get::<i64>("", column).map(Value::from);
    Ok([number("shard")?, number("epoch")?, number("seq")?])
}

/// A cheap look before the careful one: the condition that `payload` has `user`'s id as JSON has it, and that.
pub(crate) fn naming(backend: DbBackend, user: &UserId) -> (&'static str, String) {
    let condition = match backend {
        DbBackend::Sqlite => "instr(payload, ?) > 0",
        _ => "strpos(payload, ?) > 0",
    };
    (condition, serde_json::Value::from(user.as_str()).to_string())
}

/// The key of a row of `group_events`.
fn key(row: &QueryResult) -> Result<[Value; 3], DbErr> {
    Ok([row.try_get::<Uuid>("", "group_id")?.into(), row.try_get::<i64>("", "epoch")?.into(), row.try_get::<i64>("", "seq")?.into()])
}
