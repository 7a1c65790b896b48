//! How old this gateway's knowledge of memberships may be. A canary of a shard that comes back live
//! proves that everything stored in the shard before it was sent has arrived, removals included, as
//! long as nothing was dropped on the way. A member who wants to send, or to read, is let by what the
//! gateway knows only while that proof is young; else SQL is asked, behind the end of the log.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use natter_shared::{
    broker::Broker,
    position::Position,
    subject::{Shard, Shards},
};
use parking_lot::Mutex;

/// How old a proof may be. What arrived may wait in its group's queue for a moment more, and a
/// removal is to be heeded within 5 s.
const FRESH: Duration = Duration::from_millis(4500);

/// What a shard's canaries have proven.
struct Proof {
    /// All up to this time has arrived, in milliseconds since `base`; 0 before the first proof.
    at: AtomicU64,
    /// Whether what arrived until then was complete: the [`losses`] before the last fenced check.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Up to which of the [`losses`] nothing is missing.
    checked: Option<u64>,
    /// The canaries of late: when each was sent, and where it stands.
    canaries: VecDeque<(Instant, Position)>,
}

/// How often deliveries may have been lost so far. An interruption is known at once, what it lost only rises the generation a
/// moment later; what is dropped here is in the generation alone.
pub fn losses(broker: &dyn Broker) -> u64 {
    broker.status().borrow().generation + broker.interruptions()
}

/// What the gateway knows of each shard, and since when.
pub struct Knowledge {
    base: Instant,
    shards: Vec<Proof>,
}

impl Knowledge {
    /// Nothing is proven.
    pub fn new(shards: Shards) -> Self {
        let proof = |_| Proof { at: AtomicU64::new(0), state: Mutex::default() };
        // Before now, so that no proof is at 0.
        let now = Instant::now();
        Self { base: now.checked_sub(Duration::from_millis(1)).unwrap_or(now), shards: shards.iter().map(proof).collect() }
    }

    fn since_base(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.base).as_millis() as u64
    }

    /// A canary sent at `sent` has come back; it stands at `position`. `losses` are those before it was
    /// sent: if deliveries were lost since the last check, it proves nothing.
    pub fn canary(&self, shard: Shard, sent: Instant, position: Position, losses: u64) {
        let Some(proof) = self.shards.get(usize::from(shard.0)) else { return };
        let mut state = proof.state.lock();
        state.canaries.retain(|(at, _)| at.elapsed() < FRESH);
        state.canaries.push_back((sent, position));
        if state.checked == Some(losses) {
            proof.at.fetch_max(self.since_base(sent), Ordering::AcqRel);
        }
    }

    /// A check of every topic followed, fenced at `sent`, has found what the first `losses` lost.
    pub fn checked(&self, shard: Shard, sent: Instant, losses: u64) {
        let Some(proof) = self.shards.get(usize::from(shard.0)) else { return };
        let mut state = proof.state.lock();
        state.checked = state.checked.max(Some(losses));
        proof.at.fetch_max(self.since_base(sent), Ordering::AcqRel);
    }

    /// Whether a membership that is known here is known well enough.
    pub fn is_fresh(&self, shard: Shard) -> bool {
        let proof = self.shards.get(usize::from(shard.0));
        proof.is_some_and(|proof| is_fresh(self.since_base(Instant::now()), proof.at.load(Ordering::Acquire)))
    }

    /// Whether messages of any shard arrive.
    pub fn is_any_fresh(&self) -> bool {
        let newest = |proof: &Proof| proof.state.lock().canaries.back().is_some_and(|(sent, _)| sent.elapsed() < FRESH);
        self.shards.iter().any(newest)
    }

    /// A position in `shard` such that who has everything up to it knows what was stored until a few
    /// seconds ago, and when that was; none where no canary came back of late.
    pub fn recent(&self, shard: Shard) -> Option<(Instant, Position)> {
        let state = self.shards.get(usize::from(shard.0))?.state.lock();
        state.canaries.iter().find(|(sent, _)| sent.elapsed() < FRESH).copied()
    }
}

fn is_fresh(now: u64, proven: u64) -> bool {
    proven > 0 && now.saturating_sub(proven) < FRESH.as_millis() as u64
}

/// Whether what was known at `at` is still known well enough.
pub(crate) fn is_recent(at: Instant) -> bool {
    at.elapsed() < FRESH
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use natter_shared::position::Epoch;

    use super::*;

    #[test]
    fn a_proof_ages_and_a_loss_voids_canaries_until_it_is_checked() {
        let (shard, other) = (Shard(0), Shard(1));
        let knowledge = Knowledge::new(Shards::new(2).unwrap());
        let at = |seq| Position::new(Epoch(1), seq);
        let now = Instant::now();
        knowledge.canary(shard, now, at(5), 0);
        assert!(!knowledge.is_fresh(shard), "nothing is checked yet");
        assert_eq!(knowledge.recent(shard), Some((now, at(5))), "but the position is known");
        knowledge.checked(shard, now, 0);
        assert!(knowledge.is_fresh(shard) && !knowledge.is_fresh(other));
        // Deliveries were lost: generation 1. Canaries after that prove nothing.
        let before = knowledge.shards[0].at.load(Ordering::Acquire);
        knowledge.canary(shard, now + Duration::from_secs(3), at(9), 1);
        assert_eq!(knowledge.shards[0].at.load(Ordering::Acquire), before);
        knowledge.checked(shard, now + Duration::from_secs(4), 1);
        knowledge.canary(shard, now + Duration::from_secs(5), at(12), 1);
        assert_eq!(knowledge.shards[0].at.load(Ordering::Acquire), before + 5000);
        assert!(is_fresh(10_000, 5501) && !is_fresh(10_000, 5500) && !is_fresh(100, 0));
    }
}
