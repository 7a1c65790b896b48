//! Deletes messages and notifications that are older than the config keeps them.
//!
//! Group by group and inbox by inbox, oldest first, in small transactions with pauses; only where
//! this process holds the lease of the shard. What there is to delete is read before: where nothing is
//! old, as nearly everywhere, no transaction waits for its turn to write. A floor moves in the transaction of each deletion:
//! recovery from before it is not complete (`reset`), and what lies below is not unread.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use natter_shared::{
    broker::Broker,
    id::{GroupId, UserId},
    position::Position,
    subject::{Shard, Topic},
    timestamp::Timestamp,
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    checkpoint,
    database::{Store, Write, seldom},
    inbox::Change,
    lease::Leases,
    metrics::Metrics,
};

/// Rows deleted in one transaction.
const BATCH: usize = 500;

/// Groups or users looked at in one query.
const PAGE: i64 = 500;

/// Between two transactions, or pages, at least: the projector's turn.
const PAUSE: Duration = Duration::from_millis(5);

/// Groups with messages, and when the oldest that each has was sent.
const WITH_MESSAGES: &str = "SELECT c.group_id, (SELECT m.sent_at FROM messages m WHERE m.group_id = c.group_id \
     ORDER BY m.epoch, m.seq LIMIT 1) AS oldest FROM group_counters c WHERE c.messages > c.floor_ordinal AND c.group_id > ? \
     ORDER BY c.group_id LIMIT ?";

/// Groups with texts of notifications, and when the oldest that each has was sent: from one group to the next over the index that
/// has all their texts. Asked for one group by `=`, SQLite would read all its other events instead.
const WITH_NOTIFICATIONS: &str = "WITH RECURSIVE w (group_id, n) AS (SELECT (SELECT e.group_id FROM group_events e \
     WHERE e.kind = 'notification' AND e.group_id > ? ORDER BY e.group_id, e.epoch, e.seq LIMIT 1), 1 \
     UNION ALL SELECT (SELECT e.group_id FROM group_events e WHERE e.kind = 'notification' AND e.group_id > w.group_id \
     ORDER BY e.group_id, e.epoch, e.seq LIMIT 1), w.n + 1 FROM w WHERE w.group_id IS NOT NULL AND w.n < ?) \
     SELECT w.group_id, (SELECT e.stored_at FROM group_events e WHERE e.kind = 'notification' AND e.group_id >= w.group_id \
     ORDER BY e.group_id, e.epoch, e.seq LIMIT 1) AS oldest FROM w WHERE w.group_id IS NOT NULL ORDER BY w.group_id";

/// Marks of a user `s` whose notification is not there.
const STRAY: &str = "NOT EXISTS (SELECT 1 FROM notifications n WHERE n.recipient = s.recipient AND n.id = s.notification) \
     AND s.notification >= ? AND s.notification < ?";

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
            deleted.messages = self.groups(WITH_MESSAGES, keep, What::Messages).await?;
            self.dead_letters(keep).await?;
        }
        if let Some(keep) = self.notifications {
            deleted.notifications = self.inboxes(keep).await?;
            // Their texts go once no inbox has them any more.
            self.groups(WITH_NOTIFICATIONS, keep, What::Notifications).await?;
        }
        Ok(deleted)
    }

    /// Before when things are too old, in each shard that is this process's to work on: by the shard's own clock, the time of the
    /// last event applied; and by this machine's. One that is wrong by itself, here or of a NATS server, deletes nothing.
    async fn cutoffs(&self, keep: Duration) -> Result<HashMap<Shard, Timestamp>, DbErr> {
        let now = self.broker.now().min(Timestamp::now());
        let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let mut cutoffs = HashMap::new();
        for row in self.rows("SELECT shard, stored_at FROM applied", []).await? {
            let shard = Shard(row.try_get::<i64>("", "shard")? as u16);
            if self.leases.holds(shard) {
                cutoffs.insert(shard, Timestamp(row.try_get::<i64>("", "stored_at")? as u64).min(now).offset_by(-keep));
            }
        }
        Ok(cutoffs)
    }

    /// Goes through the groups that `pages` yields.
    async fn groups(&self, pages: &str, keep: Duration, what: What) -> Result<u64, DbErr> {
        let (mut after, mut deleted) = (Uuid::nil(), 0);
        loop {
            let started = Instant::now();
            let cutoffs = self.cutoffs(keep).await?;
            let page = self.rows(pages, [after.into(), PAGE.into()]).await?;
            sleep(started.elapsed().max(PAUSE)).await;
            for row in &page {
                after = row.try_get("", "group_id")?;
                let (group, oldest) = (GroupId(after), row.try_get::<Option<i64>>("", "oldest")?);
                let shard = self.broker.shards().of(Topic::Group(group));
                if let Some(cutoff) = cutoffs.get(&shard)
                    && oldest.is_some_and(|oldest| oldest < cutoff.0 as i64)
                {
                    deleted += self.group(group, *cutoff, what).await?;
                }
            }
            if page.is_empty() {
                return Ok(deleted);
            }
        }
    }

    /// Deletes what a group has from before `cutoff`.
    async fn group(&self, group: GroupId, cutoff: Timestamp, what: What) -> Result<u64, DbErr> {
        let (shard, mut deleted) = (self.broker.shards().of(Topic::Group(group)), 0);
        while self.leases.holds(shard) {
            let started = Instant::now();
            let gone = match what {
                What::Messages => seldom(self.messages_of(group, cutoff)).await?,
                What::Notifications => seldom(self.notifications_of(group, cutoff)).await?,
            };
            if gone == 0 {
                break;
            }
            self.metrics.retired(what.kind(), gone);
            deleted += gone;
            sleep(started.elapsed().max(PAUSE)).await;
        }
        Ok(deleted)
    }

    /// The oldest messages of a group, as far as they are before `cutoff`.
    async fn messages_of(&self, group: GroupId, cutoff: Timestamp) -> Result<u64, DbErr> {
        let sql = "SELECT epoch, seq, ordinal, sent_at AS at FROM messages WHERE group_id = ? ORDER BY epoch, seq LIMIT ?";
        let rows = self.rows(sql, [group.0.into(), (BATCH as i64).into()]).await?;
        let Some(last) = too_old(&rows, cutoff)?.last() else { return Ok(0) };
        self.delete(
            "DELETE FROM messages WHERE group_id = ? AND (epoch, seq) <= (?, ?)",
            group,
            position(last)?,
            last.try_get("", "ordinal")?,
        )
        .await
    }

    /// The texts of the oldest notifications to a group, as far as they are before `cutoff` and
    /// gone from all inboxes.
    async fn notifications_of(&self, group: GroupId, cutoff: Timestamp) -> Result<u64, DbErr> {
        let sql = "SELECT e.epoch, e.seq, e.stored_at AS at FROM group_events e WHERE e.group_id = ? AND e.kind = 'notification' \
                   ORDER BY e.epoch, e.seq LIMIT ?";
        let rows = self.rows(sql, [group.0.into(), (BATCH as i64).into()]).await?;
        let Some(last) = too_old(&rows, cutoff)?.last() else { return Ok(0) };
        let upto = position(last)?;
        let sql = "SELECT 1 AS one FROM group_events e JOIN notifications n ON n.id = e.event_id AND n.group_id IS NOT NULL \
                   WHERE e.group_id = ? AND e.kind = 'notification' AND (e.epoch, e.seq) <= (?, ?) LIMIT 1";
        let (epoch, seq) = checkpoint::sql(upto);
        if !self.rows(sql, [group.0.into(), epoch.into(), seq.into()]).await?.is_empty() {
            return Ok(0);
        }
        let sql = "DELETE FROM group_events WHERE group_id = ? AND kind = 'notification' AND (epoch, seq) <= (?, ?)";
        self.delete(sql, group, upto, 0).await
    }

    /// Deletes what a group has up to `upto`, and raises its floor to there.
    async fn delete(&self, sql: &str, group: GroupId, upto: Position, ordinal: i64) -> Result<u64, DbErr> {
        let (epoch, seq) = checkpoint::sql(upto);
        let write = self.store.write().await?;
        self.raise_floor(&write, group, upto, ordinal).await?;
        let statement = self.store.statement(sql, [group.0.into(), epoch.into(), seq.into()]);
        let gone = write.transaction.execute_raw(statement).await?.rows_affected();
        write.commit().await?;
        Ok(gone)
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

    /// Goes through all inboxes.
    async fn inboxes(&self, keep: Duration) -> Result<u64, DbErr> {
        let sql = format!(
            "SELECT u.id, (SELECT n.sent_at FROM notifications n WHERE n.recipient = u.id ORDER BY n.sent_at, n.id LIMIT 1) AS oldest, \
             (SELECT s.notification FROM inbox_state s WHERE s.recipient = u.id AND {STRAY} ORDER BY s.notification LIMIT 1) AS stray \
             FROM users u WHERE u.id > ? ORDER BY u.id LIMIT ?"
        );
        let (mut after, mut deleted) = (String::new(), 0);
        loop {
            let started = Instant::now();
            let cutoffs = self.cutoffs(keep).await?;
            let [from, upto] = ids_before(cutoffs.values().max().copied().unwrap_or_default());
            let page = self.rows(&sql, [from, upto, after.clone().into(), PAGE.into()]).await?;
            sleep(started.elapsed().max(PAUSE)).await;
            for row in &page {
                after = row.try_get("", "id")?;
                let Ok(user) = UserId::new(&after) else { continue };
                let Some(cutoff) = cutoffs.get(&self.broker.shards().of(Topic::User(user.key()))) else { continue };
                if row.try_get::<Option<i64>>("", "oldest")?.is_some_and(|oldest| oldest < cutoff.0 as i64) {
                    deleted += self.inbox(&user, *cutoff).await?;
                }
                if row.try_get::<Option<Uuid>>("", "stray")?.is_some_and(|stray| stray < first_id(*cutoff)) {
                    self.strays(&user, *cutoff).await?;
                }
            }
            if page.is_empty() {
                return Ok(deleted);
            }
        }
    }

    /// Deletes the notifications of an inbox that are before `cutoff`.
    async fn inbox(&self, user: &UserId, cutoff: Timestamp) -> Result<u64, DbErr> {
        let (shard, mut deleted) = (self.broker.shards().of(Topic::User(user.key())), 0);
        while self.leases.holds(shard) {
            let started = Instant::now();
            let gone = seldom(self.inbox_of(user, cutoff)).await?;
            if gone == 0 {
                break;
            }
            self.metrics.retired(What::Notifications.kind(), gone);
            deleted += gone;
            // Counts are absolute: the next change brings what this does not.
            let _ = self.changes.try_send(Change::Of(user.clone()));
            sleep(started.elapsed().max(PAUSE)).await;
        }
        Ok(deleted)
    }

    /// The oldest notifications of an inbox, as far as they are before `cutoff`.
    async fn inbox_of(&self, user: &UserId, cutoff: Timestamp) -> Result<u64, DbErr> {
        let sql = "SELECT id, epoch, seq, group_id, sent_at FROM notifications WHERE recipient = ? AND sent_at < ? \
                   ORDER BY sent_at, id LIMIT ?";
        let values = [user.as_str().into(), (cutoff.0 as i64).into(), (BATCH as i64).into()];
        let rows = self.rows(sql, values).await?;
        let Some(last) = rows.last() else { return Ok(0) };
        let upto: [Value; 2] = [last.try_get::<i64>("", "sent_at")?.into(), last.try_get::<Uuid>("", "id")?.into()];
        let write = self.store.write().await?;
        raise_inbox_floor(&self.store, &write, user, &rows).await?;
        let recipient = || Value::from(user.as_str());
        let sql = "DELETE FROM inbox_state WHERE recipient = ? AND notification IN \
                   (SELECT id FROM notifications WHERE recipient = ? AND (sent_at, id) <= (?, ?))";
        let values = [recipient(), recipient()].into_iter().chain(upto.clone());
        write.transaction.execute_raw(self.store.statement(sql, values)).await?;
        let sql = "DELETE FROM notifications WHERE recipient = ? AND (sent_at, id) <= (?, ?)";
        let values = std::iter::once(recipient()).chain(upto);
        let gone = write.transaction.execute_raw(self.store.statement(sql, values)).await?.rows_affected();
        write.commit().await?;
        Ok(gone)
    }

    /// Deletes marks of notifications that are not there, and are from before `cutoff` by their ids: that came late, or of what never was.
    async fn strays(&self, user: &UserId, cutoff: Timestamp) -> Result<(), DbErr> {
        let sql = format!(
            "DELETE FROM inbox_state WHERE recipient = ? AND notification IN \
             (SELECT s.notification FROM inbox_state s WHERE s.recipient = ? AND {STRAY} LIMIT ?)"
        );
        let shard = self.broker.shards().of(Topic::User(user.key()));
        while self.leases.holds(shard) {
            let started = Instant::now();
            let [from, upto] = ids_before(cutoff);
            let values = [user.as_str().into(), user.as_str().into(), from, upto, (BATCH as i64).into()];
            let gone = self.store.execute(&sql, values).await?;
            self.metrics.retired("inbox_marks", gone);
            if gone < BATCH as u64 {
                break;
            }
            sleep(started.elapsed().max(PAUSE)).await;
        }
        Ok(())
    }

    async fn rows(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<Vec<QueryResult>, DbErr> {
        seldom(self.store.database().query_all_raw(self.store.statement(sql, values))).await
    }
}

/// Raises the floor of `user`'s inbox to the last of `rows`, notifications (`epoch`, `seq`, `group_id`) that `write` deletes.
pub(crate) async fn raise_inbox_floor(store: &Store, write: &Write, user: &UserId, rows: &[QueryResult]) -> Result<(), DbErr> {
    let mut floor = Position::START;
    for row in rows {
        // What went to groups is no event of the user's own topic.
        if row.try_get::<Option<Uuid>>("", "group_id")?.is_none() {
            floor = floor.max(position(row)?);
        }
    }
    let (epoch, seq) = checkpoint::sql(floor);
    let sql = "UPDATE users SET inbox_floor_epoch = ?, inbox_floor_seq = ? WHERE id = ? AND (inbox_floor_epoch, inbox_floor_seq) < (?, ?)";
    let values = [epoch.into(), seq.into(), user.as_str().into(), epoch.into(), seq.into()];
    write.transaction.execute_raw(store.statement(sql, values)).await?;
    Ok(())
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

/// Between which the ids of notifications are whose nonces are from before `cutoff`. Without those of a back end's keys, which have no
/// time: such a one may be new, and come after its mark.
fn ids_before(cutoff: Timestamp) -> [Value; 2] {
    [first_id(Timestamp(1)), first_id(cutoff)].map(Value::from)
}

/// The first id of a notification whose nonce is of `time`.
fn first_id(time: Timestamp) -> Uuid {
    Uuid::from_u128(u128::from(time.0) << 80)
}

fn position(row: &QueryResult) -> Result<Position, DbErr> {
    Ok(checkpoint::position(row.try_get("", "epoch")?, row.try_get("", "seq")?))
}

mod letters;
#[cfg(test)]
mod tests;
