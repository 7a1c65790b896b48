//! What is held back: after an interruption of live delivery nothing is delivered until a fenced
//! check has shown what was missed, so that nothing overtakes a removal. Bounded in number, bytes and
//! time.

use std::time::Duration;

use natter_shared::broker::Stored;
use tokio::time::Instant;

/// Who is not checked by then comes back by itself: its sessions are closed.
pub(super) const HOLD: Duration = Duration::from_secs(5);

/// How much is held of one topic, or of all users of a shard. What does not fit waits in the
/// subscription; what does not fit there is read back.
#[derive(Debug, Clone, Copy)]
pub(super) struct HoldLimits {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// Events held back, in order.
pub(super) struct Hold {
    events: Vec<Stored>,
    bytes: usize,
    limits: HoldLimits,
    pub(super) until: Instant,
}

impl Hold {
    pub(super) fn new(limits: HoldLimits) -> Self {
        Self { events: Vec::new(), bytes: 0, limits, until: Instant::now() + HOLD }
    }

    pub(super) fn push(&mut self, stored: Stored) {
        self.bytes += stored.payload.len();
        self.events.push(stored);
    }

    pub(super) fn has_room(&self) -> bool {
        self.events.len() < self.limits.events && self.bytes < self.limits.bytes
    }

    pub(super) fn events(&self) -> &[Stored] {
        &self.events
    }

    pub(super) fn into_events(self) -> Vec<Stored> {
        self.events
    }
}
