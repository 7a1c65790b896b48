//! The recent events of a topic, ready to be written again to who comes back; and the bytes that may
//! be kept for that.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use natter_shared::{
    id::{SessionId, UserId},
    position::Position,
};

/// The bytes that all rings of a gateway hold together, and how many they may.
#[derive(Debug)]
pub(super) struct RingBudget {
    used: AtomicUsize,
    /// Of them, those beside the rings.
    kept: AtomicUsize,
    limit: usize,
    per_topic: usize,
}

impl RingBudget {
    pub(super) fn new(limit: usize, per_topic: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), kept: AtomicUsize::new(0), limit, per_topic })
    }

    /// Room for `bytes` beside the rings, if there is: half of all is the rings' alone.
    pub(super) fn keep(self: &Arc<Self>, bytes: usize) -> Option<Kept> {
        let room = Kept { bytes, budget: Arc::clone(self) };
        let kept = self.kept.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (kept <= self.limit / 2 && used <= self.limit).then_some(room)
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn is_exceeded(&self) -> bool {
        self.used() > self.limit
    }

    /// So full that idle topics should give back what they hold.
    pub(super) fn is_tight(&self) -> bool {
        self.used() > self.limit / 5 * 4
    }
}

/// Room that something kept beside the rings takes; dropped, it is free again.
#[derive(Debug)]
pub(super) struct Kept {
    bytes: usize,
    budget: Arc<RingBudget>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.kept.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// One event, framed for each protocol.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) position: Position,
    pub(super) v1: Bytes,
    pub(super) chat: Bytes,
    pub(super) origin: Option<SessionId>,
    pub(super) removed: Option<UserId>,
}

/// What an entry costs beside its bytes.
const OVERHEAD: usize = size_of::<Entry>();

impl Entry {
    fn cost(&self) -> usize {
        self.v1.len() + self.chat.len() + OVERHEAD
    }
}

/// The events after [`Ring::floor`], all of them.
#[derive(Debug)]
pub(super) struct Ring {
    floor: Position,
    entries: VecDeque<Entry>,
    budget: Arc<RingBudget>,
}

impl Ring {
    /// An empty one: everything after `floor` will be pushed.
    pub(super) fn new(floor: Position, budget: Arc<RingBudget>) -> Self {
        Self { floor, entries: VecDeque::new(), budget }
    }

    /// Everything after this is here.
    pub(super) fn floor(&self) -> Position {
        self.floor
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.budget.used.fetch_add(entry.cost(), Ordering::Relaxed);
        self.entries.push_back(entry);
        while self.entries.len() > self.budget.per_topic || (self.budget.is_exceeded() && !self.entries.is_empty()) {
            self.pop();
        }
    }

    /// Those after `position`, oldest first.
    pub(super) fn after(&self, position: Position) -> impl Iterator<Item = &Entry> {
        let start = self.entries.partition_point(|entry| entry.position <= position);
        self.entries.range(start..)
    }

    /// Forgets everything; what comes after `floor` will be pushed.
    pub(super) fn restart(&mut self, floor: Position) {
        while !self.entries.is_empty() {
            self.pop();
        }
        self.entries = VecDeque::new();
        self.floor = floor;
    }

    fn pop(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.budget.used.fetch_sub(entry.cost(), Ordering::Relaxed);
            self.floor = entry.position;
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.restart(self.floor);
    }
}

#[cfg(test)]
mod tests {
    use natter_shared::position::Epoch;

    use super::*;

    fn at(seq: u64) -> Position {
        Position::new(Epoch(1), seq)
    }

    fn entry(seq: u64) -> Entry {
        Entry { position: at(seq), v1: Bytes::from_static(&[0; 100]), chat: Bytes::new(), origin: None, removed: None }
    }

    fn after(ring: &Ring, seq: u64) -> Vec<u64> {
        ring.after(at(seq)).map(|entry| entry.position.seq).collect()
    }

    #[test]
    fn the_floor_rises_with_what_is_dropped() {
        let budget = RingBudget::new(1 << 20, 3);
        let mut ring = Ring::new(at(5), Arc::clone(&budget));
        assert_eq!((ring.floor(), after(&ring, 0)), (at(5), vec![]));
        for seq in [7, 8, 10] {
            ring.push(entry(seq));
        }
        assert_eq!((ring.floor(), after(&ring, 7)), (at(5), vec![8, 10]));
        ring.push(entry(11));
        assert_eq!((ring.floor(), after(&ring, 5)), (at(7), vec![8, 10, 11]));
        drop(ring);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_budget_is_kept_across_topics() {
        let budget = RingBudget::new(10 * (100 + OVERHEAD), 1000);
        let mut one = Ring::new(at(0), Arc::clone(&budget));
        let mut two = Ring::new(at(0), Arc::clone(&budget));
        for seq in 1..=20 {
            one.push(entry(seq));
            two.push(entry(seq));
            assert!(budget.used() <= 10 * (100 + OVERHEAD));
        }
        assert!(!after(&one, 0).is_empty());
    }

    #[test]
    fn what_is_kept_beside_the_rings_has_half_of_their_bytes() {
        let budget = RingBudget::new(1000, 1000);
        let half = budget.keep(500).expect("half of it");
        assert!(budget.keep(1).is_none());
        drop(half);
        let mut ring = Ring::new(at(0), Arc::clone(&budget));
        for seq in 1..=20 {
            ring.push(entry(seq));
        }
        let left = 1000 - budget.used();
        assert!(left < 500, "the ring is full");
        assert!(budget.keep(left + 1).is_none());
        assert!(budget.keep(left).is_some());
        drop(ring);
        assert_eq!((budget.used(), budget.kept.load(Ordering::Relaxed)), (0, 0));
    }
}
