//! The keys that an issuer publishes (RFC 7517): one task fetches them (`fetch`), now and then and
//! when a token names a key that is not known, never more often than the cooldown allows; tokens are
//! checked against the last set (`set`), without waiting.

mod fetch;
mod set;

use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use natter_shared::config::{Algorithm, Auth};
use tokio::{
    sync::{Notify, watch},
    time,
};

pub use fetch::FetchError;
use fetch::Fetcher;
use set::KeySet;

use super::{AuthError, key::VerifyingKey};

/// An issuer's published keys.
pub(super) struct Jwks {
    issuer: String,
    algorithm: Algorithm,
    times: Times,
    fetcher: Fetcher,
    known: ArcSwap<Known>,
    /// Somebody wants a fetch before its time.
    wanted: Notify,
    rounds: watch::Sender<Rounds>,
}

/// The config's `auth.jwks_…`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) refresh: Duration,
    pub(super) cooldown: Duration,
    pub(super) max_stale: Duration,
    pub(super) wait: Duration,
}

#[derive(Default)]
struct Known {
    keys: KeySet,
    /// When the last fetch that succeeded began.
    at: Option<Instant>,
}

/// The fetches so far.
#[derive(Debug, Default, Clone, Copy)]
struct Rounds {
    begun: u64,
    ended: u64,
    /// When the last one began.
    at: Option<Instant>,
}

impl Jwks {
    /// Knows nothing yet: [`Jwks::keep`] fetches.
    pub(super) fn new(issuer: &str, algorithm: Algorithm, url: &str, config: &Auth) -> Result<Self, FetchError> {
        let times = Times {
            refresh: config.jwks_refresh,
            cooldown: config.jwks_cooldown,
            max_stale: config.jwks_max_stale,
            wait: config.jwks_wait,
        };
        let fetcher = Fetcher::new(url, config.jwks_timeout, config.jwks_max_bytes)?;
        Ok(Self {
            issuer: issuer.to_owned(),
            algorithm,
            times,
            fetcher,
            known: ArcSwap::default(),
            wanted: Notify::new(),
            rounds: watch::Sender::default(),
        })
    }

    /// Tries `check` with each key that a token may be signed with. A key whose name is not known may
    /// be of a newer set than ours: [`AuthError::UnknownKey`]; without any set, [`AuthError::NoKeys`].
    pub(super) fn check(&self, kid: Option<&str>, check: impl Fn(&VerifyingKey) -> Result<(), AuthError>) -> Result<(), AuthError> {
        let known = self.known.load();
        // Keys that nobody has confirmed for so long may have been withdrawn since.
        if known.at.is_none_or(|at| at.elapsed() > self.times.max_stale) {
            return Err(AuthError::NoKeys);
        }
        known.keys.check(kid, check)
    }

    /// Waits for a fetch, for a while; at once where the last one is too young for another. That comes
    /// when it may.
    pub(super) async fn refreshed(&self) {
        let mut rounds = self.rounds.subscribe();
        let now = *rounds.borrow_and_update();
        self.wanted.notify_one();
        if now.begun == now.ended && now.at.is_some_and(|at| at.elapsed() < self.times.cooldown) {
            return;
        }
        // The task is gone, or it takes too long: what is known has to do.
        let _ = time::timeout(self.times.wait, rounds.wait_for(|rounds| rounds.ended > now.ended)).await;
    }

    /// Keeps the keys fresh, for ever.
    pub(super) async fn keep(&self) {
        loop {
            let begun = Instant::now();
            self.rounds.send_modify(|rounds| (rounds.begun, rounds.at) = (rounds.begun + 1, Some(begun)));
            let fetched = self.fetch(begun).await;
            self.rounds.send_modify(|rounds| rounds.ended = rounds.begun);
            time::sleep_until((begun + self.times.cooldown).into()).await;
            if fetched {
                // Not all gateways at once.
                let refresh = self.times.refresh.mul_f64(rand::random_range(0.9..=1.0));
                let _ = time::timeout(refresh.saturating_sub(begun.elapsed()), self.wanted.notified()).await;
            }
        }
    }

    async fn fetch(&self, begun: Instant) -> bool {
        let fetched = match self.fetcher.fetch().await {
            Ok(body) => KeySet::parse(self.algorithm, &body).map_err(FetchError::NotASet),
            Err(error) => Err(error),
        };
        let issuer = &self.issuer;
        match fetched {
            Ok((keys, refused)) => {
                for (kid, reason) in refused {
                    tracing::debug!(issuer, kid, %reason, "jwks_key_not_used");
                }
                if keys.is_empty() {
                    tracing::warn!(issuer, "jwks_without_usable_key");
                }
                self.known.store(Known { keys, at: Some(begun) }.into());
                true
            }
            Err(error) => {
                // The keys that are known go on until auth.jwks_max_stale.
                tracing::warn!(issuer, %error, "jwks_not_fetched");
                false
            }
        }
    }
}
