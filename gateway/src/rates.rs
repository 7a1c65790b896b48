//! How often somebody may call, or notify groups: a token bucket for each user and each API key, in tables
//! that are bounded and forget who is quiet.

use std::{
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use moka::sync::Cache;
use natter_shared::{config::Limits, id::UserKey};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    limit::Limit,
    rate::{Bucket, Rate},
};

/// Callers that are remembered.
const REMEMBERED: u64 = 100_000;

/// Who has been quiet for so long is forgotten, and for as long as an empty bucket takes to fill.
const QUIET: Duration = Duration::from_mins(10);

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
    buckets: Cache<K, Arc<Mutex<Bucket>>>,
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
        self.look_ups.give_back(user, count);
    }

    /// A notification of a user to a group, which is a row for each of its members.
    pub(crate) fn take_group_notification(&self, user: UserKey) -> Result<(), TooFast> {
        self.group_notifications.take(user, 1)
    }
}

fn most_look_ups(limits: &Limits) -> u32 {
    u32::try_from(limits.groups_per_connection).unwrap_or(u32::MAX).max(limits.http_requests_burst)
}

impl<K: Hash + Eq + Send + Sync + 'static> Table<K> {
    fn new(rate: Rate, limit: Limit) -> Self {
        let idle = QUIET.max(rate.full_after());
        Self { buckets: Cache::builder().max_capacity(REMEMBERED).time_to_idle(idle).build(), rate, limit }
    }

    fn take(&self, who: K, tokens: u32) -> Result<(), TooFast> {
        let now = Instant::now();
        let bucket = self.buckets.get_with(who, || Arc::new(Mutex::new(Bucket::new(now))));
        bucket.lock().take_or_wait(&self.rate, tokens, now).map_err(|wait| TooFast { limit: self.limit, wait })
    }

    fn give_back(&self, who: K, tokens: u32) {
        if let Some(bucket) = self.buckets.get(&who) {
            bucket.lock().give_back(&self.rate, tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_debt_is_not_forgotten() {
        for (per_second, burst, idle) in [(50, 200, QUIET), (50, 100_000, Duration::from_secs(2000))] {
            let table = Table::<UserKey>::new(Rate::new(per_second, burst), Limit::HttpRequestsPerSecond);
            assert_eq!(table.buckets.policy().time_to_idle(), Some(idle));
        }
    }
}
