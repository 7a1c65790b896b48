//! Which epoch each shard is in, as far as this process knows: looked up by subject, kept, and
//! looked up again when the server contradicts it.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio::time::Instant;
use tracing::info;

use super::{
    super::{BrokerError, CLOCKS_DIFFER},
    api::Api,
    connect::Health,
};
use crate::{
    position::Epoch,
    subject::{self, Shard, Shards, Space},
};

/// A look-up that began so short a time ago answers for all who ask: many publishes may learn of a
/// change at once.
const FRESH: Duration = Duration::from_millis(50);

/// A shard's stream.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) epoch: Epoch,
    /// See [`CurrentEpoch::since`](super::super::CurrentEpoch::since).
    pub(super) since: Instant,
    pub(super) stream: String,
}

impl Current {
    fn new(shard: Shard, epoch: Epoch, since: Instant) -> Arc<Self> {
        let stream = subject::stream_name(shard, epoch);
        Arc::new(Self { epoch, since, stream })
    }
}

struct Slot {
    current: RwLock<Option<Arc<Current>>>,
    /// The last look-up; held while looking.
    looked: tokio::sync::Mutex<Looked>,
}

/// How a shard was looked up last. Who waited for it meanwhile takes its word, also that nobody answers:
/// else they would all wait for an answer, one after the other.
#[derive(Default)]
struct Looked {
    begun: Option<Instant>,
    failed: Option<BrokerError>,
}

/// The table of all shards.
pub(super) struct Epochs {
    api: Api,
    health: Arc<Health>,
    slots: Vec<Slot>,
}

impl Epochs {
    pub(super) fn new(api: Api, health: Arc<Health>, shards: Shards) -> Self {
        let slots = shards.iter().map(|_| Slot { current: RwLock::new(None), looked: tokio::sync::Mutex::default() }).collect();
        Self { api, health, slots }
    }

    fn slot(&self, shard: Shard) -> Result<&Slot, BrokerError> {
        self.slots.get(usize::from(shard.0)).ok_or(BrokerError::NoLog(shard))
    }

    /// What is known without asking.
    pub(super) fn known(&self, shard: Shard) -> Option<Arc<Current>> {
        self.slots.get(usize::from(shard.0))?.current.read().clone()
    }

    /// What is known, else what the server says.
    pub(super) async fn current(&self, shard: Shard) -> Result<Arc<Current>, BrokerError> {
        match self.known(shard) {
            Some(current) => Ok(current),
            None => self.look_up(shard).await,
        }
    }

    /// Asks the server, unless somebody just did.
    pub(super) async fn look_up(&self, shard: Shard) -> Result<Arc<Current>, BrokerError> {
        let now = Instant::now();
        self.look_up_since(shard, now.checked_sub(FRESH).unwrap_or(now)).await
    }

    /// Asks the server, whoever just did: for answers that must not be old.
    pub(super) async fn look_up_now(&self, shard: Shard) -> Result<Arc<Current>, BrokerError> {
        self.look_up_since(shard, Instant::now()).await
    }

    /// Asks the server without waiting for what it says: it may be some seconds until somebody answers.
    pub(super) fn look_up_soon(self: &Arc<Self>, shard: Shard) {
        // Else somebody asks already.
        if self.slot(shard).is_ok_and(|slot| slot.looked.try_lock().is_ok()) {
            let epochs = Arc::clone(self);
            tokio::spawn(async move {
                // Not known now: whoever needs it asks again.
                let _ = epochs.look_up(shard).await;
            });
        }
    }

    /// What a look-up says that began after `since`.
    async fn look_up_since(&self, shard: Shard, since: Instant) -> Result<Arc<Current>, BrokerError> {
        let mut looked = self.slot(shard)?.looked.lock().await;
        if looked.begun.is_none_or(|begun| begun < since) {
            let begun = Some(Instant::now());
            let failed = self.ask(shard).await.err();
            *looked = Looked { begun, failed };
        }
        match &looked.failed {
            Some(error) => Err(error.clone()),
            None => self.known(shard).ok_or(BrokerError::NoLog(shard)),
        }
    }

    async fn ask(&self, shard: Shard) -> Result<(), BrokerError> {
        let epochs = self.api.epochs_of(shard, &subject::all_of(Space::Event, shard)).await?;
        self.learn(shard, epochs.last().copied());
        Ok(())
    }

    /// Takes over what is certain; a look-up that is on its way has an older answer.
    pub(super) async fn settle(&self, shard: Shard, epoch: Epoch) -> Result<(), BrokerError> {
        let mut looked = self.slot(shard)?.looked.lock().await;
        self.learn(shard, Some(epoch));
        *looked = Looked { begun: Some(Instant::now()), failed: None };
        Ok(())
    }

    fn learn(&self, shard: Shard, epoch: Option<Epoch>) {
        let Ok(slot) = self.slot(shard) else { return };
        let before = {
            let mut current = slot.current.write();
            let before = current.as_ref().map(|current| current.epoch);
            if before != epoch {
                let since = Instant::now() + if before.is_some() { CLOCKS_DIFFER } else { Duration::ZERO };
                *current = epoch.map(|epoch| Current::new(shard, epoch, since));
            }
            before
        };
        if before != epoch {
            info!(%shard, from = before.map(|e| e.0), to = epoch.map(|e| e.0), "epoch_changed");
            // Interest stays, but what was stored around the change may not have come.
            if before.is_some() {
                self.health.raise_generation();
            }
        }
    }
}
