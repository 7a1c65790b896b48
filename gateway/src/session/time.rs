//! The broker's time, as clients know it: `ready` tells it, and they go on by clocks of their own. Where somebody sets the broker's
//! clock, nonces by the time before would be refused, or each be looked up; so everybody is told anew.

use std::time::Duration;

use natter_shared::{
    frame::{ServerFrame, TimeFrame},
    timestamp::Timestamp,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Protocol;
use crate::{app::App, socket::wire};

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_secs(1);

/// By so much the broker's clock and the steady one part before it is told: less than a nonce may lie ahead (15 s), or be old
/// without being looked up (a minute).
const JUMP: Duration = Duration::from_secs(5);

/// A time of the broker's, and when that was.
#[derive(Clone, Copy)]
struct Told {
    time: Timestamp,
    at: Instant,
}

impl Told {
    /// Whether who was told this, and goes on by a steady clock, is wrong at `at`, when it is `time`.
    fn is_wrong(self, time: Timestamp, at: Instant) -> bool {
        let expected = self.time.offset_by(at.duration_since(self.at).as_millis() as i64);
        time.since(expected).max(expected.since(time)) > JUMP
    }
}

impl App {
    /// Tells all sessions the time when the broker's clock has jumped, until `stop`.
    pub(crate) async fn tell_time(&self, stop: CancellationToken) {
        let now = || Told { time: self.broker.now(), at: Instant::now() };
        let mut told = now();
        while stop.run_until_cancelled(sleep(LOOK)).await.is_some() {
            let Told { time, at } = now();
            if !told.is_wrong(time, at) {
                continue;
            }
            told = Told { time, at };
            tracing::warn!(sessions = self.sessions.len(), "time_told_anew");
            let frame = wire::json(&ServerFrame::Time(TimeFrame { time }));
            // Nonces of chat rooms are made here.
            for session in self.sessions.iter().filter(|session| session.protocol == Protocol::V1) {
                session.outlet.push(&frame, 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_on_is_not_told_again_and_one_that_was_set_is() {
        let told = Told { time: Timestamp(1_000_000), at: Instant::now() };
        let later = told.at + Duration::from_mins(1);
        for (time, is_wrong) in
            [(1_060_000, false), (1_065_000, false), (1_055_000, false), (1_065_001, true), (1_054_999, true), (0, true)]
        {
            assert_eq!(told.is_wrong(Timestamp(time), later), is_wrong, "{time}");
        }
    }
}
