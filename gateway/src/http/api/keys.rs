//! Keys of the server API. What is known of a key is at most 5 s old, so that a revoked one is
//! refused within that; and who tries keys that do not hold is refused for a while, but for keys that have held here.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::http::{HeaderMap, header};
use moka::sync::Cache;
use natter_shared::{
    broker::Broker,
    frame::ErrorCode,
    rpc::{self, ApiKey, CheckApiKey},
};
use sha2::{Digest, Sha256};

use crate::{admission::counted, http::Problem};

/// How every key begins.
const PREFIX: &str = "ntr_";

/// The longest text that is looked at as a key.
const LONGEST: usize = 256;

/// How long a verdict holds. With the time of the question itself it stays below 5 s.
const VERDICT: Duration = Duration::from_secs(4);

/// Verdicts that are kept.
const VERDICTS: u64 = 10_000;

/// Keys that held once are asked for at all times: those who try wrong ones from the same address do not hold them up.
const HELD: Duration = Duration::from_hours(24);

/// Keys that do not hold, from one address within [`WINDOW`]; beyond it is 429.
const FAILURES: u32 = 30;
const WINDOW: Duration = Duration::from_mins(1);

/// Addresses that are remembered.
const ADDRESSES: u64 = 100_000;

/// What is known of keys, and of who tries wrong ones.
pub(super) struct Keys {
    verdicts: Cache<[u8; 32], Option<ApiKey>>,
    held: Cache<[u8; 32], ()>,
    failures: Cache<IpAddr, Arc<AtomicU32>>,
}

impl Keys {
    pub(super) fn new() -> Self {
        Self {
            verdicts: Cache::builder().max_capacity(VERDICTS).time_to_live(VERDICT).build(),
            held: Cache::builder().max_capacity(VERDICTS).time_to_idle(HELD).build(),
            failures: Cache::builder().max_capacity(ADDRESSES).time_to_live(WINDOW).build(),
        }
    }

    /// The key that a request comes with.
    ///
    /// # Errors
    /// 401 without one that holds, 429 after too many such from this address, 503 where nobody
    /// can tell.
    pub(super) async fn check(&self, broker: &dyn Broker, headers: &HeaderMap, from: Option<IpAddr>) -> Result<ApiKey, Problem> {
        let unauthorized = || Problem::of(ErrorCode::Unauthorized, "the API key is missing, does not hold or was revoked");
        let text = key_of(headers).ok_or_else(unauthorized)?;
        let hash: [u8; 32] = Sha256::digest(text).into();
        let known = self.verdicts.get(&hash);
        if let Some(Some(key)) = known {
            return Ok(key);
        }
        let failures = from.map(|address| self.failures.get_with(counted(address), Arc::default));
        let is_new = !self.held.contains_key(&hash);
        if is_new && failures.as_ref().is_some_and(|failures| failures.load(Ordering::Relaxed) >= FAILURES) {
            return Err(Problem::of(ErrorCode::RateLimited, "too many keys from this address that do not hold"));
        }
        let verdict = match known {
            Some(verdict) => verdict,
            None => {
                let sha256 = data_encoding::HEXLOWER.encode(&hash);
                let verdict = rpc::call(broker, CheckApiKey { sha256 }, None).await?.reply;
                self.verdicts.insert(hash, verdict.clone());
                verdict
            }
        };
        if verdict.is_some() {
            self.held.insert(hash, ());
        }
        verdict.ok_or_else(|| {
            if let Some(failures) = failures {
                failures.fetch_add(1, Ordering::Relaxed);
            }
            unauthorized()
        })
    }
}

/// The text of a key, if the header has one and no more.
fn key_of(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && key.starts_with(PREFIX) && key.len() <= LONGEST).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{API_KEY, FakeBroker};

    #[tokio::test]
    async fn wrong_keys_do_not_hold_up_one_that_has_held() {
        let (keys, broker) = (Keys::new(), FakeBroker::default());
        let status = async |key: &str, from: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {key}").parse().unwrap())]);
            keys.check(&broker, &headers, Some(from.parse().unwrap())).await.map_err(|problem| problem.status().as_u16()).err()
        };
        assert_eq!(status(API_KEY, "2001:db8::1").await, None);
        for wrong in 0..FAILURES {
            assert_eq!(status(&format!("ntr_{wrong}"), &format!("2001:db8::{wrong}")).await, Some(401));
        }
        assert_eq!(status("ntr_wrong", "2001:db8::ffff").await, Some(429), "their network counts as one");
        assert_eq!(status("ntr_wrong", "2001:db8:0:1::1").await, Some(401), "others' does not");
        // What is known of it has become too old.
        keys.verdicts.invalidate_all();
        assert_eq!(status(API_KEY, "2001:db8::1").await, None, "it is asked for again");
    }
}
