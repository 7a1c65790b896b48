//! The heartbeat of a session: when it is pinged, and when it is gone.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use natter_shared::config::Limits;

/// The pings of all sessions that are due within so long go out at once: to wake up costs more than to ping.
const TOGETHER: Duration = Duration::from_millis(100);

/// What `TOGETHER` is counted from.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The heartbeat: a ping each interval; whoever says nothing for the timeout after one is gone.
pub(super) struct Heartbeat<'a> {
    limits: &'a Limits,
    next_ping: Instant,
    /// The first ping since anything was heard.
    unanswered: Option<Instant>,
}

/// What the heartbeat asks for.
pub(super) enum Beat {
    Wait,
    Ping,
    Lost,
}

impl<'a> Heartbeat<'a> {
    pub(super) fn new(limits: &'a Limits, now: Instant) -> Self {
        Self { limits, next_ping: together(now + limits.heartbeat_interval), unanswered: None }
    }

    pub(super) fn due(&self) -> Instant {
        self.unanswered.map_or(self.next_ping, |pinged| self.next_ping.min(pinged + self.limits.heartbeat_timeout))
    }

    /// Whether a ping has been answered by that: what is due is another then.
    pub(super) fn hear(&mut self) -> bool {
        self.unanswered.take().is_some()
    }

    pub(super) fn beat(&mut self, now: Instant) -> Beat {
        if self.unanswered.is_some_and(|pinged| now >= pinged + self.limits.heartbeat_timeout) {
            return Beat::Lost;
        }
        if now < self.next_ping {
            return Beat::Wait;
        }
        let next = self.next_ping + self.limits.heartbeat_interval;
        // Not as many as were missed, where the process stood still.
        self.next_ping = together(if next > now { next } else { now + self.limits.heartbeat_interval });
        self.unanswered.get_or_insert(now);
        Beat::Ping
    }
}

/// When what is due then is done.
fn together(due: Instant) -> Instant {
    let since = due.saturating_duration_since(*ORIGIN).as_nanos();
    let over = since % TOGETHER.as_nanos();
    let wait = if over == 0 { 0 } else { TOGETHER.as_nanos() - over };
    due + Duration::from_nanos(u64::try_from(wait).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(heartbeat_interval: Duration, heartbeat_timeout: Duration) -> Limits {
        Limits { heartbeat_interval, heartbeat_timeout, ..Limits::default() }
    }

    #[test]
    fn a_silent_client_is_lost_after_the_timeout_and_one_that_speaks_is_not() {
        let second = Duration::from_secs(1);
        let start = *ORIGIN + TOGETHER;
        let limits = limits(25 * second, 10 * second);
        let mut heartbeat = Heartbeat::new(&limits, start);
        assert!(matches!(heartbeat.beat(start + 24 * second), Beat::Wait));
        assert!(matches!(heartbeat.beat(start + 25 * second), Beat::Ping));
        assert_eq!(heartbeat.due(), start + 35 * second);
        assert!(heartbeat.hear());
        assert!(!heartbeat.hear());
        assert_eq!(heartbeat.due(), start + 50 * second);
        assert!(matches!(heartbeat.beat(start + 50 * second), Beat::Ping));
        assert_eq!(heartbeat.due(), start + 60 * second);
        assert!(matches!(heartbeat.beat(start + 59 * second), Beat::Wait));
        assert!(matches!(heartbeat.beat(start + 60 * second), Beat::Lost));
    }

    #[test]
    fn pings_that_are_due_within_a_moment_go_out_together_and_do_not_drift() {
        let (second, start) = (Duration::from_secs(1), *ORIGIN + TOGETHER);
        let (just_after, late) = (start + Duration::from_millis(1), Duration::from_millis(3));
        let limits = limits(second, second);
        let mut first = Heartbeat::new(&limits, just_after);
        let mut last = Heartbeat::new(&limits, start + TOGETHER);
        let due = start + second + TOGETHER;
        assert_eq!((first.due(), last.due()), (due, due), "never before the interval");
        for n in 0..10 {
            assert!(matches!((first.beat(due + n * second + late), last.beat(due + n * second)), (Beat::Ping, Beat::Ping)));
            assert!(first.hear() && last.hear());
            assert_eq!((first.due(), last.due()), (due + (n + 1) * second, due + (n + 1) * second));
        }
        // After a minute of standing still.
        assert!(matches!(first.beat(due + 70 * second + late), Beat::Ping));
        assert!(first.hear());
        assert_eq!(first.due(), due + 71 * second + TOGETHER);
    }
}
