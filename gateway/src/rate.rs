//! How fast something may come: a token bucket (as GCRA: all it keeps is when it is full again).

use std::time::{Duration, Instant};

const SECOND: u64 = 1_000_000_000;

/// Tokens come at a steady rate, and so many may be saved up. Shared by all buckets of a kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    per_second: u64,
    /// Nanoseconds that an empty bucket takes to fill.
    full_after: u64,
}

impl Rate {
    pub(crate) fn new(per_second: u64, burst: u64) -> Self {
        let full_after = u128::from(burst) * u128::from(SECOND) / u128::from(per_second.max(1));
        Self { per_second: per_second.max(1), full_after: u64::try_from(full_after).unwrap_or(u64::MAX) }
    }

    /// How long an empty bucket takes to fill.
    pub(crate) fn full_after(&self) -> Duration {
        Duration::from_nanos(self.full_after)
    }
}

/// What one of those who are counted has left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes so many tokens; none, and false, if there are fewer.
    pub(crate) fn take(&mut self, rate: &Rate, tokens: u32, now: Instant) -> bool {
        self.take_or_wait(rate, tokens, now).is_ok()
    }

    /// The same.
    ///
    /// # Errors
    /// How long it takes until there are enough, if there ever are.
    pub(crate) fn take_or_wait(&mut self, rate: &Rate, tokens: u32, now: Instant) -> Result<(), Duration> {
        let missing = self.full_at.saturating_duration_since(now).as_nanos();
        let missing = missing + u128::from(u64::from(tokens) * SECOND / rate.per_second);
        match missing.saturating_sub(u128::from(rate.full_after)) {
            0 => {
                self.full_at = now + Duration::from_nanos(missing as u64);
                Ok(())
            }
            over => Err(Duration::from_nanos(u64::try_from(over).unwrap_or(u64::MAX))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let (start, rate) = (Instant::now(), Rate::new(10, 5));
        let mut bucket = Bucket::new(start);
        assert_eq!((0..10).filter(|_| bucket.take(&rate, 1, start)).count(), 5);
        let later = start + Duration::from_millis(300);
        assert_eq!((0..10).filter(|_| bucket.take(&rate, 1, later)).count(), 3);
        let much_later = start + Duration::from_mins(1);
        assert_eq!((0..10).filter(|_| bucket.take(&rate, 1, much_later)).count(), 5);
    }

    #[test]
    fn who_is_refused_is_told_when_there_is_enough() {
        let (start, rate) = (Instant::now(), Rate::new(10, 5));
        let mut bucket = Bucket::new(start);
        assert_eq!(bucket.take_or_wait(&rate, 5, start), Ok(()));
        let wait = bucket.take_or_wait(&rate, 3, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(300));
        assert!(bucket.take(&rate, 3, start + wait));
    }

    #[test]
    fn a_bucket_that_is_always_asked_still_fills() {
        let (start, rate) = (Instant::now(), Rate::new(100, 1_000_000));
        let mut bucket = Bucket::new(start);
        assert!(bucket.take(&rate, 1_000_000, start));
        let asked = (1..=10_000).filter(|step| bucket.take(&rate, 1, start + Duration::from_micros(100 * step))).count();
        assert_eq!(asked, 100, "in one second");
    }
}
