//! How often somebody may call: a token bucket for each user and each API key, in tables that are
//! bounded and forget who is quiet.

use std::{hash::Hash, sync::Arc, time::Duration, time::Instant};

use moka::sync::Cache;
use natter_shared::{config::Limits, frame::ErrorCode, id::UserKey};
use parking_lot::Mutex;
use uuid::Uuid;

use super::Problem;
use crate::{
    limit::Limit,
    rate::{Bucket, Rate},
};

/// Callers that are remembered.
const REMEMBERED: u64 = 100_000;

/// By then a bucket is full again.
const QUIET: Duration = Duration::from_mins(10);

/// The rates of all callers.
pub struct Rates {
    users: Table<UserKey>,
    keys: Table<Uuid>,
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
    pub(super) fn take_key(&self, key: Uuid) -> Result<(), Problem> {
        self.keys.take(key)
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> Table<K> {
    fn new(per_second: u32, burst: u32, limit: Limit) -> Self {
        let rate = Rate::new(per_second.into(), burst.into());
        Self { buckets: Cache::builder().max_capacity(REMEMBERED).time_to_idle(QUIET).build(), rate, limit }
    }

    fn take(&self, who: K) -> Result<(), Problem> {
        let now = Instant::now();
        let bucket = self.buckets.get_with(who, || Arc::new(Mutex::new(Bucket::new(now))));
        let allowed = bucket.lock().take(&self.rate, 1, now);
        if allowed { Ok(()) } else { Err(Problem::over(self.limit, ErrorCode::RateLimited, "calls come faster than allowed")) }
    }
}
