//! How often somebody may call, or notify groups: a token bucket for each user and each API key, in tables
//! that are bounded and forget who is quiet.

use std::{
    hash::Hash,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use dashmap::{DashMap, Entry};
use natter_shared::{config::Limits, id::UserKey};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    limit::Limit,
    rate::{Bucket, Rate},
};

/// Callers that a table remembers after it has forgotten those who need not be.
const REMEMBERED: usize = 100_000;

/// After so many new callers, or as many as there are, a table looks whom it need not remember: a bucket costs 32 bytes, and for
/// most it is full again within a second.
const LOOKED_AT: usize = 1024;

/// The rates of all callers.
pub struct Rates {
    users: Table<UserKey>,
    keys: Table<Uuid>,
    look_ups: Table<UserKey>,
    group_notifications: Table<UserKey>,
}

/// Something comes faster than a limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFast {
    /// Which.
    pub limit: Limit,
    /// Until there is room for it.
    pub wait: Duration,
}

struct Table<K> {
    buckets: DashMap<K, Bucket>,
    /// Callers who were entered since it last looked whom to forget, and after how many it looks again.
    entered: AtomicUsize,
    look_after: AtomicUsize,
    /// One looks at a time.
    looks: Mutex<()>,
    rate: Rate,
    limit: Limit,
}

impl Rates {
    /// Nobody has called yet.
    pub fn new(limits: &Limits) -> Self {
        let per_second = |rate: u32, burst: u32| Rate::new(rate.into(), burst.into());
        let users = per_second(limits.http_requests_per_second, limits.http_requests_burst);
        let keys = per_second(limits.server_requests_per_second, limits.server_requests_burst);
        let look_ups = per_second(limits.http_requests_per_second, most_look_ups(limits));
        let group_notifications = limits.group_notifications_per_minute.into();
        let group_notifications = Rate::per_minute(group_notifications, group_notifications);
        Self {
            users: Table::new(users, Limit::HttpRequestsPerSecond),
            keys: Table::new(keys, Limit::ServerRequestsPerSecond),
            look_ups: Table::new(look_ups, Limit::HttpRequestsPerSecond),
            group_notifications: Table::new(group_notifications, Limit::GroupNotificationsPerMinute),
        }
    }

    /// A call of a user, or a page that is shown to one.
    pub(crate) fn take_user(&self, user: UserKey) -> Result<(), TooFast> {
        self.users.take(user, 1)
    }

    /// A call under an API key.
    pub(crate) fn take_key(&self, key: Uuid) -> Result<(), TooFast> {
        self.keys.take(key, 1)
    }

    /// So many look-ups behind the gateway for a user's sockets, `limits.groups_per_connection` at most: as many as calls in the
    /// long run, and at once enough to resume in every group that a connection may have.
    pub(crate) fn take_look_ups(&self, user: UserKey, count: u32) -> Result<(), TooFast> {
        self.look_ups.take(user, count)
    }

    /// So many of them were not made.
    pub(crate) fn give_back_look_ups(&self, user: UserKey, count: u32) {
        self.look_ups.give_back(&user, count);
    }

    /// A notification of a user to a group, which is a row for each of its members.
    pub(crate) fn take_group_notification(&self, user: UserKey) -> Result<(), TooFast> {
        self.group_notifications.take(user, 1)
    }
}

fn most_look_ups(limits: &Limits) -> u32 {
    u32::try_from(limits.groups_per_connection).unwrap_or(u32::MAX).max(limits.http_requests_burst)
}

impl<K: Hash + Eq> Table<K> {
    fn new(rate: Rate, limit: Limit) -> Self {
        Self {
            buckets: DashMap::new(),
            entered: AtomicUsize::new(0),
            look_after: AtomicUsize::new(LOOKED_AT),
            looks: Mutex::new(()),
            rate,
            limit,
        }
    }

    fn take(&self, who: K, tokens: u32) -> Result<(), TooFast> {
        let now = Instant::now();
        let too_fast = |wait| TooFast { limit: self.limit, wait };
        match self.buckets.entry(who) {
            Entry::Occupied(mut known) => return known.get_mut().take_or_wait(&self.rate, tokens, now).map_err(too_fast),
            Entry::Vacant(unknown) => {
                let mut bucket = Bucket::new(now);
                bucket.take_or_wait(&self.rate, tokens, now).map_err(too_fast)?;
                unknown.insert(bucket);
            }
        }
        if self.entered.fetch_add(1, Ordering::Relaxed) >= self.look_after.load(Ordering::Relaxed) {
            self.forget(now);
        }
        Ok(())
    }

    fn give_back(&self, who: &K, tokens: u32) {
        if let Some(mut bucket) = self.buckets.get_mut(who) {
            bucket.give_back(&self.rate, tokens);
        }
    }

    /// Forgets those whose bucket is full, as an unknown one's is; next time after as many more as there are left.
    fn forget(&self, now: Instant) {
        let Some(_looks) = self.looks.try_lock() else { return };
        self.entered.store(0, Ordering::Relaxed);
        self.buckets.retain(|_, bucket| !bucket.is_full(now));
        let mut excess = self.buckets.len().saturating_sub(REMEMBERED);
        if excess > 0 {
            self.buckets.retain(|_, _| {
                let stays = excess == 0;
                excess = excess.saturating_sub(1);
                stays
            });
        }
        self.look_after.store(self.buckets.len().max(LOOKED_AT), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_debt_is_not_forgotten_and_others_are() {
        let table = Table::<u128>::new(Rate::new(1, 100), Limit::HttpRequestsPerSecond);
        assert_eq!(table.take(0, 100), Ok(()));
        let others = LOOKED_AT as u128;
        let has_come = Instant::now() + Duration::from_secs(2);
        assert!((1..=others).all(|who| table.take(who, 1).is_ok()));
        table.forget(has_come);
        assert!(table.take(0, 1).is_err(), "it owes still");
        assert_eq!(table.buckets.len(), 1);
    }

    #[test]
    fn who_asks_for_too_much_at_once_is_not_remembered() {
        let table = Table::<u128>::new(Rate::new(1, 100), Limit::HttpRequestsPerSecond);
        assert!(table.take(0, 101).is_err() && table.buckets.is_empty());
    }

    #[test]
    fn a_table_does_not_grow_without_end() {
        let table = Table::<u128>::new(Rate::new(1, 100_000), Limit::HttpRequestsPerSecond);
        let most = REMEMBERED * 2 + LOOKED_AT;
        for who in 0..(3 * REMEMBERED) as u128 {
            assert_eq!(table.take(who, 100), Ok(()));
        }
        assert!(table.buckets.len() <= most, "{}", table.buckets.len());
    }
}
