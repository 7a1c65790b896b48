//! What the projection holds, read beside the product.

use std::collections::HashMap;

use anyhow::{Result, bail};
use natter_shared::{
    event::Event,
    id::{GroupId, MessageId, UserId},
    position::{Epoch, Position},
};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, QueryResult, Statement, TransactionTrait};
use uuid::Uuid;

use crate::{
    checker::{Content, Fact, Memberships},
    inboxes::{Counts, Note},
};

/// So many rows with all their text are read at once.
const PAGE: usize = 1000;

/// A connection to the projection.
pub struct Sql(DatabaseConnection);

impl Sql {
    /// Connects to `postgres://…` or `sqlite://…`.
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self(Database::connect(url).await?))
    }

    /// The rows of a statement.
    pub async fn rows(&self, sql: &str) -> Result<Vec<QueryResult>> {
        let statement = Statement::from_string(self.0.get_database_backend(), sql);
        Ok(self.0.query_all_raw(statement).await?)
    }

    /// The first column of the first row, an integer.
    pub async fn count(&self, sql: &str) -> Result<i64> {
        let rows = self.rows(sql).await?;
        Ok(rows.first().map(|row| row.try_get_by_index(0)).transpose()?.unwrap_or_default())
    }

    /// Runs a statement and keeps what it locks, until the value is dropped.
    pub async fn hold(&self, sql: &str) -> Result<DatabaseTransaction> {
        let transaction = self.0.begin().await?;
        transaction.execute_unprepared(sql).await?;
        Ok(transaction)
    }

    /// Whether it is migrated.
    pub async fn has_messages(&self) -> bool {
        self.rows("SELECT id FROM messages LIMIT 1").await.is_ok()
    }

    /// All messages.
    pub async fn messages(&self) -> Result<Vec<Fact>> {
        let sql = "SELECT id, group_id, epoch, seq, sender, body FROM messages WHERE id > $1 ORDER BY id LIMIT $2";
        self.facts(sql, message).await
    }

    /// All group notifications, which are delivered like messages.
    pub async fn group_notifications(&self) -> Result<Vec<Fact>> {
        let sql = "SELECT event_id AS id, group_id, epoch, seq, payload FROM group_events \
                   WHERE kind = 'notification' AND event_id > $1 ORDER BY event_id LIMIT $2";
        self.facts(sql, notification).await
    }

    /// What `read` makes of the rows of `sql`, which selects the next few after an id.
    async fn facts(&self, sql: &str, read: fn(&QueryResult) -> Result<Fact>) -> Result<Vec<Fact>> {
        let (mut facts, mut after): (Vec<Fact>, _) = (Vec::new(), Uuid::nil());
        loop {
            let values = [after.into(), (PAGE as i64).into()];
            let statement = Statement::from_sql_and_values(self.0.get_database_backend(), sql, values);
            let rows = self.0.query_all_raw(statement).await?;
            let page: Vec<Fact> = rows.iter().map(read).collect::<Result<_>>()?;
            facts.extend(&page);
            match page.last() {
                Some(last) if page.len() == PAGE => after = last.message.0,
                Some(_) | None => return Ok(facts),
            }
        }
    }

    /// The event ids of all dead letters.
    pub async fn dead_letters(&self) -> Result<Vec<MessageId>> {
        let rows = self.rows("SELECT event_id FROM dead_letters").await?;
        rows.iter().map(|row| Ok(MessageId(row.try_get::<Uuid>("", "event_id")?))).collect()
    }

    /// When everybody was a member of every group, by the groups' own order.
    pub async fn memberships(&self) -> Result<Memberships> {
        let sql = "SELECT epoch, seq, payload FROM group_events WHERE kind IN ('group_created', 'member_added', 'member_removed') \
                   ORDER BY epoch, seq";
        let mut memberships = Memberships::new();
        for row in self.rows(sql).await? {
            let at = position(&row)?;
            let payload: String = row.try_get("", "payload")?;
            let (group, users, begins) = match Event::decode(payload.as_bytes())? {
                Event::GroupCreated(created) => (created.group, created.members.into_iter().map(|(user, _)| user).collect(), true),
                Event::MemberAdded(added) => (added.group, vec![added.user], true),
                Event::MemberRemoved(removed) => (removed.group, vec![removed.user], false),
                other => bail!("no change of membership: {other:?}"),
            };
            for user in users {
                let times = memberships.entry((group, user.to_string())).or_default();
                match times.last_mut() {
                    Some((_, until @ None)) if !begins => *until = Some(at),
                    None | Some((_, Some(_))) if begins => times.push((at, None)),
                    // An addition of a member or a removal of none changes nothing.
                    _ => {}
                }
            }
        }
        Ok(memberships)
    }

    /// All notifications to users.
    pub async fn notifications(&self) -> Result<Vec<Note>> {
        let rows = self.rows("SELECT recipient, id, epoch, seq, sender, body FROM notifications WHERE group_id IS NULL").await?;
        let note = |row: &QueryResult| -> Result<Note> {
            let (sender, body): (Option<String>, Option<String>) = (row.try_get("", "sender")?, row.try_get("", "body")?);
            let content = Content::of(&sender.unwrap_or_default(), &body.unwrap_or_default());
            Ok(Note { id: row.try_get("", "id")?, to: row.try_get("", "recipient")?, position: position(row)?, content })
        };
        rows.iter().map(note).collect()
    }

    /// What is not seen and not read in every inbox that has anything.
    pub async fn inbox_counts(&self) -> Result<HashMap<String, Counts>> {
        let sql = "SELECT n.recipient, COUNT(*) FILTER (WHERE s.seen IS NOT TRUE) AS unseen, COUNT(*) FILTER (WHERE s.is_read IS NOT TRUE) \
                   AS unread FROM notifications n LEFT JOIN inbox_state s ON s.recipient = n.recipient AND s.notification = n.id \
                   GROUP BY n.recipient";
        let rows = self.rows(sql).await?;
        let counts = |row: &QueryResult| -> Result<Counts> {
            let (unseen, unread): (i64, i64) = (row.try_get("", "unseen")?, row.try_get("", "unread")?);
            Ok(Counts { unseen: unseen as u64, unread: unread as u64 })
        };
        rows.iter().map(|row| Ok((row.try_get("", "recipient")?, counts(row)?))).collect()
    }

    /// How many messages there are.
    pub async fn message_count(&self) -> Result<i64> {
        self.count("SELECT COUNT(*) FROM messages").await
    }
}

fn message(row: &QueryResult) -> Result<Fact> {
    let (sender, body): (String, String) = (row.try_get("", "sender")?, row.try_get("", "body")?);
    fact(row, Content::of(&sender, &body))
}

fn notification(row: &QueryResult) -> Result<Fact> {
    let payload: String = row.try_get("", "payload")?;
    let Event::Notification(notification) = Event::decode(payload.as_bytes())? else { bail!("no notification: {payload}") };
    let sender = notification.sender.as_ref().map_or("", UserId::as_str);
    fact(row, Content::of(sender, &notification.body))
}

fn fact(row: &QueryResult, content: Content) -> Result<Fact> {
    let message = MessageId(row.try_get::<Uuid>("", "id")?);
    let group = GroupId(row.try_get::<Uuid>("", "group_id")?);
    Ok(Fact { message, group, position: position(row)?, content })
}

fn position(row: &QueryResult) -> Result<Position> {
    let epoch: i64 = row.try_get("", "epoch")?;
    let seq: i64 = row.try_get("", "seq")?;
    Ok(Position::new(Epoch(u32::try_from(epoch)?), u64::try_from(seq)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_message_is_read_once_with_its_content_over_several_pages() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let sql = Sql::connect(&format!("sqlite://{}?mode=rwc", folder.path().join("messages.db").display())).await?;
        let table =
            "CREATE TABLE messages (id blob PRIMARY KEY, group_id blob, epoch bigint, seq bigint, sender text, body text) WITHOUT ROWID";
        sql.0.execute_unprepared(table).await?;
        let count = 2 * PAGE + 1;
        let rows = format!(
            "WITH RECURSIVE n(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n WHERE seq < {count}) \
             INSERT INTO messages SELECT randomblob(16), zeroblob(16), 1, seq, 'ann', 'message ' || seq FROM n"
        );
        sql.0.execute_unprepared(&rows).await?;
        let mut facts = sql.messages().await?;
        facts.sort_by_key(|fact| fact.position);
        assert_eq!(facts.len(), count);
        for (fact, seq) in facts.iter().zip(1..) {
            assert_eq!((fact.position.seq, fact.content), (seq, Content::of("ann", &format!("message {seq}"))));
        }
        Ok(())
    }
}
