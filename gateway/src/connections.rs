//! Who is connected how often.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use dashmap::DashMap;
use natter_shared::id::UserKey;

/// Connections by user, to bound them.
#[derive(Default)]
pub struct Connections {
    users: Arc<DashMap<UserKey, AtomicUsize>>,
}

/// A user's place among the connections; dropped, it is free again.
pub struct Seat {
    users: Arc<DashMap<UserKey, AtomicUsize>>,
    user: UserKey,
}

impl Connections {
    /// A place for a connection of `user`, if fewer than `limit` are taken.
    pub fn sit(&self, user: &UserKey, limit: usize) -> Option<Seat> {
        let taken = self.users.entry(*user).or_default().fetch_add(1, Ordering::Relaxed);
        let seat = Seat { users: Arc::clone(&self.users), user: *user };
        (taken < limit).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.users.remove_if(&self.user, |_, taken| taken.fetch_sub(1, Ordering::Relaxed) <= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_as_many_seats_as_allowed() {
        let connections = Connections::default();
        let user = UserKey(7);
        let first = connections.sit(&user, 2);
        let second = connections.sit(&user, 2);
        assert!(first.is_some() && second.is_some());
        assert!(connections.sit(&user, 2).is_none());
        drop(first);
        assert!(connections.sit(&user, 2).is_some());
        drop(second);
        assert!(connections.users.is_empty());
    }
}
