//! The projector of one shard: batches of its log become rows.
//!
//! decode → known → plan → publish hints → write (rows and checkpoint together). What passes is
//! tried again for ever with the same batch; what the data itself is to blame for is narrowed down
//! by halves to the one event, which becomes a dead letter.

mod decode;
mod known;
mod lost;
mod marks;
mod plan;
mod portion;
mod tables;
mod write;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use natter_shared::{
    broker::{Broker, BrokerError, Outgoing, Stored},
    id::{EventId, GroupId},
    position::Position,
    subject::Shard,
};
use sea_orm::{ConnectionTrait, DbBackend};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use self::portion::Portion;
use self::{known::Known, write::Written};
use crate::{
    checkpoint::Checkpoint,
    database::{Store, answered, answered_within, is_unanswered},
    error::{Error, is_data},
    inbox::Change,
    metrics::Metrics,
    progress::Progress,
};

/// Hints published at the same time.
const HINTS: usize = 256;

/// Events before the checkpoint whose changes of inboxes are told again: more than are committed in the moment for which
/// these are gathered.
const TOLD_AGAIN: u64 = 5_000;

/// Events of them that are read at once.
const READ: usize = 1_000;

/// How long they are waited for.
const READ_WITHIN: Duration = Duration::from_millis(500);

/// Groups whose counters are remembered between batches.
const COUNTERS: usize = 200_000;

/// Projects one shard.
pub(crate) struct Projector {
    pub(crate) shard: Shard,
    pub(crate) store: Store,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) metrics: Metrics,
    pub(crate) progress: Arc<Progress>,
    pub(crate) changes: mpsc::Sender<Change>,
    pub(crate) shutdown: CancellationToken,
    /// Messages of each group as of the checkpoint; holds while nobody else moves that.
    pub(crate) counters: HashMap<GroupId, i64>,
    /// Hints of the batch at hand that are published already.
    pub(crate) published: HashSet<EventId>,
    pub(crate) portion: Portion,
    /// A log that was used and that SQL knows nothing of is taken all the same.
    pub(crate) without_history: bool,
}

/// How far a batch got.
#[derive(Debug)]
pub(crate) enum Applied {
    /// All of it.
    All(Checkpoint),
    /// The checkpoint is elsewhere: another persister was here.
    Elsewhere,
    /// Shut down.
    Stopped,
}

enum Attempt {
    Done(Checkpoint),
    Elsewhere,
    /// The data is to blame.
    Poison(String),
    /// More than one event, for which the database takes too long at once.
    TooMuch,
}

impl Projector {
    /// Applies `batch`, which follows on `from`; comes back when that is done, however long the
    /// database or the broker is away.
    pub(crate) async fn apply(&mut self, from: Checkpoint, batch: &[Stored]) -> Applied {
        let mut at = from;
        // What is left to apply, its beginning last.
        let mut left = vec![batch];
        while let Some(part) = left.pop() {
            let (part, rest) = self.portion.split(part);
            if !rest.is_empty() {
                left.push(rest);
            }
            match self.persist(&at, part).await {
                None => return Applied::Stopped,
                Some(Attempt::Done(checkpoint)) => at = checkpoint,
                Some(Attempt::Elsewhere) => {
                    self.forget();
                    return Applied::Elsewhere;
                }
                Some(Attempt::Poison(_) | Attempt::TooMuch) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    left.push(second);
                    left.push(first);
                }
            }
        }
        Applied::All(at)
    }

    /// Forgets what holds only while nobody else moves the checkpoint.
    pub(crate) fn forget(&mut self) {
        self.counters.clear();
        self.published.clear();
    }

    /// Tries until it is done, or the data is found to blame. `None` when shut down.
    async fn persist(&mut self, at: &Checkpoint, part: &[Stored]) -> Option<Attempt> {
        let mut pause = Duration::from_millis(50);
        let mut blame = None;
        loop {
            let error = match self.attempt(at, part, blame.clone()).await {
                Ok(Attempt::Poison(reason)) if part.len() == 1 && blame.is_none() => {
                    blame = Some(reason);
                    continue;
                }
                Ok(attempt) => return Some(attempt),
                Err(error) => error,
            };
            self.forget();
            self.metrics.retried();
            tracing::warn!(%error, shard = self.shard.0, "batch_retried");
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(2)),
            }
        }
    }

    /// One try. With `blame`, the one event of `part` becomes a dead letter for that reason.
    async fn attempt(&mut self, at: &Checkpoint, part: &[Stored], blame: Option<String>) -> Result<Attempt, Error> {
        let Some(last) = part.last() else { return Ok(Attempt::Done(*at)) };
        let started = Instant::now();
        let to = at.at(last);
        let (mut clashed, mut at_once) = (false, true);
        loop {
            let mut entries = decode::entries(part);
            if let Some(reason) = &blame {
                for entry in &mut entries {
                    entry.event = Err(reason.clone());
                }
            }
            let mut known = answered(Known::load(&self.store, &entries, &self.counters)).await?;
            if clashed {
                answered(known.load_existing(&self.store, &entries)).await?;
            }
            let refuses_nul = self.store.backend() == DbBackend::Postgres;
            let mut plan = plan::plan(entries, known, self.broker.shards(), self.broker.now(), refuses_nul);
            self.publish(std::mem::take(&mut plan.hints)).await?;
            let writing = write::write(&self.store, &self.metrics, self.shard, at.position, &to, &mut plan, at_once);
            match answered_within(self.portion.patience(), writing).await {
                Ok(Written::Yes) => {
                    self.portion.was_written(part.len());
                    self.committed(&to, plan.counters, plan.changes);
                    self.metrics.batch(self.shard, part.len(), started.elapsed(), self.broker.now().since(last.stored_at));
                    return Ok(Attempt::Done(to));
                }
                Ok(Written::Elsewhere) => return Ok(Attempt::Elsewhere),
                Ok(Written::Clash) if clashed => return Ok(Attempt::Poison("taken: its id or position is another event's".into())),
                Ok(Written::Clash) => clashed = true,
                Ok(Written::Overtaken) => at_once = false,
                Err(error) if is_data(&error) => {
                    // Only where the database is well otherwise is it the data's fault.
                    answered(self.store.database().execute_unprepared("SELECT 1")).await?;
                    return Ok(Attempt::Poison(format!("refused: {error}")));
                }
                Err(error) if is_unanswered(&error) => {
                    // Where the database is well otherwise, it has too much to do for one transaction.
                    answered(self.store.database().execute_unprepared("SELECT 1")).await?;
                    self.portion.was_too_much(part.len());
                    if part.len() == 1 {
                        return Err(error.into());
                    }
                    self.forget();
                    self.metrics.retried();
                    tracing::warn!(%error, shard = self.shard.0, events = part.len(), "batch_halved");
                    return Ok(Attempt::TooMuch);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn committed(&mut self, to: &Checkpoint, counters: HashMap<GroupId, i64>, changes: Vec<Change>) {
        self.published.clear();
        if self.counters.len() > COUNTERS {
            self.counters.clear();
        }
        self.counters.extend(counters);
        self.progress.committed(self.shard, to);
        for change in changes {
            // Full means a storm; counts are absolute, the next change brings them.
            if self.changes.try_send(change).is_err() {
                break;
            }
        }
    }

    /// Has the owners told once more whose inboxes were changed just before `at`: whoever committed that may have ended
    /// before it told them, or have been cut off meanwhile.
    pub(crate) async fn tell_again(&self, at: &Checkpoint) {
        let told = async {
            let Position { epoch, seq: end } = at.position;
            let first = self.broker.first(self.shard, epoch).await?.unwrap_or_default();
            let mut after = end.saturating_sub(TOLD_AGAIN).max(first.saturating_sub(1));
            if after >= end {
                return Ok(());
            }
            let mut reader = self.broker.read(self.shard, Position::new(epoch, after)).await?;
            while after < end {
                let batch = reader.next_batch(READ, READ_WITHIN).await?;
                let Some(last) = batch.last() else { break };
                after = last.position.seq;
                let changes = decode::entries(&batch).into_iter().filter(|entry| entry.stored.position <= at.position);
                for change in changes.filter_map(|entry| Change::by(entry.event.as_ref().ok()?)) {
                    // Full: as many wait to be told as ever do.
                    let _ = self.changes.try_send(change);
                }
            }
            Ok::<(), BrokerError>(())
        };
        if let Err(error) = told.await {
            tracing::warn!(%error, shard = self.shard.0, "inbox_counts_not_told_again");
        }
    }

    /// Publishes hints before the rows are committed: after a crash in between they are published
    /// again under the same ids; under another where the first copy came too late to count.
    async fn publish(&mut self, hints: Vec<Outgoing>) -> Result<(), Error> {
        let fresh = hints.into_iter().filter(|hint| !self.published.contains(&hint.id));
        let broker = &self.broker;
        let ids: Vec<EventId> = stream::iter(fresh)
            .map(|hint| async move {
                let (id, shard) = (hint.id, broker.shards().of(hint.topic));
                let ack = broker.publish(hint.clone()).await?;
                if ack.duplicate && broker.get(shard, ack.position).await?.is_some_and(|first| first.is_void()) {
                    broker.publish(Outgoing { id: EventId::random(), made_at: broker.now(), ..hint }).await?;
                }
                Ok::<_, BrokerError>(id)
            })
            .buffer_unordered(HINTS)
            .try_collect()
            .await?;
        self.published.extend(ids);
        Ok(())
    }
}
