//! The task of one shard: waits for its lease, settles its log, then reads and projects for as long
//! as the lease holds.

use std::time::Duration;

use natter_shared::broker::{BrokerError, BrokerStatus};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use crate::{
    checkpoint::Checkpoint,
    error::Error,
    log,
    projector::{Applied, Projector},
};

/// From a commit to the next read, at least, unless the batch was full.
const GATHER: Duration = Duration::from_millis(5);

/// The same where nobody waits for what comes next: a commit costs as much as some tens of rows.
const GATHER_AT_EASE: Duration = Duration::from_millis(50);

/// How long a quiet log is waited on before lease and connection are looked at again.
const WAIT: Duration = Duration::from_millis(500);

/// What a shard's task needs to know beside its projector.
pub(crate) struct ShardTask {
    pub(crate) projector: Projector,
    pub(crate) lease: watch::Receiver<bool>,
    pub(crate) batch: usize,
    pub(crate) check_interval: Duration,
    /// Takes what no waiting helps against.
    pub(crate) refuse: mpsc::Sender<Error>,
}

impl ShardTask {
    /// Works until shut down.
    pub(crate) async fn run(mut self) {
        let shutdown = self.projector.shutdown.clone();
        let mut pause = Duration::from_millis(50);
        while !shutdown.is_cancelled() {
            let held = tokio::select! {
                () = shutdown.cancelled() => return,
                held = self.lease.wait_for(|held| *held) => held.is_ok(),
            };
            if !held {
                return;
            }
            let worked = tokio::select! {
                () = shutdown.cancelled() => return,
                worked = self.work() => worked,
            };
            self.projector.forget();
            if !*self.lease.borrow() {
                self.projector.metrics.left(self.projector.shard);
                self.projector.progress.left(self.projector.shard);
            }
            match worked {
                Ok(()) => pause = Duration::from_millis(50),
                Err(error @ Error::NoHistory { .. }) => {
                    // One is enough, whichever shard's.
                    let _ = self.refuse.try_send(error);
                    return shutdown.cancelled().await;
                }
                Err(error) => {
                    tracing::warn!(%error, shard = self.projector.shard.0, "shard_retried");
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = sleep(pause) => pause = (pause * 2).min(Duration::from_secs(2)),
                    }
                }
            }
        }
    }

    /// Projects until the lease, the log's epoch or the checkpoint is another.
    async fn work(&mut self) -> Result<(), Error> {
        let mut status = self.projector.broker.status();
        // What changes from here on is settled, and told, once more.
        let of = |status: &BrokerStatus| (status.generation, status.elections);
        let mut known = of(&status.borrow_and_update());
        let mut at = self.settle().await?;
        self.projector.tell_again(&at).await;
        let mut reader = self.projector.broker.read(self.projector.shard, at.position).await;
        let mut checked = Instant::now();
        let mut committed: Option<Instant> = None;
        while *self.lease.borrow() {
            let open = match &mut reader {
                Ok(open) => open,
                // Shorter than what was applied of it: settling finds out whether it was rewound, or only looks so.
                Err(BrokerError::Evicted { first, .. }) if *first <= at.position => {
                    return Err(BrokerError::Unavailable("the log looks shorter than it is".to_owned()).into());
                }
                Err(BrokerError::Evicted { first, .. }) => {
                    let first = *first;
                    return log::skip_evicted(&mut self.projector, &at, first).await;
                }
                Err(BrokerError::Epoch { .. }) => return Ok(()),
                Err(_) => return reader.map(drop).map_err(Error::from),
            };
            let current = of(&status.borrow());
            if current != known || checked.elapsed() > self.check_interval {
                let (generation, _) = std::mem::replace(&mut known, current);
                checked = Instant::now();
                let settled = self.settle().await?;
                if settled.position != at.position {
                    return Ok(());
                }
                if current.0 != generation {
                    self.projector.tell_again(&at).await;
                }
            }
            // Commits that follow each other at once are mostly their own cost: what comes meanwhile
            // goes with the next one.
            if let Some(committed) = committed.take() {
                tokio::time::sleep_until(committed + GATHER).await;
                tokio::select! {
                    () = self.projector.progress.wanted(self.projector.shard, at.position) => {}
                    () = tokio::time::sleep_until(committed + GATHER_AT_EASE) => {}
                }
            }
            match open.next_batch(self.batch, WAIT).await {
                Ok(batch) if batch.is_empty() => {}
                Ok(batch) => match self.projector.apply(at, &batch).await {
                    Applied::All(checkpoint) => {
                        at = checkpoint;
                        // Of a full one the rest is there already.
                        committed = (batch.len() < self.batch).then(Instant::now);
                    }
                    Applied::Elsewhere | Applied::Stopped => return Ok(()),
                },
                // All of the epoch was returned, and so applied: settling goes on in the next one.
                Err(BrokerError::Epoch { .. }) => return Ok(()),
                Err(error @ BrokerError::Evicted { .. }) => reader = Err(error),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<Checkpoint, Error> {
        let at = log::settle(&mut self.projector, &self.lease).await?;
        self.projector.progress.committed(self.projector.shard, &at);
        Ok(at)
    }
}
