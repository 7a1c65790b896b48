//! What every call works with: snapshots, waiting for positions, publishing events.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use natter_shared::{
    broker::{Broker, Outgoing},
    event::Event,
    frame::ErrorCode,
    id::{EventId, UserId},
    rpc::{self, Answer, AwaitApplied, RpcError, ShardPosition},
    subject::{Shard, Topic},
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, QueryResult, Value};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::makers::Makers;
use crate::{
    checkpoint,
    database::{
        Store,
        rows::{Kind, Rows},
    },
    error::unavailable,
    inbox::Change,
    options::Options,
    progress::Progress,
    standings::Standings,
};

/// How long a command waits for its event to be stored and applied.
const PATIENCE: Duration = Duration::from_secs(4);

/// What every call works with.
pub(super) struct Context {
    pub(super) store: Store,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) progress: Arc<Progress>,
    pub(super) standings: Arc<Standings>,
    /// Who makes how many groups.
    pub(super) makers: Makers,
    /// Whose inbox is counted and told.
    pub(super) changes: mpsc::Sender<Change>,
    pub(super) options: Options,
    /// Whether the database has answered a call since somebody looked.
    pub(super) answered: AtomicBool,
}

/// A snapshot of SQL, and how far it had come.
pub(super) struct Snapshot<'a> {
    store: &'a Store,
    pub(super) read: DatabaseTransaction,
    applied: Vec<ShardPosition>,
}

impl Snapshot<'_> {
    /// The rows of a query with `?` for its parameters.
    pub(super) async fn all(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<Vec<QueryResult>, RpcError> {
        self.read.query_all_raw(self.store.statement(sql, values)).await.map_err(|error| unavailable(&error))
    }

    /// The first row of a query.
    pub(super) async fn one(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<Option<QueryResult>, RpcError> {
        self.read.query_one_raw(self.store.statement(sql, values)).await.map_err(|error| unavailable(&error))
    }

    /// The rows of a query that reads from `v`, which has the id `i` of each of `users`.
    pub(super) async fn all_of(&self, users: &[&UserId], sql: &str) -> Result<Vec<QueryResult>, RpcError> {
        let mut rows = Rows::new([("i", Kind::Text)]);
        for user in users {
            rows.push([user.as_str().into()]);
        }
        self.rows(rows, sql).await
    }

    /// The rows of a query that reads from `v`.
    pub(super) async fn rows<const N: usize>(&self, v: Rows<N>, sql: &str) -> Result<Vec<QueryResult>, RpcError> {
        v.query(&self.read, sql).await.map_err(|error| unavailable(&error))
    }

    /// What database it is of.
    pub(super) fn backend(&self) -> DbBackend {
        self.store.backend()
    }

    /// How far SQL has come in each shard.
    pub(super) fn applied(&self) -> &[ShardPosition] {
        &self.applied
    }

    /// Whether SQL has come to `least`.
    pub(super) fn has(&self, least: Option<ShardPosition>) -> bool {
        least.is_none_or(|least| rpc::applied_in(&self.applied, Shard(least.shard)) >= least.position)
    }

    /// Ends the snapshot with its answer.
    pub(super) async fn answer<T>(self, reply: T) -> Result<Answer<T>, RpcError> {
        // Nothing was written: how it ends is of no importance.
        let _ = self.read.commit().await;
        Ok(Answer { applied: self.applied, reply })
    }
}

impl Context {
    pub(super) async fn snapshot(&self) -> Result<Snapshot<'_>, RpcError> {
        let (read, applied) = self.store.snapshot().await?;
        self.answered.store(true, Ordering::Relaxed);
        Ok(Snapshot { store: &self.store, read, applied })
    }

    /// Whether the database has answered a call since the last look.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.swap(false, Ordering::Relaxed)
    }

    /// Waits until SQL has come to `at`; then a snapshot taken later has it.
    pub(super) async fn reach(&self, at: ShardPosition, patience: Duration) -> Result<(), RpcError> {
        if self.progress.reached(at, Instant::now() + patience).await {
            return Ok(());
        }
        // Announcements may be lost: SQL itself has the last word.
        let applied = checkpoint::positions(self.store.database()).await.map_err(|error| unavailable(&error))?;
        if applied.iter().any(|other| other.shard == at.shard && other.position >= at.position) {
            return Ok(());
        }
        Err(RpcError::new(ErrorCode::Unavailable, "not applied yet"))
    }

    /// The event was stored before. One that came too late to count changes nothing, and keeps its id from another for a while.
    async fn check_counts(&self, at: ShardPosition, deadline: Instant) -> Result<(), RpcError> {
        loop {
            match self.broker.get(Shard(at.shard), at.position).await {
                Ok(Some(first)) if first.is_void() => {
                    return Err(RpcError::new(ErrorCode::Unavailable, "the first try came too late to count; try again in two minutes"));
                }
                Ok(Some(_)) => return Ok(()),
                // A replica that lags was asked, or there is no leader just now.
                Ok(None) | Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(50)).await,
                Ok(None) => return Err(RpcError::new(ErrorCode::Unavailable, "the first try is not readable yet")),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Stores what a user asked for and waits until it is applied, by whichever persister.
    pub(super) async fn publish(&self, topic: Topic, id: EventId, event: &Event) -> Result<ShardPosition, RpcError> {
        self.publish_new(topic, id, event, || {}).await
    }

    /// The same. Calls `stored` once it is stored, unless it was before: whether or not it is applied in time, it will be.
    pub(super) async fn publish_new(
        &self,
        topic: Topic,
        id: EventId,
        event: &Event,
        stored: impl FnOnce(),
    ) -> Result<ShardPosition, RpcError> {
        let shard = self.broker.shards().of(topic);
        if !self.progress.admits(shard) {
            return Err(RpcError::new(ErrorCode::Busy, "the database is too far behind; try again later"));
        }
        let payload = event.encode().map_err(|error| RpcError::new(ErrorCode::BadRequest, error.to_string()))?;
        let deadline = Instant::now() + PATIENCE;
        let made_at = self.broker.now();
        let ack = loop {
            match self.broker.publish(Outgoing { topic, id, made_at, epoch: None, payload: payload.clone() }).await {
                Ok(ack) => break ack,
                Err(error) if error.is_retryable() && Instant::now() < deadline => sleep(Duration::from_millis(50)).await,
                Err(error) => return Err(error.into()),
            }
        };
        let at = ShardPosition { shard: shard.0, position: ack.position };
        if ack.duplicate {
            self.check_counts(at, deadline).await?;
        } else {
            stored();
        }
        self.reach(at, deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(500))).await?;
        Ok(at)
    }
}

/// Waits for the request's `min_position`; that is done by the time this is called.
pub(super) async fn await_applied(context: &Context, _: AwaitApplied) -> Result<Answer<()>, RpcError> {
    context.snapshot().await?.answer(()).await
}

/// A column of a row.
pub(super) fn column<T: sea_orm::TryGetable>(row: &QueryResult, name: &str) -> Result<T, RpcError> {
    row.try_get("", name).map_err(|error: DbErr| unavailable(&error))
}
