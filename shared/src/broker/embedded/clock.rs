//! The broker's clock where it is this process's own: the machine's, but it never goes back. What was
//! made by a clock that has been set back since would be void, though acknowledged.

use std::time::Instant;

use parking_lot::Mutex;

use crate::timestamp::Timestamp;

/// A time told, and when that was by the steady clock: from there on it goes at least that fast.
pub(super) struct Clock(Mutex<(Timestamp, Instant)>);

impl Clock {
    /// Not before `latest`, the last time in the log.
    pub(super) fn after(latest: Timestamp) -> Self {
        Self(Mutex::new((latest, Instant::now())))
    }

    pub(super) fn now(&self) -> Timestamp {
        self.at(Timestamp::now())
    }

    fn at(&self, machine: Timestamp) -> Timestamp {
        let mut told = self.0.lock();
        let steady = told.0.offset_by(told.1.elapsed().as_millis() as i64);
        if machine > steady {
            *told = (machine, Instant::now());
        }
        machine.max(steady)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_machines_clock_that_is_set_back_takes_nothing_back() {
        let clock = Clock::after(Timestamp(5_000_000));
        assert!(clock.at(Timestamp(1_000_000)) >= Timestamp(5_000_000), "the log knows better");
        assert_eq!(clock.at(Timestamp(9_000_000)), Timestamp(9_000_000), "forward at once");
        let back = clock.at(Timestamp(2_000_000));
        assert!(back >= Timestamp(9_000_000) && back.since(Timestamp(9_000_000)) < Duration::from_mins(1));
        clock.0.lock().1 = Instant::now().checked_sub(Duration::from_secs(10)).unwrap_or_else(Instant::now);
        assert!(clock.at(Timestamp(2_000_000)) >= Timestamp(9_010_000), "it does not stand still");
    }
}
