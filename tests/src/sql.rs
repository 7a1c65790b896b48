//! What the projection holds, read beside the product.

use std::collections::HashMap;

use anyhow::Result;
use natter_shared::{
    event::Event,
    id::{GroupId, MessageId},
    position::{Epoch, Position},
};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, QueryResult, Statement, TransactionTrait};
use uuid::Uuid;

use crate::{
    checker::{Fact, Memberships},
    inboxes::Counts,
};

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
        let rows = self.rows("SELECT id, group_id, epoch, seq FROM messages").await?;
        rows.iter().map(fact).collect()
    }

    /// All group notifications, which are delivered like messages.
    pub async fn group_notifications(&self) -> Result<Vec<Fact>> {
        let rows = self.rows("SELECT event_id AS id, group_id, epoch, seq FROM group_events WHERE kind = 'notification'").await?;
        rows.iter().map(fact).collect()
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
                other => anyhow::bail!("no change of membership: {other:?}"),
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

    /// All notifications to users: recipient and id.
    pub async fn notifications(&self) -> Result<Vec<(String, Uuid)>> {
        let rows = self.rows("SELECT recipient, id FROM notifications WHERE group_id IS NULL").await?;
        rows.iter().map(|row| Ok((row.try_get("", "recipient")?, row.try_get("", "id")?))).collect()
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

fn fact(row: &QueryResult) -> Result<Fact> {
    let message = MessageId(row.try_get::<Uuid>("", "id")?);
    let group = GroupId(row.try_get::<Uuid>("", "group_id")?);
    Ok(Fact { message, group, position: position(row)? })
}

fn position(row: &QueryResult) -> Result<Position> {
    let epoch: i64 = row.try_get("", "epoch")?;
    let seq: i64 = row.try_get("", "seq")?;
    Ok(Position::new(Epoch(u32::try_from(epoch)?), u64::try_from(seq)?))
}
