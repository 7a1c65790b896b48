//! The broker's clock: this process's steady one, plus an offset learnt from our own canaries. The
//! machine's clock, which somebody may set, says nothing here but that something is wrong.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tracing::warn;

use crate::timestamp::Timestamp;

/// How much of a new sample is taken when it agrees with what was known.
const SMOOTHING: i64 = 8;

/// The steady clock may have stood still (a machine that slept) when the machine's went so much
/// further, in microseconds. Far below [`super::super::VOID_AFTER`], which it is to keep from.
const DOUBTFUL: i64 = 30_000_000;

/// A canary that tells of such a jump of the broker's clock is worth a line, in microseconds.
const JUMP: i64 = 10_000_000;

/// The offset.
pub(super) struct Clock {
    start: Instant,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    /// The broker's time less the steady clock's, in microseconds.
    offset: i64,
    /// The machine's less the steady clock's, when that was learnt.
    machine: i64,
    known: bool,
}

/// The machine's clock in microseconds since the Unix epoch.
fn machine_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl Default for Clock {
    fn default() -> Self {
        // Until a canary is back, the machine's is the best guess there is.
        let machine = machine_micros();
        Self { start: Instant::now(), state: Mutex::new(State { offset: machine, machine, known: false }) }
    }
}

impl Clock {
    /// The steady clock, in microseconds since some moment.
    pub(super) fn steady(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    pub(super) fn now(&self) -> Timestamp {
        let offset = self.state.lock().offset;
        Timestamp(u64::try_from(self.steady().saturating_add(offset) / 1000).unwrap_or_default())
    }

    /// Whether [`Clock::now`] is right: what is stamped with a wrong time may be void although it
    /// is acknowledged.
    pub(super) fn is_sure(&self) -> bool {
        let state = *self.state.lock();
        state.known && (machine_micros() - self.steady() - state.machine).abs() < DOUBTFUL
    }

    /// As if the machine's clock had been set by so many microseconds since.
    #[cfg(test)]
    pub(super) fn set_machine(&self, by: i64) {
        self.state.lock().machine -= by;
    }

    /// Something sent and received at these times of the steady clock was stored at this time of the
    /// broker's.
    pub(super) fn observe(&self, sent: i64, received: i64, stored: i64) {
        // It was stored somewhere between: the true offset is within half a round trip of the middle.
        let slack = (received - sent).max(0) / 2;
        let sample = stored - (sent + slack);
        let machine = machine_micros() - self.steady();
        let mut state = self.state.lock();
        let before = *state;
        let offset = if before.known {
            let step = (sample - before.offset) / SMOOTHING;
            (before.offset + step).clamp(sample - slack, sample + slack)
        } else {
            sample
        };
        *state = State { offset, machine, known: true };
        drop(state);
        if before.known && (offset - before.offset).abs() > JUMP {
            warn!(seconds = (offset - before.offset) / 1_000_000, "broker_clock_jumped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_brokers_clock_is_followed_at_once_and_noise_is_smoothed() {
        let clock = Clock::default();
        assert!(!clock.is_sure());
        clock.observe(0, 1000, 1_000_500);
        assert_eq!(clock.state.lock().offset, 1_000_000);
        assert!(clock.is_sure());
        // Within the round trip: a small step.
        clock.observe(0, 100_000, 1_050_800);
        assert_eq!(clock.state.lock().offset, 1_000_100);
        // Impossible with the old offset: to the nearest possible one.
        clock.observe(0, 1000, 5_000_500);
        assert_eq!(clock.state.lock().offset, 4_999_500);
    }

    #[test]
    fn a_machines_clock_that_is_set_moves_nothing_and_casts_doubt_until_the_next_canary() {
        let clock = Clock::default();
        let at = clock.steady();
        clock.observe(at, at, 1_700_000_000_000_000);
        let before = clock.now();
        for hour in [3_600_000_000, -3_600_000_000] {
            clock.set_machine(hour);
            assert!(!clock.is_sure());
            assert!(clock.now().since(before).as_secs() < 60 && clock.now() >= before);
            let at = clock.steady();
            clock.observe(at, at, 1_700_000_000_000_000 + at);
            assert!(clock.is_sure());
        }
    }
}
