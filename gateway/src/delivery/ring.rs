//! The recent events of a topic, ready to be written again to who comes back; and the bytes that may
//! be kept for that.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use natter_shared::{
    id::{SessionId, UserId},
    position::Position,
};
use tokio::time::Instant;

/// So long a ring keeps what is new, however little room there is: who comes back reads what it missed, and has to be
/// met by then. For that the rings may take more than there is, but never more than twice as much.
const YOUNG: Duration = Duration::from_secs(1);

/// The bytes that all rings of a gateway hold together, and how many they may.
#[derive(Debug)]
pub(super) struct RingBudget {
    rings: AtomicUsize,
    /// Those beside the rings.
    kept: AtomicUsize,
    limit: usize,
    per_topic: usize,
}

impl RingBudget {
    pub(super) fn new(limit: usize, per_topic: usize) -> Arc<Self> {
        Arc::new(Self { rings: AtomicUsize::new(0), kept: AtomicUsize::new(0), limit, per_topic })
    }

    /// Room for `bytes` beside the rings, if there is: half of all is the rings' alone, and a quarter theirs never.
    pub(super) fn keep(self: &Arc<Self>, bytes: usize) -> Option<Kept> {
        let room = Kept { bytes, budget: Arc::clone(self) };
        let kept = self.kept.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (kept <= self.limit / 4 || (kept <= self.limit / 2 && self.used() <= self.limit)).then_some(room)
    }

    pub(super) fn used(&self) -> usize {
        self.rings.load(Ordering::Relaxed) + self.kept.load(Ordering::Relaxed)
    }

    fn of_rings(&self) -> usize {
        self.limit / 4 * 3
    }

    fn is_exceeded(&self) -> bool {
        self.rings.load(Ordering::Relaxed) > self.of_rings() || self.used() > self.limit
    }

    /// Rings have taken twice what there is.
    fn is_full(&self) -> bool {
        self.rings.load(Ordering::Relaxed) / 2 > self.limit
    }

    /// So full that idle topics should give back what they hold.
    pub(super) fn is_tight(&self) -> bool {
        self.rings.load(Ordering::Relaxed) > self.of_rings() / 5 * 4 || self.used() > self.limit / 5 * 4
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
const OVERHEAD: usize = size_of::<(Instant, Entry)>();

impl Entry {
    fn cost(&self) -> usize {
        self.v1.len() + self.chat.len() + OVERHEAD
    }
}

/// The events after [`Ring::floor`], all of them.
#[derive(Debug)]
pub(super) struct Ring {
    floor: Position,
    /// Each with when it came.
    entries: VecDeque<(Instant, Entry)>,
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

    /// Adds one that came at `now`. Where all rings hold more than they may, older ones of this give way.
    pub(super) fn push(&mut self, entry: Entry, now: Instant) {
        self.budget.rings.fetch_add(entry.cost(), Ordering::Relaxed);
        self.entries.push_back((now, entry));
        while self.entries.len() > self.budget.per_topic || self.has_too_much(now) {
            self.pop();
        }
    }

    /// Gives back what is not new while all rings hold more than they may.
    pub(super) fn trim(&mut self, now: Instant) {
        while self.has_too_much(now) {
            self.pop();
        }
    }

    fn has_too_much(&self, now: Instant) -> bool {
        !self.entries.is_empty() && (self.budget.is_full() || (self.budget.is_exceeded() && self.is_oldest_old(now)))
    }

    fn is_oldest_old(&self, now: Instant) -> bool {
        self.entries.front().is_some_and(|(came, _)| now.saturating_duration_since(*came) > YOUNG)
    }

    /// Those after `position`, oldest first.
    pub(super) fn after(&self, position: Position) -> impl Iterator<Item = &Entry> {
        let start = self.entries.partition_point(|(_, entry)| entry.position <= position);
        self.entries.range(start..).map(|(_, entry)| entry)
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
        if let Some((_, entry)) = self.entries.pop_front() {
            self.budget.rings.fetch_sub(entry.cost(), Ordering::Relaxed);
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

    /// One each two seconds.
    fn push(ring: &mut Ring, seqs: impl IntoIterator<Item = u64>) {
        let start = Instant::now();
        for seq in seqs {
            ring.push(entry(seq), start + Duration::from_secs(2 * seq));
        }
    }

    /// `limits.ring_events_per_group`.
    #[test]
    fn the_floor_rises_with_what_is_dropped() {
        let budget = RingBudget::new(1 << 20, 3);
        let mut ring = Ring::new(at(5), Arc::clone(&budget));
        assert_eq!((ring.floor(), after(&ring, 0)), (at(5), vec![]));
        push(&mut ring, [7, 8, 10]);
        assert_eq!((ring.floor(), after(&ring, 7)), (at(5), vec![8, 10]));
        push(&mut ring, [11]);
        assert_eq!((ring.floor(), after(&ring, 5)), (at(7), vec![8, 10, 11]));
        drop(ring);
        assert_eq!(budget.used(), 0);
    }

    /// `limits.ring_bytes`.
    #[test]
    fn the_budget_is_kept_across_topics() {
        let budget = RingBudget::new(12 * (100 + OVERHEAD), 1000);
        let mut one = Ring::new(at(0), Arc::clone(&budget));
        let mut two = Ring::new(at(0), Arc::clone(&budget));
        for seq in 1..=20 {
            push(&mut one, [seq]);
            push(&mut two, [seq]);
            // What has just come is kept.
            assert!(budget.used() <= 10 * (100 + OVERHEAD));
        }
        assert!(!after(&one, 0).is_empty());
    }

    #[test]
    fn what_is_new_is_kept_where_others_have_all_the_room_and_they_make_it_good() {
        let budget = RingBudget::new(12 * (100 + OVERHEAD), 1000);
        let mut full = Ring::new(at(0), Arc::clone(&budget));
        push(&mut full, 1..=20);
        assert_eq!(after(&full, 0), (12..=20).collect::<Vec<_>>(), "three quarters");
        let mut fresh = Ring::new(at(0), Arc::clone(&budget));
        let now = Instant::now();
        (1..=5).for_each(|seq| fresh.push(entry(seq), now + Duration::from_millis(200 * seq)));
        assert_eq!((fresh.floor(), after(&fresh, 0)), (at(0), vec![1, 2, 3, 4, 5]));
        push(&mut full, [21]);
        assert_eq!(after(&full, 0), (18..=21).collect::<Vec<_>>());
        assert!(!budget.is_exceeded());
        push(&mut full, 22..=30);
        assert_eq!(after(&full, 0).len(), 4);
    }

    #[test]
    fn what_is_new_is_not_kept_beyond_twice_the_bytes_and_given_back_when_it_is_not_new() {
        let budget = RingBudget::new(12 * (100 + OVERHEAD), 1000);
        let now = Instant::now();
        let mut rings: Vec<Ring> = (0..10).map(|_| Ring::new(at(0), Arc::clone(&budget))).collect();
        for ring in &mut rings {
            (1..=5).for_each(|seq| ring.push(entry(seq), now));
            assert!(budget.used() <= 24 * (100 + OVERHEAD));
        }
        for ring in &mut rings {
            ring.trim(now);
        }
        assert!(budget.is_exceeded(), "it is new");
        for ring in &mut rings {
            ring.trim(now + 2 * YOUNG);
        }
        assert!(!budget.is_exceeded());
    }

    #[test]
    fn what_is_kept_beside_the_rings_has_a_quarter_always_and_half_where_there_is_room() {
        let budget = RingBudget::new(8000, 1000);
        let half = budget.keep(4000).expect("half of it");
        assert!(budget.keep(1).is_none());
        drop(half);
        let mut ring = Ring::new(at(0), Arc::clone(&budget));
        push(&mut ring, 1..=100);
        let left = 8000 - budget.used();
        assert!((2000..2500).contains(&left), "the ring is full");
        assert!(budget.is_tight());
        assert!(budget.keep(left + 1).is_none());
        let kept = budget.keep(left).expect("all that is left");
        push(&mut ring, [101]);
        assert!(budget.used() <= 8000);
        drop(kept);
        let mut other = Ring::new(at(0), Arc::clone(&budget));
        (1..=100).for_each(|seq| other.push(entry(seq), Instant::now()));
        assert!(budget.used() > 8000, "it is all new");
        let quarter = budget.keep(2000).expect("a quarter");
        assert!(budget.keep(1).is_none());
        drop((quarter, ring, other));
        assert_eq!((budget.used(), budget.kept.load(Ordering::Relaxed)), (0, 0));
    }
}
