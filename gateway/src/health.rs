//! Whether the path behind the gateway works: a canary event of its own goes all the way (stored,
//! republished, back here) in every shard every few seconds, and the persister is heard.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use natter_shared::{
    broker::{Broker, Control, hear},
    subject::Shard,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    knowledge::{self, Knowledge},
    metrics::Metrics,
};

/// How often a canary is sent where all is well.
/// [`crate::knowledge`] lives on it.
const EVERY: Duration = Duration::from_secs(2);

/// How often until it first comes back, and after it did not.
const RETRY: Duration = Duration::from_millis(500);

/// How old the last sign of life may be.
const FRESH: Duration = Duration::from_secs(15);

/// Signs of life of what is behind.
#[derive(Default)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    canaries: Vec<Option<Instant>>,
    persister: Option<Instant>,
    connected: bool,
    leaving: bool,
}

impl Health {
    /// What is missing, named as `/readyz` tells it.
    pub fn missing(&self) -> Vec<&'static str> {
        let fresh = |at: &Option<Instant>| at.is_some_and(|at| at.elapsed() < FRESH);
        let state = self.state.lock();
        let mut missing = Vec::new();
        if !state.connected {
            missing.push("broker");
        }
        if state.canaries.is_empty() || !state.canaries.iter().all(fresh) {
            missing.push("streams");
        }
        if !fresh(&state.persister) {
            missing.push("persister");
        }
        if state.leaving {
            missing.push("draining");
        }
        missing
    }

    /// The process is on its way out: not ready any more.
    pub fn leave(&self) {
        self.state.lock().leaving = true;
    }

    /// Watches all of it until `stop`.
    pub async fn watch(&self, broker: &dyn Broker, metrics: &Metrics, knowledge: &Knowledge, stop: CancellationToken) {
        let shards = broker.shards();
        self.state.lock().canaries = vec![None; usize::from(shards.count())];
        let canaries = futures::future::join_all(shards.iter().map(|shard| self.probe(broker, metrics, knowledge, shard)));
        tokio::select! {
            () = stop.cancelled() => {}
            _ = canaries => {}
            () = self.hear_persister(broker) => {}
            () = self.watch_connection(broker) => {}
        }
    }

    async fn probe(&self, broker: &dyn Broker, metrics: &Metrics, knowledge: &Knowledge, shard: Shard) {
        loop {
            let (begun, losses) = (Instant::now(), knowledge::losses(broker));
            let pause = match broker.fence(shard).await {
                Ok(position) => {
                    // Lost on the way, the canary proves nothing.
                    if knowledge::losses(broker) == losses {
                        knowledge.canary(shard, begun, position, losses);
                    }
                    metrics.canary(shard.0, begun.elapsed().as_secs_f64());
                    metrics.stored_together(broker.stored_together());
                    if let Some(slot) = self.state.lock().canaries.get_mut(usize::from(shard.0)) {
                        *slot = Some(Instant::now());
                    }
                    EVERY
                }
                Err(error) => {
                    tracing::debug!(%shard, %error, "canary_lost");
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn hear_persister(&self, broker: &dyn Broker) {
        hear(broker, |control| match control {
            Control::Applied { .. } => self.state.lock().persister = Some(Instant::now()),
            Control::Epoch { shard, epoch } => tracing::info!(shard, %epoch, "epoch_opened"),
            Control::Standings { .. } | Control::Gateway { .. } => {}
        })
        .await;
    }

    async fn watch_connection(&self, broker: &dyn Broker) {
        let mut status = broker.status();
        loop {
            self.state.lock().connected = status.borrow_and_update().connected;
            if status.changed().await.is_err() {
                return;
            }
        }
    }
}
