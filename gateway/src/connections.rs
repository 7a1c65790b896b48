//! What the connections of one user share: how many there may be, and how much they may ask together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use dashmap::DashMap;
use moka::sync::Cache;
use natter_shared::{config::Limits, id::UserKey};
use parking_lot::Mutex;

use crate::{
    limit::Limit,
    rate::{Bucket, Rate},
    rates::TooFast,
};

/// Users who have gone and are remembered until they may ask for as much as anybody.
const REMEMBERED: u64 = 100_000;

/// Connections by user.
pub struct Connections {
    table: Arc<Table>,
    rate: Rate,
}

struct Table {
    users: DashMap<UserKey, Arc<Share>>,
    /// Whose last connection ended a moment ago: who comes back has no more for it.
    left: Cache<UserKey, Arc<Share>>,
}

/// What a user's connections share.
pub struct Share {
    connections: AtomicUsize,
    frames: Mutex<Bucket>,
}

/// A user's place among the connections; dropped, it is free again.
pub struct Seat {
    table: Arc<Table>,
    user: UserKey,
    share: Arc<Share>,
}

impl Connections {
    /// Nobody is connected yet.
    pub fn new(limits: &Limits) -> Self {
        let rate = Rate::new(limits.user_frames_per_second.into(), limits.user_frames_burst.into());
        let left = Cache::builder().max_capacity(REMEMBERED).time_to_live(rate.full_after()).build();
        Self { table: Arc::new(Table { users: DashMap::new(), left }), rate }
    }

    /// A place for a connection of `user`, if fewer than `limit` are taken.
    pub fn sit(&self, user: &UserKey, limit: usize) -> Option<Seat> {
        let table = &self.table;
        let entry = table.users.entry(*user).or_insert_with(|| table.left.remove(user).unwrap_or_default());
        let share = Arc::clone(&entry);
        let taken = share.connections.fetch_add(1, Ordering::Relaxed);
        drop(entry);
        let seat = Seat { table: Arc::clone(table), user: *user, share };
        (taken < limit).then_some(seat)
    }

    /// One of the frames that are stored, or told to others.
    pub(crate) fn take_frame(&self, share: &Share) -> Result<(), TooFast> {
        let taken = share.frames.lock().take_or_wait(&self.rate, 1, Instant::now());
        taken.map_err(|wait| TooFast { limit: Limit::UserFramesPerSecond, wait })
    }
}

impl Default for Share {
    fn default() -> Self {
        Self { connections: AtomicUsize::new(0), frames: Mutex::new(Bucket::new(Instant::now())) }
    }
}

impl Seat {
    /// What the connection shares with the user's others.
    pub(crate) fn share(&self) -> &Arc<Share> {
        &self.share
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.table.users.remove_if(&self.user, |_, share| {
            let is_last = share.connections.fetch_sub(1, Ordering::Relaxed) <= 1;
            if is_last && !share.frames.lock().is_full(Instant::now()) {
                self.table.left.insert(self.user, Arc::clone(share));
            }
            is_last
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_as_many_seats_as_allowed() {
        let connections = Connections::new(&Limits::default());
        let user = UserKey(7);
        let first = connections.sit(&user, 2);
        let second = connections.sit(&user, 2);
        assert!(first.is_some() && second.is_some());
        assert!(connections.sit(&user, 2).is_none());
        drop(first);
        assert!(connections.sit(&user, 2).is_some());
        drop(second);
        assert!(connections.table.users.is_empty());
    }

    #[test]
    fn a_users_connections_have_one_rate_and_coming_back_brings_no_more() {
        let limits = Limits { user_frames_per_second: 1, user_frames_burst: 5, ..Limits::default() };
        let connections = Connections::new(&limits);
        let sit = |user| connections.sit(&UserKey(user), 9).unwrap();
        let take = |seat: &Seat| connections.take_frame(seat.share());
        let (one, other) = (sit(7), sit(7));
        assert!((0..3).all(|_| take(&one).is_ok()) && (0..2).all(|_| take(&other).is_ok()));
        for seat in [&one, &other] {
            let refused = take(seat).unwrap_err();
            assert_eq!(refused.limit, Limit::UserFramesPerSecond);
            assert!(refused.wait.as_millis() > 500, "{refused:?}");
        }
        assert_eq!(take(&sit(8)), Ok(()), "others are not held up");
        drop((one, other));
        assert!(take(&sit(7)).is_err());
        drop(sit(9));
        assert!(connections.table.left.get(&UserKey(9)).is_none(), "who has asked for nothing is forgotten");
    }
}
