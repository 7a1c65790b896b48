//! Deletes messages and notifications that are older than the config keeps them.
//!
//! Group by group and inbox by inbox, oldest first, in small transactions with pauses; only where
//! this process holds the lease of the shard. A floor moves in the transaction of each deletion:
//! recovery from before it is not complete (`reset`), and what lies below is not unread.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use natter_shared::{
    broker::Broker,
    id::{GroupId, UserId},
    position::Position,
    subject::Topic,
    timestamp::Timestamp,
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    checkpoint,
    database::{Store, Write},
    inbox::Change,
    lease::Leases,
    metrics::Metrics,
};

/// Rows deleted in one transaction.
const BATCH: usize = 500;

/// Groups or users looked at in one query.
const PAGE: i64 = 500;

/// Between two transactions, at least: the projector's turn.
const PAUSE: Duration = Duration::from_millis(5);

/// Deletes what is too old.
pub(crate) struct Retention {
    pub(crate) store: Store,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) metrics: Metrics,
    pub(crate) changes: mpsc::Sender<Change>,
    /// How long messages are kept; unset, for good.
    pub(crate) messages: Option<Duration>,
    /// How long notifications are kept; unset, for good.
    pub(crate) notifications: Option<Duration>,
    /// From one pass to the next.
    pub(crate) every: Duration,
}

/// What a pass deleted.
#[derive(Debug, Default)]
struct Deleted {
    messages: u64,
    notifications: u64,
}

impl Retention {
    /// Works until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(self.every) => {}
            }
            let started = Instant::now();
            let passed = tokio::select! {
                () = shutdown.cancelled() => return,
                passed = self.pass() => passed,
            };
            match passed {
                Ok(Deleted { messages: 0, notifications: 0 }) => {}
                Ok(Deleted { messages, notifications }) => {
                    tracing::info!(messages, notifications, seconds = started.elapsed().as_secs(), "retention_pass");
                }
                // What is deleted is deleted; the next pass goes on with the rest.
                Err(error) => tracing::warn!(%error, "retention_retried"),
            }
        }
    }

    async fn pass(&self) -> Result<Deleted, DbErr> {
        let mut deleted = Deleted::default();
        if let Some(keep) = self.messages {
            let sql = "SELECT group_id FROM group_counters WHERE messages > floor_ordinal AND group_id > ? ORDER BY group_id LIMIT ?";
            deleted.messages = self.groups(sql, keep, What::Messages).await?;
        }
        if let Some(keep) = self.notifications {
            deleted.notifications = self.inboxes(keep).await?;
            // Their texts go once no inbox has them any more.
            let sql = "SELECT DISTINCT group_id FROM group_events WHERE kind = 'notification' AND group_id > ? ORDER BY group_id LIMIT ?";
            self.groups(sql, keep, What::Notifications).await?;
        }
        Ok(deleted)
    }

    /// Before when things are too old, by the shard's own clock, the time of the last event applied; and by this machine's. One
    /// that is wrong by itself, here or of a NATS server, deletes nothing.
    async fn cutoff(&self, topic: Topic, keep: Duration) -> Result<Option<Timestamp>, DbErr> {
        let shard = self.broker.shards().of(topic);
        if !self.leases.holds(shard) {
            return Ok(None);
        }
        let applied = checkpoint::load(self.store.database(), shard).await?;
        Ok(applied.map(|applied| {
            applied.stored_at.min(self.broker.now()).min(Timestamp::now()).offset_by(-i64::try_from(keep.as_millis()).unwrap_or(i64::MAX))
        }))
    }

    /// Goes through the groups that `pages` yields.
    async fn groups(&self, pages: &str, keep: Duration, what: What) -> Result<u64, DbErr> {
        let (mut after, mut deleted) = (Uuid::nil(), 0);
        loop {
            let page = self.rows(self.store.database(), pages, [after.into(), PAGE.into()]).await?;
            for row in &page {
                after = row.try_get("", "group_id")?;
                let group = GroupId(after);
                while let Some(cutoff) = self.cutoff(Topic::Group(group), keep).await? {
                    let started = Instant::now();
                    let write = self.store.write().await?;
                    let gone = match what {
                        What::Messages => self.messages_of(&write, group, cutoff).await?,
                        What::Notifications => self.notifications_of(&write, group, cutoff).await?,
                    };
                    if gone == 0 {
                        write.rollback().await?;
                        break;
                    }
                    write.commit().await?;
                    self.metrics.retired(what.kind(), gone);
                    deleted += gone;
                    sleep(started.elapsed().max(PAUSE)).await;
                }
            }
            if page.is_empty() {
                return Ok(deleted);
            }
        }
    }

    /// The oldest messages of a group, as far as they are before `cutoff`.
    async fn messages_of(&self, write: &Write, group: GroupId, cutoff: Timestamp) -> Result<u64, DbErr> {
        let sql = "SELECT epoch, seq, ordinal, sent_at AS at FROM messages WHERE group_id = ? ORDER BY epoch, seq LIMIT ?";
        let rows = self.rows(&write.transaction, sql, [group.0.into(), (BATCH as i64).into()]).await?;
        let Some(last) = too_old(&rows, cutoff)?.last() else { return Ok(0) };
        let ordinal: i64 = last.try_get("", "ordinal")?;
        let upto = position(last)?;
        self.raise_floor(write, group, upto, ordinal).await?;
        self.delete(write, "DELETE FROM messages WHERE group_id = ? AND (epoch, seq) <= (?, ?)", group, upto).await
    }

    /// The texts of the oldest notifications to a group, as far as they are before `cutoff` and
    /// gone from all inboxes.
    async fn notifications_of(&self, write: &Write, group: GroupId, cutoff: Timestamp) -> Result<u64, DbErr> {
        let sql = "SELECT e.epoch, e.seq, e.stored_at AS at FROM group_events e WHERE e.group_id = ? AND e.kind = 'notification' \
                   ORDER BY e.epoch, e.seq LIMIT ?";
        let rows = self.rows(&write.transaction, sql, [group.0.into(), (BATCH as i64).into()]).await?;
        let old = too_old(&rows, cutoff)?;
        let Some(last) = old.last() else { return Ok(0) };
        let upto = position(last)?;
        let sql = "SELECT 1 AS one FROM group_events e JOIN notifications n ON n.id = e.event_id AND n.group_id IS NOT NULL \
                   WHERE e.group_id = ? AND e.kind = 'notification' AND (e.epoch, e.seq) <= (?, ?) LIMIT 1";
        let (epoch, seq) = checkpoint::sql(upto);
        if !self.rows(&write.transaction, sql, [group.0.into(), epoch.into(), seq.into()]).await?.is_empty() {
            return Ok(0);
        }
        self.raise_floor(write, group, upto, 0).await?;
        let sql = "DELETE FROM group_events WHERE group_id = ? AND kind = 'notification' AND (epoch, seq) <= (?, ?)";
        self.delete(write, sql, group, upto).await
    }

    async fn raise_floor(&self, write: &Write, group: GroupId, upto: Position, ordinal: i64) -> Result<(), DbErr> {
        let sql = "INSERT INTO group_counters (group_id, messages, floor_epoch, floor_seq, floor_ordinal) VALUES (?, 0, ?, ?, ?) \
                   ON CONFLICT (group_id) DO UPDATE SET \
                   floor_epoch = CASE WHEN (group_counters.floor_epoch, group_counters.floor_seq) < (excluded.floor_epoch, excluded.floor_seq) \
                   THEN excluded.floor_epoch ELSE group_counters.floor_epoch END, \
                   floor_seq = CASE WHEN (group_counters.floor_epoch, group_counters.floor_seq) < (excluded.floor_epoch, excluded.floor_seq) \
                   THEN excluded.floor_seq ELSE group_counters.floor_seq END, \
                   floor_ordinal = CASE WHEN group_counters.floor_ordinal < excluded.floor_ordinal \
                   THEN excluded.floor_ordinal ELSE group_counters.floor_ordinal END";
        let (epoch, seq) = checkpoint::sql(upto);
        let values = [group.0.into(), epoch.into(), seq.into(), ordinal.into()];
        write.transaction.execute_raw(self.store.statement(sql, values)).await.map(drop)
    }

    async fn delete(&self, write: &Write, sql: &str, group: GroupId, upto: Position) -> Result<u64, DbErr> {
        let (epoch, seq) = checkpoint::sql(upto);
        let statement = self.store.statement(sql, [group.0.into(), epoch.into(), seq.into()]);
        Ok(write.transaction.execute_raw(statement).await?.rows_affected())
    }

    /// Goes through all inboxes.
    async fn inboxes(&self, keep: Duration) -> Result<u64, DbErr> {
        let (mut after, mut deleted) = (String::new(), 0);
        loop {
            let sql = "SELECT id FROM users WHERE id > ? ORDER BY id LIMIT ?";
            let page = self.rows(self.store.database(), sql, [after.clone().into(), PAGE.into()]).await?;
            for row in &page {
                after = row.try_get("", "id")?;
                let Ok(user) = UserId::new(&after) else { continue };
                while let Some(cutoff) = self.cutoff(Topic::User(user.key()), keep).await? {
                    let started = Instant::now();
                    let write = self.store.write().await?;
                    let gone = self.inbox_of(&write, &user, cutoff).await?;
                    if gone == 0 {
                        write.rollback().await?;
                        break;
                    }
                    write.commit().await?;
                    self.metrics.retired(What::Notifications.kind(), gone);
                    deleted += gone;
                    // Counts are absolute: the next change brings what this does not.
                    let _ = self.changes.try_send(Change::Of(user.clone()));
                    sleep(started.elapsed().max(PAUSE)).await;
                }
            }
            if page.is_empty() {
                return Ok(deleted);
            }
        }
    }

    /// The oldest notifications of an inbox, as far as they are before `cutoff`.
    async fn inbox_of(&self, write: &Write, user: &UserId, cutoff: Timestamp) -> Result<u64, DbErr> {
        let sql = "SELECT id, epoch, seq, group_id, sent_at FROM notifications WHERE recipient = ? AND sent_at < ? \
                   ORDER BY sent_at, id LIMIT ?";
        let values = [user.as_str().into(), (cutoff.0 as i64).into(), (BATCH as i64).into()];
        let rows = self.rows(&write.transaction, sql, values).await?;
        let Some(last) = rows.last() else { return Ok(0) };
        let upto: [Value; 2] = [last.try_get::<i64>("", "sent_at")?.into(), last.try_get::<Uuid>("", "id")?.into()];
        let mut floor = Position::START;
        for row in &rows {
            // What went to groups is no event of the user's own topic.
            if row.try_get::<Option<Uuid>>("", "group_id")?.is_none() {
                floor = floor.max(position(row)?);
            }
        }
        let (epoch, seq) = checkpoint::sql(floor);
        let sql =
            "UPDATE users SET inbox_floor_epoch = ?, inbox_floor_seq = ? WHERE id = ? AND (inbox_floor_epoch, inbox_floor_seq) < (?, ?)";
        let values = [epoch.into(), seq.into(), user.as_str().into(), epoch.into(), seq.into()];
        write.transaction.execute_raw(self.store.statement(sql, values)).await?;
        let recipient = || Value::from(user.as_str());
        let sql = "DELETE FROM inbox_state WHERE recipient = ? AND notification IN \
                   (SELECT id FROM notifications WHERE recipient = ? AND (sent_at, id) <= (?, ?))";
        let values = [recipient(), recipient()].into_iter().chain(upto.clone());
        write.transaction.execute_raw(self.store.statement(sql, values)).await?;
        let sql = "DELETE FROM notifications WHERE recipient = ? AND (sent_at, id) <= (?, ?)";
        let values = std::iter::once(recipient()).chain(upto);
        Ok(write.transaction.execute_raw(self.store.statement(sql, values)).await?.rows_affected())
    }

    async fn rows(
        &self,
        database: &impl ConnectionTrait,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<QueryResult>, DbErr> {
        database.query_all_raw(self.store.statement(sql, values)).await
    }
}

/// What a walk through groups deletes.
#[derive(Debug, Clone, Copy)]
enum What {
    Messages,
    Notifications,
}

impl What {
    fn kind(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Notifications => "notifications",
        }
    }
}

/// The first of `rows`, in the order of positions, that are before `cutoff`.
fn too_old(rows: &[QueryResult], cutoff: Timestamp) -> Result<&[QueryResult], DbErr> {
    let mut count = 0;
    for row in rows {
        if row.try_get::<i64>("", "at")? >= cutoff.0 as i64 {
            break;
        }
        count += 1;
    }
    Ok(rows.get(..count).unwrap_or_default())
}

fn position(row: &QueryResult) -> Result<Position, DbErr> {
    Ok(checkpoint::position(row.try_get("", "epoch")?, row.try_get("", "seq")?))
}
