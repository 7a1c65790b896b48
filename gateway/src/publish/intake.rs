//! Admission of events: a shard whose log is mostly not in SQL yet takes no more of what users ask
//! for, so that its stream never evicts what is nowhere else.
//!
//! The persister measures and announces; where none is heard (it died, or is of an older release) the
//! gateway looks by itself how the log stands against the last position it heard of. So chat goes on
//! without a persister for as long as there is room, and no longer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, future::join_all};
use natter_shared::{
    broker::{Broker, BrokerError, Control, Meter, Unapplied},
    position::Position,
    subject::{Shard, Shards},
    timestamp::Timestamp,
};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Between two looks at who was silent.
const LOOK: Duration = Duration::from_secs(1);

/// A measure older than this is taken anew by ourselves.
const SILENT: Duration = Duration::from_secs(5);

/// From this part on at every look: what is left may fill quickly.
const WORRYING: f64 = 0.5;

/// Without any measure for so long a shard takes nothing: longer than NATS or a persister take to come
/// back, shorter than a stream takes to fill at full speed.
const UNKNOWN: Duration = Duration::from_mins(1);

/// Between two tries to hear the persister.
const RETRY: Duration = Duration::from_millis(500);

/// Which shards take events.
pub struct Intake {
    shards: Vec<AtomicBool>,
    metrics: Arc<Metrics>,
}

/// What is known of a shard.
struct Known {
    applied: Option<Position>,
    /// When the event at `applied` was stored, if looked up.
    applied_at: Option<Timestamp>,
    measured: Instant,
    /// What was measured.
    ratio: f64,
    /// Nobody announces: we measured last.
    by_ourselves: bool,
    meter: Meter,
}

impl Intake {
    /// All of them do until more is known.
    pub fn new(shards: Shards, metrics: Arc<Metrics>) -> Self {
        Self { shards: shards.iter().map(|_| AtomicBool::new(true)).collect(), metrics }
    }

    /// Whether `shard` takes what a user asks for.
    pub fn admits(&self, shard: Shard) -> bool {
        self.shards.get(usize::from(shard.0)).is_some_and(|admits| admits.load(Ordering::Relaxed))
    }

    /// What is counted of refusals.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn set(&self, shard: usize, admits: bool) {
        let Some(slot) = self.shards.get(shard) else { return };
        if slot.swap(admits, Ordering::Relaxed) != admits {
            if admits {
                tracing::info!(shard, "shard_takes_events_again");
            } else {
                tracing::error!(shard, "shard_takes_no_events: too much of its log is not in SQL");
            }
        }
    }

    fn learn(&self, shard: usize, unapplied: Unapplied) {
        let before = self.shards.get(shard).is_some_and(|admits| admits.load(Ordering::Relaxed));
        self.metrics.unapplied(shard, unapplied.ratio());
        self.set(shard, unapplied.admits(before));
    }

    /// Follows what is announced, and looks by itself where nobody announces, until `stop`.
    pub async fn watch(&self, broker: Arc<dyn Broker>, stop: CancellationToken) {
        // Whatever it waits for: a broker that is away may take longer to say so than a process has to stop.
        stop.run_until_cancelled(self.follow(&*broker)).await;
    }

    async fn follow(&self, broker: &dyn Broker) {
        let fresh = |_| Known {
            applied: None,
            applied_at: None,
            measured: Instant::now(),
            ratio: 0.0,
            by_ourselves: false,
            meter: Meter::default(),
        };
        let mut known: Vec<Known> = (0..self.shards.len()).map(fresh).collect();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut controls = None;
        loop {
            if controls.is_none() {
                controls = broker.controls().await.ok();
            }
            let next = async {
                match &mut controls {
                    Some(controls) => controls.next().await,
                    None => {
                        tokio::time::sleep(RETRY).await;
                        None
                    }
                }
            };
            tokio::select! {
                control = next => match control {
                    Some(Control::Applied { shard, position, unapplied }) => self.hear(&mut known, shard, position, unapplied),
                    Some(Control::Epoch { .. } | Control::Standings { .. } | Control::Gateway { .. }) => {}
                    None => controls = None,
                },
                _ = look.tick() => self.look(broker, &mut known).await,
            }
        }
    }

    fn hear(&self, known: &mut [Known], shard: u16, position: Position, unapplied: Option<Unapplied>) {
        let shard = usize::from(shard);
        let Some(known) = known.get_mut(shard) else { return };
        // The last word counts, even if it goes back: a database restored from a backup does.
        if known.applied.replace(position) != Some(position) {
            known.applied_at = None;
        }
        if let Some(unapplied) = unapplied {
            (known.measured, known.by_ourselves) = (Instant::now(), false);
            self.learn(shard, unapplied);
        }
    }

    async fn look(&self, broker: &dyn Broker, known: &mut [Known]) {
        // At once: one that is away takes its time to say so.
        join_all(broker.shards().iter().zip(known).map(|(shard, known)| self.look_at(broker, shard, known))).await;
    }

    async fn look_at(&self, broker: &dyn Broker, shard: Shard, known: &mut Known) {
        if known.measured.elapsed() < SILENT && !(known.by_ourselves && known.ratio > WORRYING) {
            return;
        }
        match known.measure(broker, shard).await {
            Ok(Some(unapplied)) => self.learn(usize::from(shard.0), unapplied),
            Ok(None) | Err(_) if known.measured.elapsed() > UNKNOWN => self.set(usize::from(shard.0), false),
            Ok(None) => {}
            Err(error) => tracing::debug!(%shard, %error, "log_not_measured"),
        }
    }
}

impl Known {
    /// None where no position was ever heard of.
    async fn measure(&mut self, broker: &dyn Broker, shard: Shard) -> Result<Option<Unapplied>, BrokerError> {
        let Some(applied) = self.applied else { return Ok(None) };
        let size = broker.log_size(shard).await?;
        let applied_at = match self.applied_at {
            Some(at) => at,
            // No longer there, or the beginning of an epoch: what is there is as old as its first.
            None => broker.get(shard, applied).await?.map(|stored| stored.stored_at).unwrap_or_default(),
        };
        self.applied_at = Some(applied_at);
        let unapplied = self.meter.measure(&size, applied, applied_at, broker.now());
        (self.measured, self.ratio, self.by_ourselves) = (Instant::now(), unapplied.ratio(), true);
        Ok(Some(unapplied))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use natter_shared::{position::Epoch, telemetry::metrics::Registry};
    use tokio::{sync::mpsc, time::timeout};

    use super::*;
    use crate::testing::FakeBroker;

    const SECOND: Duration = Duration::from_secs(1);

    /// An intake that watches a broker, of whose first shard a position is known; and what announces more, and ends it.
    fn watched(broker: FakeBroker) -> (Arc<Intake>, impl Fn(Option<Unapplied>), impl AsyncFnOnce()) {
        let (announce, announced) = mpsc::channel(8);
        *broker.announced.lock() = Some(announced);
        let intake = Arc::new(Intake::new(broker.shards(), Arc::new(Metrics::new(&Registry::new("test")))));
        let (watching, stop) = (Arc::clone(&intake), CancellationToken::new());
        let stopping = stop.clone();
        let watch = tokio::spawn(async move { watching.watch(Arc::new(broker), stopping).await });
        let applied = move |unapplied| {
            announce.try_send(Control::Applied { shard: 0, position: Position::new(Epoch(1), 1), unapplied }).unwrap();
        };
        applied(None);
        let end = async move || {
            stop.cancel();
            timeout(Duration::from_millis(100), watch).await.expect("it goes on").unwrap();
        };
        (intake, applied, end)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_no_broker() {
        let broker = FakeBroker::default();
        broker.hides_size.store(true, Ordering::Relaxed);
        let (_, _, end) = watched(broker);
        // Long enough to have asked.
        tokio::time::sleep(2 * SILENT).await;
        end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_of_which_nothing_is_known_for_a_minute_takes_nothing_until_something_is() {
        let (intake, applied, end) = watched(FakeBroker::default());
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert!(intake.admits(Shard(0)));
        tokio::time::sleep(3 * SECOND).await;
        assert!(!intake.admits(Shard(0)));
        applied(Some(Unapplied { bytes: 1, max_bytes: 100, age_ms: 0, max_age_ms: None }));
        tokio::time::sleep(SECOND).await;
        assert!(intake.admits(Shard(0)) && !intake.admits(Shard(1)));
        end().await;
    }
}
