//! How fast something may come: a token bucket (as GCRA: all it keeps is when it is full again).

use std::time::{Duration, Instant};

const SECOND: u64 = 1_000_000_000;

/// Tokens come at a steady rate, and so many may be saved up. Shared by all buckets of a kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// Tokens that come in a period, and its nanoseconds.
    tokens: u64,
    period: u64,
    /// Nanoseconds that an empty bucket takes to fill.
    full_after: u64,
}

impl Rate {
    pub(crate) fn new(per_second: u64, burst: u64) -> Self {
        Self::per(SECOND, per_second, burst)
    }

    pub(crate) fn per_minute(per_minute: u64, burst: u64) -> Self {
        Self::per(60 * SECOND, per_minute, burst)
    }

    fn per(period: u64, tokens: u64, burst: u64) -> Self {
        let tokens = tokens.max(1);
        let full_after = u128::from(burst) * u128::from(period) / u128::from(tokens);
        Self { tokens, period, full_after: u64::try_from(full_after).unwrap_or(u64::MAX) }
    }

    /// Nanoseconds in which so many tokens come.
    fn cost(&self, tokens: u32) -> u128 {
        u128::from(tokens) * u128::from(self.period) / u128::from(self.tokens)
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
        let missing = missing + rate.cost(tokens);
        match missing.saturating_sub(u128::from(rate.full_after)) {
            0 => {
                self.full_at = now + Duration::from_nanos(missing as u64);
                Ok(())
            }
            over => Err(Duration::from_nanos(u64::try_from(over).unwrap_or(u64::MAX))),
        }
    }

    /// Gives back what was taken and not made use of.
    pub(crate) fn give_back(&mut self, rate: &Rate, tokens: u32) {
        let cost = Duration::from_nanos(u64::try_from(rate.cost(tokens)).unwrap_or(u64::MAX));
        // Who is full again long since has no use for it.
        self.full_at = self.full_at.checked_sub(cost).unwrap_or(self.full_at);
    }

    /// Whether nothing of it has to be remembered.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
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
    fn a_rate_of_minutes_and_what_is_given_back() {
        let (start, rate) = (Instant::now(), Rate::per_minute(30, 30));
        let mut bucket = Bucket::new(start);
        assert_eq!((0..40).filter(|_| bucket.take(&rate, 1, start)).count(), 30);
        assert_eq!(bucket.take_or_wait(&rate, 1, start), Err(Duration::from_secs(2)));
        bucket.give_back(&rate, 5);
        assert_eq!((0..40).filter(|_| bucket.take(&rate, 1, start)).count(), 5);
        let minute = start + Duration::from_mins(1);
        assert!(!bucket.is_full(start + Duration::from_secs(59)) && bucket.is_full(minute));
        bucket.give_back(&rate, 30);
        assert_eq!((0..40).filter(|_| bucket.take(&rate, 1, minute)).count(), 30, "no more than it holds");
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
