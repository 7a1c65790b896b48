//! Which epoch each shard is in, as far as this process knows: looked up by subject, kept, and
//! looked up again when the server contradicts it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::{task::JoinHandle, time::Instant};
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

/// How long a look-up of an epoch that was not known waits for what its stream takes. Who does not say so has no leader, and
/// takes nothing anyway.
const CONFIG_WITHIN: Duration = Duration::from_millis(200);

/// Before a stream that takes no batches is asked again: its config may be another by then.
const ASK_AGAIN: Duration = Duration::from_mins(1);

/// Before one that did not answer is.
const UNANSWERED: Duration = Duration::from_secs(1);

/// A shard's stream.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) epoch: Epoch,
    /// See [`CurrentEpoch::since`](super::super::CurrentEpoch::since).
    pub(super) since: Instant,
    pub(super) stream: String,
    takes_batches: AtomicBool,
    /// When it is asked whether it does, unless it does.
    ask_at: Mutex<Instant>,
}

impl Current {
    pub(super) fn new(shard: Shard, epoch: Epoch, since: Instant) -> Self {
        let stream = subject::stream_name(shard, epoch);
        Self { epoch, since, stream, takes_batches: AtomicBool::new(false), ask_at: Mutex::new(Instant::now()) }
    }

    /// Whether the stream stores atomic batches, as far as is known.
    pub(super) fn takes_batches(&self) -> bool {
        self.takes_batches.load(Ordering::Relaxed)
    }

    /// Takes over whether it does. None: it was asked and did not say.
    pub(super) fn tell(&self, takes_batches: Option<bool>) {
        if let Some(takes_batches) = takes_batches {
            self.takes_batches.store(takes_batches, Ordering::Relaxed);
        }
        let pause = if takes_batches.is_some() { ASK_AGAIN } else { UNANSWERED };
        *self.ask_at.lock() = Instant::now() + pause;
    }

    /// Whether it is time to look whether it does by now: who is told so does, and nobody else meanwhile.
    pub(super) fn is_due(&self) -> bool {
        if self.takes_batches() {
            return false;
        }
        let (now, mut ask_at) = (Instant::now(), self.ask_at.lock());
        let is_due = *ask_at <= now;
        if is_due {
            *ask_at = now + ASK_AGAIN;
        }
        is_due
    }
}

#[derive(Default)]
struct Slot {
    known: RwLock<Known>,
    /// The last look-up; held while looking.
    looked: tokio::sync::Mutex<Looked>,
}

/// What the server said last.
#[derive(Default)]
struct Known {
    /// None: there is no log, or nobody has asked.
    current: Option<Arc<Current>>,
    /// The last there was. Between two epochs there may be none for a while.
    last: Option<Arc<Current>>,
}

impl Known {
    /// Takes over the epoch.
    fn learn(&mut self, shard: Shard, epoch: Option<Epoch>) {
        self.current = epoch.map(|epoch| match &self.last {
            Some(last) if last.epoch == epoch => Arc::clone(last),
            Some(_) => Arc::new(Current::new(shard, epoch, Instant::now() + AFTER_CHANGE)),
            None => Arc::new(Current::new(shard, epoch, Instant::now())),
        });
        if let Some(current) = &self.current {
            self.last = Some(Arc::clone(current));
        }
    }
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
        let slots = shards.iter().map(|_| Slot::default()).collect();
        Self { api, health, slots }
    }

    fn slot(&self, shard: Shard) -> Result<&Slot, BrokerError> {
        self.slots.get(usize::from(shard.0)).ok_or(BrokerError::NoLog(shard))
    }

    /// What is known without asking.
    pub(super) fn known(&self, shard: Shard) -> Option<Arc<Current>> {
        self.slots.get(usize::from(shard.0))?.known.read().current.clone()
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

    /// Asks the server, also what the stream takes, whatever is known: it may be another store by now, or another config.
    pub(super) async fn look_again(&self, shard: Shard) {
        // No log yet, or away again: whoever needs it asks again.
        if let Ok(current) = self.look_up_now(shard).await {
            drop(self.ask_what_it_takes(current));
        }
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
        let current = self.learn(shard, epochs.last().copied());
        if let Some(current) = current.filter(|current| current.is_due()) {
            // Not told in time: it comes later.
            let _ = tokio::time::timeout(CONFIG_WITHIN, self.ask_what_it_takes(current)).await;
        }
        Ok(())
    }

    /// Asks the server for the stream's config, however long that takes; what it does not say leaves what is known.
    pub(super) fn ask_what_it_takes(&self, current: Arc<Current>) -> JoinHandle<()> {
        let api = self.api.clone();
        tokio::spawn(async move {
            let told = api.stream_info(&current.stream).await;
            current.tell(told.ok().map(|info| info.takes_batches()));
        })
    }

    /// Takes over what is certain; a look-up that is on its way has an older answer.
    pub(super) async fn settle(&self, shard: Shard, epoch: Epoch, takes_batches: bool) -> Result<(), BrokerError> {
        let mut looked = self.slot(shard)?.looked.lock().await;
        if let Some(current) = self.learn(shard, Some(epoch)) {
            current.tell(Some(takes_batches));
        }
        *looked = Looked { begun: Some(Instant::now()), failed: None };
        Ok(())
    }

    /// Takes over the epoch.
    fn learn(&self, shard: Shard, epoch: Option<Epoch>) -> Option<Arc<Current>> {
        let slot = self.slot(shard).ok()?;
        let (before, current) = {
            let mut known = slot.known.write();
            let before = known.current.as_ref().map(|current| current.epoch);
            known.learn(shard, epoch);
            (before, known.current.clone())
        };
        if before != epoch {
            info!(%shard, from = before.map(|e| e.0), to = epoch.map(|e| e.0), "epoch_changed");
            // Interest stays, but what was stored around the change may not have come.
            if before.is_some() {
                self.health.raise_generation();
            }
        }
        current
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_epoch_that_follows_another_has_its_slack_also_where_there_was_none_between() {
        let mut known = Known::default();
        let mut learn = |epoch: Option<u32>| {
            known.learn(Shard(0), epoch.map(Epoch));
            known.current.as_ref().map(|current| current.since)
        };
        let first = learn(Some(1));
        assert_eq!(first, Some(Instant::now()), "what was before is not known");
        advance(SECOND).await;
        assert_eq!(learn(Some(1)), first);
        assert_eq!(learn(None), None);
        advance(SECOND).await;
        assert_eq!(learn(Some(1)), first, "it was away, and is the same");
        assert_eq!(learn(None), None);
        assert_eq!(learn(Some(2)), Some(Instant::now() + AFTER_CHANGE));
        assert_eq!(learn(Some(3)), Some(Instant::now() + AFTER_CHANGE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_asked_again_soon_where_it_did_not_say_what_it_takes() {
        let current = Current::new(Shard(0), Epoch(1), Instant::now());
        assert!(current.is_due());
        assert!(!current.is_due(), "it is asked already");
        current.tell(None);
        for (told, pause) in [(None, UNANSWERED), (Some(false), UNANSWERED), (None, ASK_AGAIN)] {
            assert!(!current.is_due() && !current.takes_batches());
            advance(pause).await;
            assert!(current.is_due());
            current.tell(told);
        }
        current.tell(Some(true));
        current.tell(None);
        assert!(current.takes_batches(), "what is known stays");
        advance(ASK_AGAIN).await;
        assert!(!current.is_due());
        current.tell(Some(false));
        assert!(!current.takes_batches(), "another config by now");
    }
}
