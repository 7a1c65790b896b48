//! Proof that a form was sent by a page that can read our cookies: Django's double submit. A
//! signed random token lies in a cookie that scripts can read, and comes back in the form or a
//! header; another site's page can send the cookie, but not say what is in it.
//!
//! The signature also covers the user, so a cookie planted by a neighbouring host does not do.

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use natter_shared::id::UserId;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::derive;

const RANDOM_BYTES: usize = 16;

/// Signs and checks CSRF tokens.
pub struct Csrf {
    key: Hmac<Sha256>,
}

impl Csrf {
    /// With a key of its own, derived from `secret`.
    pub(super) fn new(secret: &[u8]) -> Self {
        Self { key: derive::key("natter csrf key", secret) }
    }

    /// A fresh token for `user`, or for somebody not signed in. 64 characters of base64url.
    pub fn issue(&self, user: Option<&UserId>) -> String {
        let random: [u8; RANDOM_BYTES] = rand::random();
        let mut token = random.to_vec();
        token.extend_from_slice(&self.mac(&random, user).finalize().into_bytes());
        BASE64URL_NOPAD.encode(&token)
    }

    /// Whether `token` is one of ours, made for `user`.
    pub fn is_ours(&self, token: &str, user: Option<&UserId>) -> bool {
        let Ok(bytes) = BASE64URL_NOPAD.decode(token.as_bytes()) else { return false };
        let Some((random, signature)) = bytes.split_at_checked(RANDOM_BYTES) else { return false };
        self.mac(random, user).verify_slice(signature).is_ok()
    }

    /// Whether a form holds: what it echoes is what the cookie says, and that is ours. Takes the
    /// same time wherever the two differ.
    pub fn holds(&self, cookie: &str, echo: &str, user: &UserId) -> bool {
        bool::from(cookie.as_bytes().ct_eq(echo.as_bytes())) && self.is_ours(cookie, Some(user))
    }

    fn mac(&self, random: &[u8], user: Option<&UserId>) -> Hmac<Sha256> {
        self.key.clone().chain_update(random).chain_update(user.map_or("", UserId::as_str).as_bytes())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_for_its_user_and_key_only() {
        let (csrf, other) = (Csrf::new(b"one"), Csrf::new(b"another"));
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let token = csrf.issue(Some(&alice));
        assert_eq!(token.len(), 64);
        assert!(csrf.holds(&token, &token, &alice));
        assert!(!csrf.holds(&token, &token, &bob));
        assert!(!other.holds(&token, &token, &alice));
        assert!(!csrf.holds(&token, &csrf.issue(Some(&alice)), &alice));
        let anonymous = csrf.issue(None);
        assert!(csrf.is_ours(&anonymous, None) && !csrf.holds(&anonymous, &anonymous, &alice));
        for forged in ["", "x", &"A".repeat(64), &token[1..], "大廳"] {
            assert!(!csrf.holds(forged, forged, &alice), "{forged}");
        }
    }
}
