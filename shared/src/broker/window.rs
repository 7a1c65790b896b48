//! How much may be in flight to the broker, in events and in bytes. What does not fit is refused at
//! once: nothing waits here.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::BrokerError;

/// A bound on both.
#[derive(Debug)]
pub(super) struct Window {
    events: AtomicUsize,
    bytes: AtomicUsize,
    max_events: usize,
    max_bytes: usize,
}

/// Room for one event, given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    window: Arc<Window>,
    bytes: usize,
}

impl Window {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { events: AtomicUsize::new(0), bytes: AtomicUsize::new(0), max_events: max_events.max(1), max_bytes })
    }

    /// Room for an event of `bytes`; a lone one always has it.
    pub(super) fn enter(self: &Arc<Self>, bytes: usize) -> Result<Room, BrokerError> {
        let room = Room { window: Arc::clone(self), bytes };
        let events = self.events.fetch_add(1, Ordering::Relaxed);
        let taken = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = events < self.max_events && (events == 0 || taken.saturating_add(bytes) <= self.max_bytes);
        if fits { Ok(room) } else { Err(BrokerError::Busy) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.window.events.fetch_sub(1, Ordering::Relaxed);
        self.window.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn events_and_bytes_are_bounded_and_given_back() {
        let window = Window::new(2, 100);
        let one = window.enter(60).unwrap();
        assert!(matches!(window.enter(60), Err(BrokerError::Busy)), "bytes");
        let two = window.enter(40).unwrap();
        assert!(matches!(window.enter(0), Err(BrokerError::Busy)), "events");
        drop((one, two));
        let large = window.enter(1000).unwrap();
        drop(large);
        assert!(window.enter(100).is_ok());
    }
}
