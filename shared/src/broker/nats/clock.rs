//! The broker's clock: this process's own, plus an offset learnt from our own canaries.

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use crate::timestamp::Timestamp;

/// How much of a new sample is taken when it agrees with what was known.
const SMOOTHING: i64 = 8;

/// The offset, in microseconds.
#[derive(Default)]
pub(super) struct Clock(Mutex<Option<i64>>);

/// What the machine's clock said when this process first asked, and since when.
static START: LazyLock<(i64, Instant)> = LazyLock::new(|| {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(since.as_micros()).unwrap_or_default(), Instant::now())
});

/// This process's clock in microseconds, about since the Unix epoch. It never jumps, as the machine's
/// may: until the next canary what is made would carry a wrong stamp, and what is accepted be void.
pub(super) fn local_micros() -> i64 {
    let (at, since) = *START;
    at.saturating_add(i64::try_from(since.elapsed().as_micros()).unwrap_or(i64::MAX))
}

impl Clock {
    pub(super) fn now(&self) -> Timestamp {
        let offset = self.0.lock().unwrap_or_default();
        Timestamp(u64::try_from(local_micros().saturating_add(offset) / 1000).unwrap_or_default())
    }

    /// Something sent and received at these local times was stored at this time of the broker's.
    pub(super) fn observe(&self, sent: i64, received: i64, stored: i64) {
        // It was stored somewhere between: the true offset is within half a round trip of the middle.
        let slack = (received - sent).max(0) / 2;
        let sample = stored - (sent + slack);
        let mut offset = self.0.lock();
        *offset = Some(match *offset {
            None => sample,
            Some(known) => {
                let step = (sample - known) / SMOOTHING;
                (known + step).clamp(sample - slack, sample + slack)
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_broker_s_clock_is_followed_at_once_and_noise_is_smoothed() {
        let clock = Clock::default();
        clock.observe(0, 1000, 1_000_500);
        assert_eq!(*clock.0.lock(), Some(1_000_000));
        // Within the round trip: a small step.
        clock.observe(0, 100_000, 1_050_800);
        assert_eq!(*clock.0.lock(), Some(1_000_100));
        // Impossible with the old offset: to the nearest possible one.
        clock.observe(0, 1000, 5_000_500);
        assert_eq!(*clock.0.lock(), Some(4_999_500));
    }
}
