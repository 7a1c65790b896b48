//! How often somebody may call: a token bucket for each user and each API key, in tables that are
//! bounded and forget who is quiet.

use std::{
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use moka::sync::Cache;
use natter_shared::{config::Limits, frame::ErrorCode, id::UserKey};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    http::Problem,
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
}

struct Table<K> {
    buckets: Cache<K, Arc<Mutex<Bucket>>>,
    rate: Rate,
    limit: Limit,
}

impl Rates {
    /// Nobody has called yet.
    pub fn new(limits: &Limits) -> Self {
        Self {
            users: Table::new(limits.http_requests_per_second, limits.http_requests_burst, Limit::HttpRequestsPerSecond),
            keys: Table::new(limits.server_requests_per_second, limits.server_requests_burst, Limit::ServerRequestsPerSecond),
            look_ups: Table::new(limits.http_requests_per_second, most_look_ups(limits), Limit::HttpRequestsPerSecond),
        }
    }

    /// A call of a user, or a page that is shown to one.
    ///
    /// # Errors
    /// 429 with `Retry-After`.
    pub(crate) fn take_user(&self, user: UserKey) -> Result<(), Problem> {
        self.users.take(user)
    }

    /// A call under an API key.
    ///
    /// # Errors
    /// 429 with `Retry-After`.
    pub(crate) fn take_key(&self, key: Uuid) -> Result<(), Problem> {
        self.keys.take(key)
    }

    /// So many look-ups behind the gateway for a user's sockets, `limits.groups_per_connection` at most: as many as calls in the
    /// long run, and at once enough to resume in every group that a connection may have.
    ///
    /// # Errors
    /// How long it takes until there are so many again.
    pub(crate) fn take_look_ups(&self, user: UserKey, count: u32) -> Result<(), Duration> {
        self.look_ups.take_or_wait(user, count)
    }
}

fn most_look_ups(limits: &Limits) -> u32 {
    u32::try_from(limits.groups_per_connection).unwrap_or(u32::MAX).max(limits.http_requests_burst)
}

impl<K: Hash + Eq + Send + Sync + 'static> Table<K> {
    fn new(per_second: u32, burst: u32, limit: Limit) -> Self {
        let rate = Rate::new(per_second.into(), burst.into());
        let idle = QUIET.max(rate.full_after());
        Self { buckets: Cache::builder().max_capacity(REMEMBERED).time_to_idle(idle).build(), rate, limit }
    }

    fn take(&self, who: K) -> Result<(), Problem> {
        self.take_or_wait(who, 1).map_err(|_| Problem::over(self.limit, ErrorCode::RateLimited, "calls come faster than allowed"))
    }

    fn take_or_wait(&self, who: K, tokens: u32) -> Result<(), Duration> {
        let now = Instant::now();
        let bucket = self.buckets.get_with(who, || Arc::new(Mutex::new(Bucket::new(now))));
        bucket.lock().take_or_wait(&self.rate, tokens, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_debt_is_not_forgotten() {
        for (per_second, burst, idle) in [(50, 200, QUIET), (50, 100_000, Duration::from_secs(2000))] {
            let table = Table::<UserKey>::new(per_second, burst, Limit::HttpRequestsPerSecond);
            assert_eq!(table.buckets.policy().time_to_idle(), Some(idle));
        }
    }
}
