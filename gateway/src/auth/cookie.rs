//! What the session cookie holds: who has signed in and until when, signed with a key of its own.
//! No bearer token is of this shape or key, so neither is taken for the other.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use natter_shared::{id::UserId, timestamp::Timestamp};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{AuthError, Identity, claims::LAST_SECOND, derive};

/// The longest value looked at, in bytes. Id and names are at most 640 bytes, twice that in JSON.
const MAX_BYTES: usize = 4 * 1024;

/// Signs and checks session cookies: `<JSON in base64url>.<HMAC-SHA-256 in base64url>`.
pub struct Sessions {
    key: Hmac<Sha256>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    sub: UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    handle: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Seconds since the epoch.
    exp: u64,
    /// When the token was issued that it was given for, in milliseconds since the epoch; the release before does not say.
    #[serde(default)]
    iat: u64,
}

impl Sessions {
    pub(super) fn new(secret: &[u8]) -> Self {
        Self { key: derive::key("natter session key", secret) }
    }

    /// A cookie's value for `identity` from `now` on, and when it ends. The token that was signed in
    /// with may end before. The cookie is as old as that token: what revokes one revokes the other, also while it is being signed in.
    pub fn issue(&self, identity: &Identity, now: Timestamp, lifetime: Duration) -> (String, Timestamp) {
        let exp = (now.0 / 1000).saturating_add(lifetime.as_secs()).min(LAST_SECOND);
        let iat = identity.issued_at.min(now).0;
        let content =
            Content { sub: identity.user.clone(), handle: identity.handle.clone(), name: identity.display_name.clone(), exp, iat };
        // Plain data: writing it cannot fail.
        let content = BASE64URL_NOPAD.encode(&serde_json::to_vec(&content).unwrap_or_default());
        let signature = BASE64URL_NOPAD.encode(&self.mac(&content).finalize().into_bytes());
        (format!("{content}.{signature}"), Timestamp(exp * 1000))
    }

    /// Who a cookie's value was issued for, if it holds at `now`.
    pub fn verify(&self, value: &str, now: Timestamp) -> Result<Identity, AuthError> {
        if value.len() > MAX_BYTES {
            return Err(AuthError::Malformed);
        }
        let decoded = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| AuthError::Malformed);
        let (content, signature) = value.split_once('.').ok_or(AuthError::Malformed)?;
        self.mac(content).verify_slice(&decoded(signature)?).map_err(|_| AuthError::Signature)?;
        let content: Content = serde_json::from_slice(&decoded(content)?).map_err(|_| AuthError::Claims)?;
        let expires_at = Timestamp(content.exp.min(LAST_SECOND) * 1000);
        if now >= expires_at {
            return Err(AuthError::Expired);
        }
        let issued_at = Timestamp(content.iat);
        Ok(Identity { user: content.sub, handle: content.handle, display_name: content.name, expires_at, issued_at })
    }

    fn mac(&self, content: &str) -> Hmac<Sha256> {
        self.key.clone().chain_update(content.as_bytes())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_500);

    fn alice() -> Identity {
        Identity {
            user: UserId::new("alice").unwrap(),
            handle: Some("al".to_owned()),
            display_name: Some("愛麗絲 \"A\"".to_owned()),
            expires_at: Timestamp(0),
            issued_at: Timestamp(NOW.0 - 10_000),
        }
    }

    #[test]
    fn a_cookie_tells_who_until_it_ends() {
        let sessions = Sessions::new(b"one");
        let (value, ends) = sessions.issue(&alice(), NOW, Duration::from_mins(1));
        assert_eq!(ends, Timestamp(1_800_000_060_000));
        let identity = sessions.verify(&value, Timestamp(ends.0 - 1)).unwrap();
        assert_eq!(identity, Identity { expires_at: ends, ..alice() });
        let ahead = Identity { issued_at: Timestamp(NOW.0 + 1), ..alice() };
        let (value, _) = sessions.issue(&ahead, NOW, Duration::from_mins(1));
        assert_eq!(sessions.verify(&value, NOW).unwrap().issued_at, NOW);
        assert_eq!(sessions.verify(&value, ends), Err(AuthError::Expired));
        // Another gateway, the same secret; and one with another.
        assert!(Sessions::new(b"one").verify(&value, NOW).is_ok());
        assert_eq!(Sessions::new(b"another").verify(&value, NOW), Err(AuthError::Signature));
    }

    #[test]
    fn a_changed_cookie_does_not_hold() {
        let sessions = Sessions::new(b"one");
        let (value, _) = sessions.issue(&alice(), NOW, Duration::from_mins(1));
        for at in 0..value.len() {
            let mut changed = value.clone().into_bytes();
            if let Some(byte) = changed.get_mut(at) {
                *byte = if *byte == b'A' { b'B' } else { b'A' };
            }
            let changed = String::from_utf8(changed).unwrap();
            assert!(sessions.verify(&changed, NOW).is_err() || changed == value, "{at}");
            assert!(sessions.verify(value.get(..at).unwrap(), NOW).is_err(), "{at}");
        }
        let content = value.split('.').next().unwrap();
        for bad in ["", ".", "a.b", &format!("{content}."), &format!("{content}.AAAA"), &"A".repeat(10_000), "大.廳"] {
            assert!(sessions.verify(bad, NOW).is_err(), "{bad}");
        }
    }
}
