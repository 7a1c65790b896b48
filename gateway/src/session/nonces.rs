//! The nonces a connection used lately, and for what. The stream refuses a second event under one id,
//! but only within one shard: that a nonce comes again with a group of another shard shows here.

use std::collections::VecDeque;

use natter_shared::id::EventId;
use xxhash_rust::xxh3::xxh3_64;

use super::SessionHandle;

/// As many as are remembered; older ones are looked up in SQL by their age anyway.
const REMEMBERED: usize = 128;

/// What was sent under which id, by half of it: ids are hashes, and none of a connection's last shares that with another.
#[derive(Debug, Default)]
pub(super) struct Nonces(VecDeque<(u64, u64)>);

impl Nonces {
    /// False if `id` stands for something else than `payload`, the encoded event.
    pub(super) fn admit(&mut self, id: EventId, payload: &[u8]) -> bool {
        let (hash, id) = (xxh3_64(payload), half(id));
        if let Some((_, first)) = self.0.iter().rev().find(|(other, _)| *other == id) {
            return *first == hash;
        }
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((id, hash));
        true
    }

    fn has(&self, id: EventId) -> bool {
        self.0.iter().any(|(other, _)| *other == half(id))
    }
}

fn half(id: EventId) -> u64 {
    id.0.as_u64_pair().1
}

impl SessionHandle {
    /// False if this connection used `id` lately for something else than `payload`, the encoded event.
    pub(crate) fn admit(&self, id: EventId, payload: &[u8]) -> bool {
        self.nonces.lock().admit(id, payload)
    }

    /// Whether this connection sent the event, lately.
    pub(crate) fn has_sent(&self, id: EventId) -> bool {
        self.nonces.lock().has(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_is_admitted_and_another_payload_is_not() {
        let mut nonces = Nonces::default();
        let id = EventId::random();
        assert!(nonces.admit(id, b"one"));
        assert!(nonces.admit(id, b"one"));
        assert!(!nonces.admit(id, b"other"));
        assert!(nonces.has(id) && !nonces.has(EventId::random()));
        for _ in 0..REMEMBERED {
            assert!(nonces.admit(EventId::random(), b"x"));
        }
        assert!(!nonces.has(id) && nonces.admit(id, b"other"), "forgotten");
    }
}
