//! Brings a shard's log and its checkpoint together: makes the log at the first start, follows it
//! into a newer epoch, and finds out when it was rewound.
//!
//! A log was rewound when the event at the checkpoint is not there with the id remembered: its
//! store was lost, or restored from a backup (one of ours says so itself). Then the shard goes on in a new epoch. Nothing in SQL
//! moves; what was stored in the rewound log after the rewind, and is not in SQL, is published
//! again in the new epoch, since its old positions may be taken.

use std::time::Duration;

use natter_shared::{
    broker::{BrokerError, LogReader, LogState, Outgoing, Stored},
    position::{Epoch, Position},
};
use sea_orm::ConnectionTrait;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    checkpoint::{self, Checkpoint},
    database::answered,
    epochs,
    error::Error,
    projector::{Applied, Projector},
};

/// How long an ended log is waited on at a time.
const QUIET: Duration = Duration::from_millis(500);

/// How long it may take until an ended log says that it has. Nothing coming does not say so: a copy that lags may
/// have been asked.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Events of a rewound log are new when stored after the checkpoint's, give or take this, or beyond where SQL left their epoch. Of
/// others, whose broker's clock may have been set back, those are that SQL has not and had not.
const SLACK: Duration = Duration::from_secs(10);

/// The checkpoint of a shard, in the epoch its log is in.
pub(crate) async fn settle(projector: &mut Projector, lease: &watch::Receiver<bool>) -> Result<Checkpoint, Error> {
    let shard = projector.shard;
    loop {
        let checkpoint = answered(checkpoint::load(projector.store.database(), shard)).await?;
        let state = match fenced_state(projector).await {
            Ok(state) => state,
            Err(BrokerError::NoLog(_)) => {
                if checkpoint.is_some() {
                    projector.metrics.rewound();
                    tracing::error!(shard = shard.0, "log_lost");
                }
                open(projector).await?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let Some(checkpoint) = checkpoint else {
            install(projector, state).await?;
            continue;
        };
        if state.epoch > checkpoint.position.epoch {
            let next = next_kept(projector, checkpoint.position.epoch, state.epoch).await?;
            epochs::learn(&projector.store, shard, next).await?;
            follow(projector, lease, &checkpoint, next).await?;
        } else if state.epoch == checkpoint.position.epoch && is_intact(projector, &checkpoint, state).await? {
            return Ok(checkpoint);
        } else {
            projector.metrics.rewound();
            tracing::error!(shard = shard.0, checkpoint = %checkpoint.position, epoch = %state.epoch, last = state.last, "log_rewound");
            let next = open(projector).await?;
            // Of the log as it was found, which may be in an epoch older than the checkpoint's.
            rescue(projector, lease, &checkpoint, state.epoch).await?;
            let next = next_kept(projector, checkpoint.position.epoch.max(state.epoch), next).await?;
            switch(projector, &checkpoint, next).await?;
        }
    }
}

/// How the log stands, as of a write that this process has seen stored. Right after an election, or
/// from a server that does not know yet that it leads no more, the log may look shorter than it is.
async fn fenced_state(projector: &Projector) -> Result<LogState, BrokerError> {
    // Of one that passes nothing on no fence comes back, and nobody would be told why.
    projector.broker.fit(projector.shard).await?;
    let fence = projector.broker.fence(projector.shard).await?;
    let state = projector.broker.log_state(projector.shard).await?;
    if state.epoch == fence.epoch && state.last < fence.seq {
        return Err(BrokerError::Unavailable("the log looks shorter than it is".to_owned()));
    }
    Ok(state)
}

/// Opens the next epoch.
async fn open(projector: &Projector) -> Result<Epoch, Error> {
    let epoch = epochs::allocate(&projector.store, &*projector.broker, projector.shard).await?;
    // A log whose epoch SQL has lost to a loss of power would be taken for another installation's.
    projector.store.sync().await?;
    projector.broker.open_epoch(projector.shard, epoch).await?;
    tracing::info!(shard = projector.shard.0, epoch = epoch.0, "epoch_opened");
    Ok(epoch)
}

/// The first checkpoint of a shard that SQL knows nothing of.
async fn install(projector: &Projector, state: LogState) -> Result<(), Error> {
    let store = &projector.store;
    // Whoever opens a log notes its epoch before.
    if !projector.without_history && !epochs::knows(store, state.epoch).await? {
        return Err(Error::NoHistory { shard: projector.shard.0, epoch: state.epoch, last: state.last });
    }
    let was_unknown = epochs::learn(store, projector.shard, state.epoch).await?;
    let is_first = epochs::first(store, projector.shard).await? == Some(state.epoch);
    // A log that this installation made has all its events; of another one the beginning is gone.
    let complete = !was_unknown && is_first && state.first <= 1;
    let before = Position::new(state.epoch, state.first.saturating_sub(1));
    let floor = if complete { Position::START } else { before };
    let checkpoint = Checkpoint { position: before, ..Checkpoint::before(state.epoch, floor) };
    let installed = async {
        let write = store.write().await?;
        // Another persister may have been first; then its checkpoint holds.
        checkpoint::advance(store, &write.transaction, projector.shard, None, &checkpoint).await?;
        write.commit().await
    };
    Ok(answered(installed).await?)
}

/// Whether the log still has the event at the checkpoint.
async fn is_intact(projector: &Projector, checkpoint: &Checkpoint, state: LogState) -> Result<bool, Error> {
    let position = checkpoint.position;
    // The copy of a log may end before what clients have seen of it: positions must not come again.
    if checkpoint.restored {
        return Ok(false);
    }
    if position.seq > state.last {
        // An eviction skipped over leaves a checkpoint just before the first event.
        return Ok(position.seq + 1 == state.first);
    }
    let Some(event) = checkpoint.event else { return Ok(true) };
    if position.seq < state.first {
        return Ok(true);
    }
    match projector.broker.get(projector.shard, position).await {
        Ok(Some(stored)) => Ok(stored.id == event),
        Ok(None) => {
            // Evicted since the state was read, or not there although it should be.
            let now = projector.broker.log_state(projector.shard).await?;
            if now.epoch == position.epoch && now.last < state.last {
                return Err(BrokerError::Unavailable("the log looks shorter than it is".to_owned()).into());
            }
            let state = now;
            Ok(state.epoch != position.epoch || position.seq < state.first)
        }
        Err(BrokerError::Evicted { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The first epoch after `old` that has a log, `current` at the latest. A database that was put back from a backup may be several
/// behind, and another persister may have opened one meanwhile.
async fn next_kept(projector: &Projector, old: Epoch, current: Epoch) -> Result<Epoch, Error> {
    let ended = projector.broker.ended(projector.shard).await?;
    Ok(ended.into_iter().find(|epoch| *epoch > old && *epoch < current).unwrap_or(current))
}

/// Another persister opened `next`: applies the rest of the old epoch, then goes on there.
async fn follow(projector: &mut Projector, lease: &watch::Receiver<bool>, checkpoint: &Checkpoint, next: Epoch) -> Result<(), Error> {
    let shard = projector.shard;
    let old = checkpoint.position.epoch;
    let Some((mut reader, after)) = open_reader(projector, checkpoint.position).await? else {
        // It was lost, and an older log may have been put back and have taken events until `next` was opened.
        for older in epochs::before(&projector.store, shard, old).await? {
            rescue(projector, lease, checkpoint, older).await?;
        }
        return switch(projector, checkpoint, next).await;
    };
    if after > checkpoint.position {
        return skip_evicted(projector, checkpoint, Position::new(after.epoch, after.seq + 1)).await;
    }
    let intact = match (checkpoint.event, projector.broker.get(shard, checkpoint.position).await) {
        (None, _) => true,
        (Some(event), Ok(Some(stored))) => stored.id == event,
        (
            Some(_),
            Ok(None) | Err(BrokerError::NoLog(_) | BrokerError::Epoch { .. } | BrokerError::Evicted { .. } | BrokerError::Refused(_)),
        ) => false,
        (Some(_), Err(error)) => return Err(error.into()),
    };
    if !intact {
        rescue(projector, lease, checkpoint, old).await?;
        return switch(projector, checkpoint, next).await;
    }
    let mut at = *checkpoint;
    while let Some(batch) = next_of_ended(&mut *reader).await? {
        match projector.apply(at, &batch).await {
            Applied::All(checkpoint) => at = checkpoint,
            // Whoever moved it goes on; look again.
            Applied::Elsewhere | Applied::Stopped => return Ok(()),
        }
    }
    switch(projector, &at, next).await
}

/// A reader of an ended epoch, and what it comes after, later than asked for where that was evicted; none where its log is gone.
async fn open_reader(projector: &Projector, after: Position) -> Result<Option<(Box<dyn LogReader>, Position)>, Error> {
    let mut after = after;
    for _ in 0..3 {
        match projector.broker.read(projector.shard, after).await {
            Ok(reader) => return Ok(Some((reader, after))),
            Err(BrokerError::Evicted { first, .. }) if first.epoch == after.epoch => after.seq = first.seq.saturating_sub(1),
            Err(error @ (BrokerError::Unavailable(_) | BrokerError::Busy)) => return Err(error.into()),
            Err(error) => {
                tracing::debug!(%error, shard = projector.shard.0, epoch = after.epoch.0, "no_such_log");
                return Ok(None);
            }
        }
    }
    Ok(None)
}

/// The next batch of an ended epoch; none at its end.
async fn next_of_ended(reader: &mut dyn LogReader) -> Result<Option<Vec<Stored>>, Error> {
    let deadline = Instant::now() + ENDS_WITHIN;
    loop {
        match reader.next_batch(1000, QUIET).await {
            Ok(batch) if !batch.is_empty() => return Ok(Some(batch)),
            Ok(_) if Instant::now() < deadline => {}
            Ok(_) => return Err(BrokerError::Unavailable("an ended log does not come to its end".to_owned()).into()),
            Err(BrokerError::Epoch { .. } | BrokerError::NoLog(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Publishes again what the rewound log of `epoch` has and SQL has not, but for what SQL had and deleted. What is in the way is waited for
/// while the lease holds: begun anew, it would store once more what is older than a broker remembers ids.
async fn rescue(projector: &Projector, lease: &watch::Receiver<bool>, checkpoint: &Checkpoint, epoch: Epoch) -> Result<(), Error> {
    // SQL may have gone on elsewhere in between, with newer events, while this log was away.
    let left_at = epochs::last_seq(&projector.store, epoch).await?;
    let mut rescue = Rescue { checkpoint, left_at, after: Position::new(epoch, 0), rescued: 0, left_out: 0 };
    while let Err(error) = rescue.go_on(projector).await {
        let passes = matches!(
            &error,
            Error::Database(_) | Error::Broker(BrokerError::Unavailable(_) | BrokerError::Busy | BrokerError::Evicted { .. })
        );
        if !passes || !*lease.borrow() {
            return Err(error);
        }
        tracing::warn!(%error, shard = projector.shard.0, after = %rescue.after, "rescue_waits");
        sleep(QUIET).await;
    }
    let Rescue { rescued, left_out, .. } = rescue;
    tracing::info!(shard = projector.shard.0, epoch = epoch.0, rescued, left_out, "rewound_log_read");
    Ok(())
}

/// How far the rescue of what a rewound log has is.
struct Rescue<'a> {
    checkpoint: &'a Checkpoint,
    /// The last event that SQL had of the log's epoch, if it has left that.
    left_at: Option<u64>,
    /// Up to here all is done.
    after: Position,
    rescued: usize,
    left_out: usize,
}

impl Rescue<'_> {
    async fn go_on(&mut self, projector: &Projector) -> Result<(), Error> {
        let Some((mut reader, from)) = open_reader(projector, self.after).await? else { return Ok(()) };
        if from < self.after {
            return Err(BrokerError::Unavailable("the log looks shorter than it is".to_owned()).into());
        }
        let (left_at, last_stored) = (self.left_at, self.checkpoint.stored_at);
        let is_new = |stored: &Stored| left_at.is_some_and(|seq| stored.position.seq > seq) || last_stored.since(stored.stored_at) < SLACK;
        while let Some(batch) = next_of_ended(&mut *reader).await? {
            let (lost, left_out) = projector.lost(&batch, self.checkpoint.floor, is_new).await?;
            for Stored { topic, id, payload, position, .. } in lost {
                let made_at = projector.broker.now();
                projector.broker.publish(Outgoing { topic, id, made_at, epoch: None, payload }).await?;
                self.after = position;
                self.rescued += 1;
            }
            self.left_out += left_out;
            self.after = batch.last().map_or(self.after, |last| last.position);
        }
        Ok(())
    }
}

/// Takes the checkpoint from the end of its epoch to the beginning of `next`.
async fn switch(projector: &mut Projector, from: &Checkpoint, next: Epoch) -> Result<(), Error> {
    projector.forget();
    let (store, shard) = (&projector.store, projector.shard);
    // When the last event was stored says what of another log is newer.
    let to = Checkpoint { stored_at: from.stored_at, ..Checkpoint::before(next, from.floor) };
    let moved = async {
        let write = store.write().await?;
        let moved = checkpoint::advance(store, &write.transaction, shard, Some(from.position), &to).await?;
        if moved {
            let (epoch, seq) = checkpoint::sql(from.position);
            let ended = store.statement("UPDATE epochs SET last_seq = ? WHERE epoch = ?", [seq.into(), epoch.into()]);
            write.transaction.execute_raw(ended).await?;
            write.commit().await?;
        } else {
            write.rollback().await?;
        }
        Ok(moved)
    };
    if answered(moved).await? {
        tracing::info!(shard = shard.0, from = %from.position, epoch = next.0, "epoch_switched");
    }
    Ok(())
}

/// Skips what was evicted before it was applied: the one loss that admission is to prevent.
pub(crate) async fn skip_evicted(projector: &mut Projector, from: &Checkpoint, first: Position) -> Result<(), Error> {
    let before = Position::new(first.epoch, first.seq.saturating_sub(1));
    tracing::error!(shard = projector.shard.0, from = %from.position, to = %before, "events_evicted_unapplied");
    projector.forget();
    let to = Checkpoint { position: before, event: None, stored_at: from.stored_at, floor: before, restored: false };
    let moved = async {
        let write = projector.store.write().await?;
        checkpoint::advance(&projector.store, &write.transaction, projector.shard, Some(from.position), &to).await?;
        write.commit().await
    };
    Ok(answered(moved).await?)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use natter_shared::{
        id::{EventId, InstanceId},
        subject::{Shard, Topic},
        timestamp::Timestamp,
    };
    use uuid::Uuid;

    use super::*;

    /// Reads what it is told to.
    struct Told(VecDeque<Result<Vec<Stored>, BrokerError>>);

    #[async_trait::async_trait]
    impl LogReader for Told {
        async fn next_batch(&mut self, _max: usize, wait: Duration) -> Result<Vec<Stored>, BrokerError> {
            match self.0.pop_front() {
                Some(read) => read,
                None => {
                    tokio::time::sleep(wait).await;
                    Ok(Vec::new())
                }
            }
        }
    }

    fn stored(seq: u64) -> Stored {
        Stored {
            topic: Topic::Canary(InstanceId(Uuid::nil())),
            position: Position::new(Epoch(1), seq),
            previous: 0,
            id: EventId(Uuid::nil()),
            made_at: Timestamp(0),
            stored_at: Timestamp(0),
            payload: Vec::new().into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_ended_log_is_read_until_it_says_so_though_nothing_may_come_meanwhile() {
        let (shard, ended) = (Shard(0), || Err(BrokerError::Epoch { shard: Shard(0), current: Epoch(2) }));
        let mut reader = Told([Ok(vec![stored(1)]), Ok(Vec::new()), Ok(vec![stored(2)]), ended()].into());
        for seq in [1, 2] {
            let batch = next_of_ended(&mut reader).await.unwrap().expect("more");
            assert_eq!(batch.iter().map(|stored| stored.position.seq).collect::<Vec<_>>(), [seq]);
        }
        assert!(next_of_ended(&mut reader).await.unwrap().is_none());
        let first = Position::new(Epoch(1), 7);
        for error in [Ok(Vec::new()), Err(BrokerError::Evicted { shard, first })] {
            let mut reader = Told([error].into());
            assert!(next_of_ended(&mut reader).await.is_err(), "that is no end");
        }
    }
}
