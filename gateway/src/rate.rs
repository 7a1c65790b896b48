//! How many frames a connection may send: a token bucket.

use std::time::Instant;

/// Tokens refill at a steady rate up to a burst; each frame takes one.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: f32,
    filled_at: Instant,
    per_second: f32,
    burst: f32,
}

impl Bucket {
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self { tokens: burst as f32, filled_at: now, per_second: per_second as f32, burst: burst as f32 }
    }

    /// Takes a token; false if there is none.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f32();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.burst);
        self.filled_at = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 5, start);
        assert_eq!((0..10).filter(|_| bucket.take(start)).count(), 5);
        let later = start + Duration::from_millis(300);
        assert_eq!((0..10).filter(|_| bucket.take(later)).count(), 3);
        let much_later = start + Duration::from_mins(1);
        assert_eq!((0..10).filter(|_| bucket.take(much_later)).count(), 5);
    }
}
