//! How far SQL is known to have come in each shard, from this process's own commits and from what
//! other persisters announce; and the announcing of our own.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use natter_shared::{
    broker::{Broker, Control},
    position::Position,
    rpc::ShardPosition,
    subject::Shard,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Announcements of one shard are at least this far apart.
const SPACING: Duration = Duration::from_millis(50);

/// And at most this far, so that who missed one learns soon.
const REPEAT: Duration = Duration::from_secs(1);

/// How far SQL is known to have come.
pub(crate) struct Progress {
    /// By anybody's word.
    known: Vec<watch::Sender<Position>>,
    /// By this process's own commits: what it announces.
    own: Vec<watch::Sender<Position>>,
    metrics: Metrics,
}

impl Progress {
    pub(crate) fn new(shards: u16, metrics: Metrics) -> Arc<Self> {
        let fresh = || (0..shards).map(|_| watch::Sender::new(Position::START)).collect();
        Arc::new(Self { known: fresh(), own: fresh(), metrics })
    }

    /// This process has committed, or read, the checkpoint `position`.
    pub(crate) fn committed(&self, shard: Shard, position: Position) {
        self.metrics.applied(shard, position);
        if let Some(own) = self.own.get(usize::from(shard.0)) {
            own.send_replace(position);
        }
        self.heard(shard, position);
    }

    /// Somebody says so.
    pub(crate) fn heard(&self, shard: Shard, position: Position) {
        if let Some(known) = self.known.get(usize::from(shard.0)) {
            known.send_if_modified(|at| {
                let news = position > *at;
                if news {
                    *at = position;
                }
                news
            });
        }
    }

    /// Waits until SQL is known to have come to `at`. False if not by `deadline`.
    pub(crate) async fn reached(&self, at: ShardPosition, deadline: tokio::time::Instant) -> bool {
        let Some(known) = self.known.get(usize::from(at.shard)) else { return false };
        let mut known = known.subscribe();
        let reached = known.wait_for(|position| *position >= at.position);
        matches!(tokio::time::timeout_at(deadline, reached).await, Ok(Ok(_)))
    }

    /// Announces this process's progress in `shard` until `shutdown`.
    pub(crate) async fn announce(self: Arc<Self>, broker: Arc<dyn Broker>, shard: Shard, shutdown: CancellationToken) {
        let Some(own) = self.own.get(usize::from(shard.0)) else { return };
        let mut own = own.subscribe();
        let mut told = Position::START;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = own.changed() => {}
                () = tokio::time::sleep(REPEAT) => {}
            }
            let position = *own.borrow_and_update();
            if position == Position::START {
                continue;
            }
            let control = Control::Applied { shard: shard.0, position };
            if let Err(error) = broker.announce(&control).await {
                tracing::debug!(%error, shard = shard.0, "announcement_failed");
            }
            if position != told {
                broker.applied(shard, position).await;
                told = position;
            }
            tokio::time::sleep(SPACING).await;
        }
    }

    /// Listens to what other persisters announce until `shutdown`.
    pub(crate) async fn listen(self: Arc<Self>, broker: Arc<dyn Broker>, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let mut controls = match broker.controls().await {
                Ok(controls) => controls,
                Err(error) => {
                    tracing::debug!(%error, "controls_unavailable");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    continue;
                }
            };
            loop {
                let control = tokio::select! {
                    () = shutdown.cancelled() => return,
                    control = controls.next() => control,
                };
                match control {
                    Some(Control::Applied { shard, position }) => self.heard(Shard(shard), position),
                    Some(Control::Epoch { .. }) => {}
                    None => break,
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
