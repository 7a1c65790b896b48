//! Which epoch each shard is in, as far as this process knows: looked up by subject, kept, and
//! looked up again when the server contradicts it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use tokio::time::Instant;
use tracing::info;

use super::{
    super::{AFTER_CHANGE, BrokerError},
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

/// How long a look-up waits for what it is told of the stream it found. Who does not say so has no leader, and takes nothing anyway.
const CONFIG_WITHIN: Duration = Duration::from_millis(200);

/// Before a stream that seems to take no batches is asked again: its config may be another, or it did not answer.
const ASK_AGAIN: Duration = Duration::from_mins(1);

/// A shard's stream.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) epoch: Epoch,
    /// See [`CurrentEpoch::since`](super::super::CurrentEpoch::since).
    pub(super) since: Instant,
    pub(super) stream: String,
    takes_batches: AtomicBool,
    asked: Instant,
}

impl Current {
    pub(super) fn new(shard: Shard, epoch: Epoch, since: Instant, takes_batches: bool) -> Self {
        let stream = subject::stream_name(shard, epoch);
        Self { epoch, since, stream, takes_batches: takes_batches.into(), asked: Instant::now() }
    }

    /// Whether the stream stores atomic batches, as far as is known.
    pub(super) fn takes_batches(&self) -> bool {
        self.takes_batches.load(Ordering::Relaxed)
    }

    /// The stream has refused one.
    pub(super) fn refuses_batches(&self) {
        self.takes_batches.store(false, Ordering::Relaxed);
    }

    /// Whether it is time to look whether it does by now.
    pub(super) fn may_take_batches(&self) -> bool {
        !self.takes_batches() && self.asked.elapsed() > ASK_AGAIN
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
        let now = match epochs.last() {
            Some(&epoch) => Some((epoch, self.takes_batches(shard, epoch).await)),
            None => None,
        };
        self.learn(shard, now);
        Ok(())
    }

    async fn takes_batches(&self, shard: Shard, epoch: Epoch) -> bool {
        if self.known(shard).is_some_and(|current| current.epoch == epoch && current.takes_batches()) {
            return true;
        }
        let stream = subject::stream_name(shard, epoch);
        let told = tokio::time::timeout(CONFIG_WITHIN, self.api.stream_info(&stream)).await;
        matches!(told, Ok(Ok(info)) if info.takes_batches())
    }

    /// Takes over what is certain; a look-up that is on its way has an older answer.
    pub(super) async fn settle(&self, shard: Shard, epoch: Epoch, takes_batches: bool) -> Result<(), BrokerError> {
        let mut looked = self.slot(shard)?.looked.lock().await;
        self.learn(shard, Some((epoch, takes_batches)));
        *looked = Looked { begun: Some(Instant::now()), failed: None };
        Ok(())
    }

    /// Takes over the epoch, and whether its stream takes batches.
    fn learn(&self, shard: Shard, now: Option<(Epoch, bool)>) {
        let Ok(slot) = self.slot(shard) else { return };
        let epoch = now.map(|(epoch, _)| epoch);
        let before = {
            let mut current = slot.current.write();
            let before = current.as_ref().map(|current| current.epoch);
            let since = match &*current {
                Some(current) if Some(current.epoch) == epoch => current.since,
                Some(_) => Instant::now() + AFTER_CHANGE,
                None => Instant::now(),
            };
            *current = now.map(|(epoch, takes_batches)| Arc::new(Current::new(shard, epoch, since, takes_batches)));
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
