//! Stores events: publishes into the shard's stream and waits for its ack.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::{Ack, BrokerError, Outgoing, window::Window},
    api::Api,
    clock::Clock,
    connect::Health,
    envelope::Labels,
    epochs::Epochs,
    exchange::ExchangeError,
    fence::Fence,
    gather::{Entry, Gather},
    stuck::Stuck,
    verdict::Verdict,
};
use crate::{
    position::Epoch,
    subject::{self, Shard, Shards, Space},
};

/// How long to leave the first copy before asking again.
const COPY_PAUSE: Duration = Duration::from_millis(50);
/// After so long it is found out whether the first copy is lost.
const LONG_IN_FLIGHT: Duration = Duration::from_millis(300);
/// How long a publish that was out when a new leader made itself known may take for its ack: it may have gone to the one
/// before, which is dead or cut off and never answers.
const ELECTED: Duration = Duration::from_millis(200);

/// The publishing side.
pub(super) struct Publisher {
    pub(super) gather: Gather,
    pub(super) epochs: Arc<Epochs>,
    pub(super) clock: Arc<Clock>,
    pub(super) health: Arc<Health>,
    pub(super) shards: Shards,
    pub(super) window: Window,
    pub(super) stuck: Stuck,
    pub(super) fences: Arc<Vec<Fence>>,
    /// What a leader is asked by.
    pub(super) api: Api,
    pub(super) timeout: Duration,
}

/// What a leader has said of a first copy.
struct InFlight {
    since: Instant,
    /// Which it was: how often there was another one, and of which epoch.
    leader: (u64, Option<Epoch>),
    /// Something is stored that was sent later. If it still says so, the copy is lost.
    is_lost: bool,
}

impl Publisher {
    pub(super) async fn publish(&self, event: Outgoing) -> Result<Ack, BrokerError> {
        let _room = self.window.enter(event.payload.len())?;
        if !self.gather.is_connected() {
            // Else it would go out on reconnect, however late.
            return Err(BrokerError::Unavailable("not connected".to_owned()));
        }
        if !self.clock.is_sure() {
            // Else it might be void by its stamp, though acknowledged.
            return Err(BrokerError::Unavailable("the broker's time is not known".to_owned()));
        }
        let shard = self.shards.of(event.topic);
        let deadline = Instant::now() + self.timeout;
        let mut status = self.health.watch();
        let mut in_flight: Option<InFlight> = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let overtaken = async {
                Health::new_leader(&mut status).await;
                tokio::time::sleep(ELECTED).await;
            };
            let answer = tokio::select! {
                answer = self.attempt(shard, &event, left) => Some(answer?),
                () = overtaken => None,
            };
            match answer {
                Some(Some(ack)) => return Ok(ack),
                Some(None) => self.doubt(shard, &mut in_flight, deadline).await,
                None => {}
            }
            tracing::debug!(%shard, event = %event.id, "publish_without_ack");
            if left <= COPY_PAUSE {
                return Err(BrokerError::Unavailable("the first copy is still in flight".to_owned()));
            }
            tokio::time::sleep(COPY_PAUSE).await;
        }
    }

    /// The leader says that the first copy is in flight: after a while it is found out whether that is lost, and what
    /// holds it is asked to hand over. A leader stores in the order in which it proposes, so a canary that was
    /// sent later and is stored has overtaken what is not.
    async fn doubt(&self, shard: Shard, in_flight: &mut Option<InFlight>, deadline: Instant) {
        let leader = (self.health.watch().borrow().leaders, self.epochs.known(shard).map(|current| current.epoch));
        match in_flight {
            Some(known) if known.leader == leader && known.is_lost => {
                if let Some(current) = self.epochs.known(shard) {
                    self.stuck.ask_to_step_down(shard, &current.stream, leader.0, &self.api, &self.health);
                }
            }
            Some(known) if known.leader == leader && known.since.elapsed() > LONG_IN_FLIGHT => {
                if let Some(fence) = self.fences.get(usize::from(shard.0)) {
                    known.is_lost = matches!(tokio::time::timeout_at(deadline, fence.wait()).await, Ok(Ok(_)));
                }
            }
            Some(known) if known.leader == leader => {}
            Some(_) | None => *in_flight = Some(InFlight { since: Instant::now(), leader, is_lost: false }),
        }
    }

    /// None: the first copy is in flight.
    async fn attempt(&self, shard: Shard, event: &Outgoing, left: Duration) -> Result<Option<Ack>, BrokerError> {
        let current = self.epochs.current(shard).await?;
        if current.may_take_batches() {
            self.epochs.look_up_soon(shard);
        }
        if event.epoch.is_some_and(|only| only != current.epoch) {
            return Err(BrokerError::Epoch { shard, current: current.epoch });
        }
        let subject = subject::subject(Space::Event, shard, event.topic);
        let entry = Entry { subject, labels: Labels::of(event), current, payload: event.payload.clone() };
        let verdict = match self.gather.store(shard, entry, left).await {
            Ok(verdict) => verdict,
            Err(ExchangeError::NoResponders) => {
                // No stream takes the subject, or its leader is away. Who could tell may be away too.
                self.epochs.look_up_soon(shard);
                return Err(BrokerError::Unavailable("no leader answers".to_owned()));
            }
            Err(ExchangeError::Refused(reason)) => return Err(BrokerError::Refused(reason)),
            Err(ExchangeError::Full) => return Err(BrokerError::Busy),
            Err(error @ (ExchangeError::Disconnected | ExchangeError::TimedOut)) => {
                return Err(BrokerError::Unavailable(error.to_string()));
            }
        };
        match verdict {
            Verdict::Stored(ack) => Ok(Some(ack)),
            Verdict::InFlight => Ok(None),
            Verdict::OtherStream => {
                let now = self.epochs.look_up(shard).await?;
                Err(BrokerError::Epoch { shard, current: now.epoch })
            }
            Verdict::Refused(reason) => Err(BrokerError::Refused(reason)),
            Verdict::NotNow(reason) => Err(BrokerError::Unavailable(reason)),
            Verdict::StoredTogether { .. } | Verdict::BatchWithCopy | Verdict::NoBatches => {
                Err(BrokerError::Unavailable("an ack of another's batch".to_owned()))
            }
        }
    }
}
