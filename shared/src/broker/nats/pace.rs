//! How long a stream takes to store one event, by its server's own clock.
//!
//! How long an ack takes tells little: on a busy machine it waits for much else. So some canaries are sent right after each other
//! now and then; between the stamps of two lies what storing the first took, the sync of `sync_interval: always` included.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::envelope::Canary;
use crate::{failpoint, id::EventId};

/// Between two measurements.
const EVERY: Duration = Duration::from_mins(1);

/// Between the first and the second one, which may have been taken while everything started.
const SECOND: Duration = Duration::from_secs(5);

/// Canaries of one. The least of what lies between them counts: whatever else keeps the server makes it more.
pub(super) const TRAIN: usize = 4;

/// Below, one by one is as fast as anybody needs.
const SLOW: Duration = Duration::from_micros(50);

/// What a batch has to save: twice what NATS 2.15 takes for one beside storing its events, a store of its own for what is not
/// committed yet.
const BATCH: Duration = Duration::from_millis(3);

/// The syncs that a batch takes, each as long as an event by itself.
const SYNCS: usize = 4;

/// That of one shard.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// See [`NatsOptions::eager_batches`](super::NatsOptions::eager_batches).
    is_eager: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Duration>,
    /// What was measured before that.
    before: Option<Duration>,
    asked: Option<Instant>,
}

impl Pace {
    pub(super) fn new(is_eager: bool) -> Self {
        Self { is_eager: is_eager || failpoint::hit("gather"), state: Mutex::default() }
    }

    /// Whether two that wait go together already, whatever is measured.
    pub(super) fn is_eager(&self) -> bool {
        self.is_eager
    }

    /// Whether it is to be measured now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let state = self.state.lock();
        let every = if state.before.is_none() { SECOND } else { EVERY };
        state.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= every)
    }

    /// It is measured from now on.
    pub(super) fn begin(&self, now: Instant) {
        self.state.lock().asked = Some(now);
    }

    /// It may be another server's from now on.
    pub(super) fn forget(&self) {
        *self.state.lock() = State::default();
    }

    /// One event took so long.
    pub(super) fn learn(&self, took: Duration) {
        let mut state = self.state.lock();
        state.before = state.last.replace(took);
    }

    /// Whether it is worth a thought to have some stored together.
    pub(super) fn is_slow(&self) -> bool {
        self.is_eager || self.each().is_some_and(|each| each >= SLOW)
    }

    /// Whether `events` are stored sooner together than one by one.
    pub(super) fn favours(&self, events: usize) -> bool {
        if self.is_eager {
            return events > 1;
        }
        let saved = u32::try_from(events.saturating_sub(SYNCS)).unwrap_or(u32::MAX);
        self.each().is_some_and(|each| each.saturating_mul(saved) >= BATCH)
    }

    fn each(&self) -> Option<Duration> {
        let state = self.state.lock();
        state.last.into_iter().chain(state.before).min()
    }
}

/// Canaries that were sent right after each other.
#[derive(Debug)]
pub(super) struct Train {
    ids: Vec<EventId>,
    /// Which came last, of those that have.
    last: Option<Canary>,
    /// What lay between two.
    least: Option<Duration>,
}

impl Train {
    pub(super) fn new(ids: Vec<EventId>) -> Self {
        Self { ids, last: None, least: None }
    }

    /// One has come back, perhaps of another train. Whether it is the last one of this.
    pub(super) fn came(&mut self, canary: &Canary) -> bool {
        if !self.ids.contains(&canary.id) {
            return false;
        }
        let is_next = |last: &Canary| last.position.epoch == canary.position.epoch && last.position.seq + 1 == canary.position.seq;
        if let Some(last) = self.last.replace(*canary).filter(is_next) {
            let took = Duration::from_micros(u64::try_from(canary.stored_at_micros - last.stored_at_micros).unwrap_or_default());
            self.least = Some(self.least.map_or(took, |least| least.min(took)));
        }
        self.ids.last() == Some(&canary.id)
    }

    /// What one event took, as far as it has come.
    pub(super) fn least(&self) -> Option<Duration> {
        self.least
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;
    use crate::position::{Epoch, Position};

    fn of(micros: u64) -> Pace {
        let pace = Pace::default();
        assert!(!pace.is_slow() && !pace.favours(10_000), "not known");
        pace.learn(Duration::from_micros(micros));
        pace
    }

    #[test]
    fn the_least_of_the_last_two_counts() {
        let pace = of(49);
        assert!(!pace.is_slow());
        pace.learn(Duration::from_micros(60));
        assert!(!pace.is_slow(), "it may have been kept by something else");
        pace.learn(Duration::from_micros(50));
        assert!(pace.is_slow());
        pace.learn(Duration::from_micros(49));
        assert!(!pace.is_slow());
    }

    #[test]
    fn together_where_the_syncs_saved_are_more_than_a_batch_costs() {
        let pace = of(100);
        assert!(pace.favours(34) && !pace.favours(33));
        let pace = of(60_000_000);
        assert!(pace.favours(SYNCS + 1) && !pace.favours(SYNCS) && !pace.favours(0), "however slow it is");
    }

    #[test]
    fn where_it_is_eager_two_go_together() {
        let pace = Pace::new(true);
        assert!(pace.is_slow() && pace.favours(2) && !pace.favours(1));
    }

    #[test]
    fn it_is_measured_at_once_and_then_now_and_then() {
        let start = Instant::now();
        let pace = Pace::default();
        assert!(pace.is_due(start));
        pace.begin(start);
        pace.learn(SLOW);
        assert!(!pace.is_due(start + SECOND / 2) && pace.is_due(start + SECOND));
        pace.begin(start + SECOND);
        pace.learn(SLOW);
        assert!(!pace.is_due(start + EVERY) && pace.is_due(start + SECOND + EVERY));
        pace.forget();
        assert!(pace.is_due(start) && !pace.is_slow());
    }

    #[test]
    fn what_lies_between_two_counts_where_nothing_else_was_stored_there() {
        let ids: Vec<EventId> = (0..TRAIN).map(|_| EventId::random()).collect();
        let canary =
            |n: usize, epoch, seq, stored_at_micros| Canary { id: ids[n], position: Position::new(Epoch(epoch), seq), stored_at_micros };
        let mut train = Train::new(ids.clone());
        assert!(!train.came(&canary(0, 1, 10, 1000)) && train.least().is_none());
        assert!(!train.came(&Canary { id: EventId::random(), ..canary(0, 1, 11, 1001) }), "another's");
        assert!(!train.came(&canary(1, 1, 11, 1300)));
        assert_eq!(train.least(), Some(Duration::from_micros(300)));
        assert!(!train.came(&canary(2, 1, 13, 1310)), "one of them was lost, or somebody else's came between");
        assert!(train.came(&canary(3, 2, 14, 1320)), "in another epoch, and the last one");
        assert_eq!(train.least(), Some(Duration::from_micros(300)));
        let mut back = Train::new(ids.clone());
        assert!(!back.came(&canary(0, 1, 10, 1000)) && !back.came(&canary(1, 1, 11, 900)), "a clock that was set back");
        assert_eq!(back.least(), Some(Duration::ZERO));
    }
}
