//! A set of keys, as it was published: those that can be used, by their names.

use std::collections::HashMap;

use jsonwebtoken::jwk::Jwk;
use natter_shared::config::Algorithm;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::auth::{
    AuthError,
    key::{KeyError, VerifyingKey},
};

/// Keys by `kid`; none where a key has no name. A name may be there twice (RFC 7517 section 4.5):
/// then each of them may be the one.
#[derive(Default)]
pub(super) struct KeySet {
    keys: HashMap<Option<String>, Vec<VerifyingKey>>,
}

#[derive(Deserialize)]
struct Published<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// Keys that are not used, by their names, and why.
pub(super) type Refused = Vec<(String, KeyError)>;

impl KeySet {
    /// Reads a set. One bad key does not spoil the others: sets hold keys for other purposes, and of
    /// kinds that are yet to come (RFC 7517 section 5).
    pub(super) fn parse(algorithm: Algorithm, body: &[u8]) -> Result<(Self, Refused), serde_json::Error> {
        let published: Published<'_> = serde_json::from_slice(body)?;
        let (mut set, mut refused) = (Self::default(), Vec::new());
        for raw in published.keys {
            let Ok(jwk) = serde_json::from_str::<Jwk>(raw.get()) else {
                refused.push((String::new(), KeyError::NotAKey(algorithm)));
                continue;
            };
            match VerifyingKey::from_jwk(algorithm, &jwk) {
                Ok(key) => set.keys.entry(jwk.common.key_id).or_default().push(key),
                Err(reason) => refused.push((jwk.common.key_id.unwrap_or_default(), reason)),
            }
        }
        Ok((set, refused))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Tries `check` with each key that a token with this `kid` may be signed with. One without may
    /// be signed with the only key there is: more would have to be told apart.
    pub(super) fn check(&self, kid: Option<&str>, check: impl Fn(&VerifyingKey) -> Result<(), AuthError>) -> Result<(), AuthError> {
        let keys = match kid {
            Some(kid) => self.keys.get(&Some(kid.to_owned())).ok_or(AuthError::UnknownKey)?,
            None => {
                let mut all = self.keys.values();
                match (all.next(), all.next()) {
                    (Some(only), None) if only.len() == 1 => only,
                    (None, _) => return Err(AuthError::UnknownKey),
                    (Some(_), _) => return Err(AuthError::NoKeyId),
                }
            }
        };
        let mut outcome = Err(AuthError::Signature);
        for key in keys {
            outcome = check(key);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}
