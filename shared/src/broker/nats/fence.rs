//! Fences and probes: canary events of our own, stored and waited for on the subscribing
//! connection. One canary serves everybody who waited when it was sent, and each tells the broker's
//! time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    super::{BrokerError, Outgoing},
    clock::Clock,
    connect::Health,
    envelope::{self, Canary, Labels},
    epochs::Epochs,
    link::{Follower, Link, Publication},
    pace::{Pace, TRAIN, Train},
};
use crate::{
    event::Event,
    id::{EventId, InstanceId},
    position::Position,
    subject::{self, Shard, Space, Topic},
    timestamp::Timestamp,
};

/// How long callers are gathered before a canary is sent for all of them.
const GATHER: Duration = Duration::from_millis(5);
/// A canary may be lost (a dying leader skips a republish); then another is sent.
const RESEND: Duration = Duration::from_secs(1);
/// Before another is sent where a stream's new leader makes itself known.
const ELECTED: Duration = Duration::from_millis(50);
/// A fence not reached by then fails.
const GIVE_UP: Duration = Duration::from_secs(5);

/// How long the rest of a train is waited for, by which a next fence is late. Where storing takes longer than that, nothing is known
/// of it, and nothing done about it.
const TRAIN_ENDS: Duration = Duration::from_millis(300);

type Waiter = oneshot::Sender<Result<Position, BrokerError>>;

/// The last canary that came back.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// When, in the broker's time.
    pub at: Timestamp,
    /// From sending to live delivery.
    pub latency: Duration,
    /// Where it is stored.
    pub position: Position,
}

/// One shard's fences.
pub(super) struct Fence {
    waiters: mpsc::Sender<Waiter>,
    last: Arc<Mutex<Option<Probe>>>,
    clock: Arc<Clock>,
}

/// What a canary goes through, and what learns from it.
#[derive(Clone)]
pub(super) struct Prober {
    pub(super) instance: InstanceId,
    /// The connection that delivers live.
    pub(super) live: Link,
    pub(super) clock: Arc<Clock>,
    pub(super) health: Arc<Health>,
    pub(super) epochs: Arc<Epochs>,
}

/// What sends the canaries of a shard.
struct Canaries {
    prober: Prober,
    shard: Shard,
    pace: Arc<Pace>,
    returned: Follower<Canary>,
    payload: Bytes,
    last: Arc<Mutex<Option<Probe>>>,
    /// What is out to learn the shard's [`Pace`].
    train: Option<Train>,
    /// Which connection that was learnt over.
    connects: u64,
}

impl Fence {
    pub(super) fn start(shard: Shard, pace: Arc<Pace>, prober: Prober, stop: CancellationToken) -> Self {
        let topic = Topic::Canary(prober.instance);
        let returned = prober.live.subscribe(subject::subject(Space::Live, shard, topic), envelope::canary);
        let payload = Event::Canary.encode().unwrap_or_default();
        let last = Arc::new(Mutex::new(None));
        // More callers than this wait for a place in the queue: a fence takes milliseconds.
        let (waiters, queue) = mpsc::channel(4096);
        let clock = Arc::clone(&prober.clock);
        let canaries = Canaries { prober, shard, pace, returned, payload, last: Arc::clone(&last), train: None, connects: 0 };
        tokio::spawn(async move {
            tokio::select! {
                () = canaries.run(queue) => {}
                () = stop.cancelled() => {}
            }
        });
        Self { waiters, last, clock }
    }

    pub(super) async fn wait(&self) -> Result<Position, BrokerError> {
        let gone = || BrokerError::Unavailable("shutting down".to_owned());
        let (sender, answer) = oneshot::channel();
        self.waiters.send(sender).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Waits for a canary, unless one came back within `interval`: a gateway's own health check sends
    /// them too.
    async fn probe(&self, interval: Duration) -> Result<(), BrokerError> {
        let recent = self.last_probe().is_some_and(|probe| self.clock.now().since(probe.at) < interval);
        if recent { Ok(()) } else { self.wait().await.map(drop) }
    }

    pub(super) fn last_probe(&self) -> Option<Probe> {
        *self.last.lock()
    }
}

impl Canaries {
    async fn run(mut self, mut queue: mpsc::Receiver<Waiter>) {
        while let Some(first) = queue.recv().await {
            tokio::time::sleep(GATHER).await;
            let mut waiters = vec![first];
            while let Ok(next) = queue.try_recv() {
                waiters.push(next);
            }
            let reached = self.reach().await;
            for waiter in waiters {
                // It may have given up meanwhile.
                let _ = waiter.send(reached.clone());
            }
            if tokio::time::timeout(TRAIN_ENDS, self.rest_of_train()).await.is_err() {
                self.train = None;
            }
        }
    }

    /// Sends canaries until one of them comes back live.
    async fn reach(&mut self) -> Result<Position, BrokerError> {
        if !self.prober.live.is_connected() {
            return Err(BrokerError::Unavailable("not connected".to_owned()));
        }
        let mut status = self.prober.health.watch();
        let give_up = Instant::now() + GIVE_UP;
        let mut sent: Vec<(EventId, i64)> = Vec::with_capacity(1);
        while Instant::now() < give_up {
            self.prober.epochs.current(self.shard).await?;
            sent.push(self.send()?);
            let mut resend = (Instant::now() + RESEND).min(give_up);
            loop {
                let canary = tokio::select! {
                    canary = tokio::time::timeout_at(resend, self.returned.next()) => canary,
                    () = Health::new_leader(&mut status) => {
                        resend = resend.min(Instant::now() + ELECTED);
                        continue;
                    }
                };
                let Ok(canary) = canary else { break };
                let canary = canary.ok_or_else(|| BrokerError::Unavailable("connection closed".to_owned()))?;
                let received = self.prober.clock.steady();
                let Canary { id, position, stored_at_micros: stored } = canary;
                self.measure(&canary);
                // One from an earlier, abandoned round proves nothing for this one.
                let Some((_, at)) = sent.iter().find(|(sent, _)| *sent == id) else { continue };
                self.prober.clock.observe(*at, received, stored);
                self.prober.health.set_clock_known();
                let latency = Duration::from_micros(u64::try_from(received - at).unwrap_or_default());
                *self.last.lock() = Some(Probe { at: self.prober.clock.now(), latency, position });
                return Ok(position);
            }
            // The advisory of a new leader may be lost like anything else.
            self.prober.health.note_election();
            // Perhaps there is no stream any more.
            self.prober.epochs.look_up_soon(self.shard);
        }
        Err(BrokerError::Unavailable("the canary did not come back".to_owned()))
    }

    /// Sends one, and now and then others right after it.
    fn send(&mut self) -> Result<(EventId, i64), BrokerError> {
        let topic = Topic::Canary(self.prober.instance);
        let subject = subject::subject(Space::Event, self.shard, topic);
        let connects = self.prober.live.connects();
        if std::mem::replace(&mut self.connects, connects) != connects {
            self.pace.forget();
        }
        let is_train = self.pace.is_due(Instant::now());
        let made_at = self.prober.clock.now();
        let first = EventId::random();
        let others = (1..TRAIN).take_while(|_| is_train).map(|_| EventId::random());
        let ids: Vec<EventId> = std::iter::once(first).chain(others).collect();
        let canary = |&id: &EventId| Outgoing { topic, id, made_at, epoch: None, payload: self.payload.clone() };
        let labels: Vec<Labels> = ids.iter().map(|id| Labels::of(&canary(id))).collect();
        let headers: Vec<_> = labels.iter().map(Labels::headers).collect();
        let of = |headers| Publication { subject: &subject, reply: None, headers, payload: &self.payload };
        let at = self.prober.clock.steady();
        self.prober.live.publish(headers.iter().map(|headers| of(headers)))?;
        if is_train {
            self.pace.begin(Instant::now());
        }
        // Of one that is not through by now something is lost.
        self.train = is_train.then(|| Train::new(ids));
        Ok((first, at))
    }

    async fn rest_of_train(&mut self) {
        while self.train.is_some()
            && let Some(canary) = self.returned.next().await
        {
            self.measure(&canary);
        }
    }

    /// Learns how long one event takes to be stored, when the last of a train has come.
    fn measure(&mut self, canary: &Canary) {
        let train = self.train.take_if(|train| train.came(canary));
        if let Some(least) = train.and_then(|train| train.least()) {
            debug!(shard = %self.shard, ?least, "storing_measured");
            self.pace.learn(least);
        }
    }
}

/// Probes all shards for ever: often until the clock is known, then those that nobody else has probed
/// for an `interval`.
pub(super) async fn probe_all(fences: Arc<Vec<Fence>>, health: Arc<Health>, interval: Duration, stop: CancellationToken) {
    let eager = Duration::from_millis(200).min(interval);
    loop {
        let all = futures::future::join_all(fences.iter().map(|fence| fence.probe(interval)));
        let results = tokio::select! {
            results = all => results,
            () = stop.cancelled() => return,
        };
        for (shard, error) in results.iter().enumerate().filter_map(|(shard, r)| Some((shard, r.as_ref().err()?))) {
            debug!(shard, %error, "probe_failed");
        }
        let pause = if health.clock_known() { interval } else { eager };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}
