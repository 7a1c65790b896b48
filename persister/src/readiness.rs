//! Whether the persister can do its work: what `/readyz` says of it.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use natter_shared::{
    broker::{Broker, BrokerError},
    rpc::ShardPosition,
    subject::Shard,
};
use sea_orm::DbBackend;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint,
    database::{ANSWER, REACHED, Store, answered_within},
    lease::Leases,
    progress::Progress,
};

/// How much longer than a lease holds a shard may be nobody's.
const NOBODYS: Duration = Duration::from_secs(10);

/// What readiness is told by.
pub(crate) struct Readiness {
    /// Over the connection of the leases.
    pub(crate) store: Store,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) leases: Arc<Leases>,
    /// Whether calls come here.
    pub(crate) serving: watch::Receiver<bool>,
}

impl Readiness {
    /// Tells `ready`, and learns progress that no announcement brought, until `shutdown`.
    pub(crate) async fn watch(self, ready: watch::Sender<bool>, shutdown: CancellationToken) {
        let status = self.broker.status();
        // Since when all else is well, and whether it was said that a shard is nobody's.
        let (mut since, mut is_said) = (None, false);
        loop {
            let applied = answered_within(REACHED, checkpoint::positions(self.store.database())).await;
            let installed = applied.unwrap_or_default();
            for at in &installed {
                self.progress.heard(Shard(at.shard), at.position);
            }
            let connected = status.borrow().connected;
            let can = connected && *self.serving.borrow() && !installed.is_empty() && self.is_written_to();
            since = can.then(|| since.unwrap_or_else(Instant::now));
            let nobodys = self.nobodys();
            let waited = since.is_some_and(|since| since.elapsed() > self.patience());
            match nobodys {
                Some(shard) if waited && !std::mem::replace(&mut is_said, true) => tracing::warn!(
                    shard = shard.0,
                    "shard_is_nobodys: no persister works on it, and what is said in it does not come into the database. Its row in the \
                     table `leases` is another one's, who says nothing, and runs out at `until` (milliseconds, by the database's clock)"
                ),
                Some(_) => {}
                None => is_said = false,
            }
            let fit = if can { are_fit(&*self.broker).await } else { None };
            let now = can
                && nobodys.is_none()
                && match fit {
                    Some(false) => false,
                    // Once settled, a shard that changes its epoch keeps nothing waiting but itself.
                    _ if *ready.borrow() => true,
                    Some(true) => are_settled(&*self.broker, &installed).await,
                    None => false,
                };
            ready.send_if_modified(|ready| std::mem::replace(ready, now) != now);
            let pause = Duration::from_millis(if now || fit == Some(false) { 1000 } else { 100 });
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Whether the database was written to lately, and can be by what works on shards.
    fn is_written_to(&self) -> bool {
        let patience = match self.store.backend() {
            // A lease waits for the one writer, as all do, and nobody else could go on with the shards.
            DbBackend::Sqlite => ANSWER,
            _ => REACHED,
        };
        self.leases.reaches_work() && self.leases.was_confirmed_within(self.leases.ttl().max(patience))
    }

    /// How long a shard may be nobody's.
    fn patience(&self) -> Duration {
        self.leases.ttl() + NOBODYS
    }

    /// A shard that nobody works on, here or elsewhere.
    fn nobodys(&self) -> Option<Shard> {
        let mut shards = self.broker.shards().iter();
        shards.find(|shard| !self.leases.holds(*shard) && !self.progress.was_announced_within(*shard, self.patience()))
    }
}

/// Whether every shard's log is as it has to be: asked once for each connection and epoch. None: not all of them say, and none
/// that does is not.
async fn are_fit(broker: &dyn Broker) -> Option<bool> {
    let answers = join_all(broker.shards().iter().map(|shard| broker.fit(shard))).await;
    if answers.iter().any(|answer| matches!(answer, Err(BrokerError::Refused(_)))) {
        return Some(false);
    }
    answers.iter().all(Result::is_ok).then_some(true)
}

/// Whether every shard's log is in the epoch of its checkpoint.
async fn are_settled(broker: &dyn Broker, installed: &[ShardPosition]) -> bool {
    for shard in broker.shards().iter() {
        let Some(at) = installed.iter().find(|at| at.shard == shard.0) else { return false };
        match broker.log_state(shard).await {
            Ok(state) if state.epoch == at.position.epoch => {}
            Ok(_) | Err(_) => return false,
        }
    }
    true
}
