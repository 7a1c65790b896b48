//! How long a stream takes to store one event, by its server's own clock.
//!
//! How long an ack takes tells little: on a busy machine it waits for much else. So some canaries are sent right after each other
//! now and then; between the stamps of two lies what storing the first took, the sync of `sync_interval: always` included.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Between two measurements.
const EVERY: Duration = Duration::from_mins(1);

/// Canaries of one. The least of what lies between them counts: whatever else keeps the server makes it more.
pub(super) const TRAIN: usize = 4;

/// Below, one by one is as fast as anybody needs.
const SLOW: Duration = Duration::from_micros(50);

/// What NATS 2.15 takes for a batch beside storing its events: a store of its own for what is not committed yet.
const BATCH: Duration = Duration::from_millis(3);

/// As many syncs as a batch takes.
const SYNCS: usize = 4;

/// That of one shard.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Duration>,
    /// What was measured before that.
    before: Option<Duration>,
    asked: Option<Instant>,
}

impl Pace {
    /// Whether it is to be measured now; if so, it counts as begun.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let mut state = self.0.lock();
        let is_due = state.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= EVERY);
        if is_due {
            state.asked = Some(now);
        }
        is_due
    }

    /// One event took so long.
    pub(super) fn learn(&self, took: Duration) {
        let mut state = self.0.lock();
        state.before = state.last.replace(took);
    }

    /// Whether it is worth a thought to have some stored together.
    pub(super) fn is_slow(&self) -> bool {
        self.each().is_some_and(|each| each >= SLOW)
    }

    /// Whether `events` are stored sooner together than one by one.
    pub(super) fn favours(&self, events: usize) -> bool {
        let saved = u32::try_from(events.saturating_sub(SYNCS)).unwrap_or(u32::MAX);
        self.each().is_some_and(|each| each.saturating_mul(saved) >= BATCH)
    }

    fn each(&self) -> Option<Duration> {
        let state = self.0.lock();
        state.last.into_iter().chain(state.before).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn it_is_measured_at_once_and_then_now_and_then() {
        let start = Instant::now();
        let pace = Pace::default();
        assert!(pace.is_due(start));
        assert!(!pace.is_due(start) && !pace.is_due(start + EVERY / 2));
        assert!(pace.is_due(start + EVERY) && !pace.is_due(start + EVERY));
    }
}
