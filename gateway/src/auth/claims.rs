//! What a token says (RFC 7519): its header, its claims, and whether those hold.

use std::{borrow::Cow, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use natter_shared::{id::UserId, timestamp::Timestamp};
use serde::{Deserialize, de::IgnoredAny};

use super::{AuthError, Identity, identity};

/// The last second a timestamp can show (9999-12-31T23:59:59Z); a later `exp` means that.
pub(super) const LAST_SECOND: u64 = 253_402_300_799;

/// A token's header. Keys that it brings along (`jwk`, `jku`, `x5c`, `x5u`) are not even read.
#[derive(Deserialize)]
pub(super) struct JoseHeader<'a> {
    #[serde(borrow)]
    pub(super) alg: Cow<'a, str>,
    /// Which of its issuer's keys signed it.
    #[serde(borrow)]
    pub(super) kid: Option<Cow<'a, str>>,
    /// Extensions that must be understood (RFC 7515 section 4.1.11); we understand none.
    pub(super) crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    aud: Audience,
    sub: String,
    exp: serde_json::Number,
    nbf: Option<serde_json::Number>,
    iat: Option<serde_json::Number>,
    preferred_username: Option<String>,
    name: Option<String>,
}

/// RFC 7519 section 4.1.3: one, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn names(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

impl Claims {
    /// Who holds a token whose signature is good, if it is for `audience` and holds at `now`.
    pub(super) fn accept(self, audience: &str, leeway: Duration, now: Timestamp) -> Result<Identity, AuthError> {
        if !self.aud.names(audience) {
            return Err(AuthError::Audience);
        }
        let leeway = leeway.as_millis() as u64;
        let expires_at = instant(&self.exp)?;
        if now.0 >= expires_at.0.saturating_add(leeway) {
            return Err(AuthError::Expired);
        }
        if let Some(nbf) = &self.nbf
            && now.0.saturating_add(leeway) < instant(nbf)?.0
        {
            return Err(AuthError::NotYet);
        }
        Ok(Identity {
            user: UserId::new(&self.sub).map_err(|_| AuthError::Subject)?,
            handle: identity::handle(self.preferred_username),
            display_name: identity::display_name(self.name),
            expires_at,
            issued_at: self.iat.as_ref().map(moment).transpose()?.unwrap_or_default(),
        })
    }
}

/// A part of a token.
pub(super) fn decode_part(part: &str) -> Result<Vec<u8>, AuthError> {
    BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| AuthError::Malformed)
}

/// A NumericDate (RFC 7519 section 2): seconds since the epoch; a fraction is allowed, and cut off.
fn instant(number: &serde_json::Number) -> Result<Timestamp, AuthError> {
    let seconds = match (number.as_u64(), number.as_f64()) {
        (Some(seconds), _) => seconds,
        // The cast saturates.
        (None, Some(seconds)) if seconds >= 0.0 => seconds as u64,
        (None, _) => return Err(AuthError::Claims),
    };
    Ok(Timestamp(seconds.min(LAST_SECOND) * 1000))
}

/// The same with the fraction's milliseconds: a token is issued before a revocation of the same second, or after it.
fn moment(number: &serde_json::Number) -> Result<Timestamp, AuthError> {
    match (number.as_u64(), number.as_f64()) {
        // The cast saturates.
        (None, Some(seconds)) if seconds >= 0.0 => Ok(Timestamp(((seconds * 1000.0).round() as u64).min(LAST_SECOND * 1000))),
        (Some(_) | None, _) => instant(number),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_the_second_of_a_revocation_says_by_a_fraction_that_it_came_after() {
        let issued_at = |iat: &str| {
            let claims = format!(r#"{{"iss":"natter","aud":"natter","sub":"ann","exp":1800000300.7,"iat":{iat}}}"#);
            let claims: Claims = serde_json::from_str(&claims).unwrap();
            let accepted = claims.accept("natter", Duration::ZERO, Timestamp(1_800_000_001_000));
            accepted.map(|identity| (identity.issued_at.0, identity.expires_at.0))
        };
        let ends = 1_800_000_300_000;
        for (iat, expected) in [
            ("1800000000", 1_800_000_000_000),
            ("1800000000.6", 1_800_000_000_600),
            ("1800000000.2999", 1_800_000_000_300),
            ("1.8e9", 1_800_000_000_000),
            ("0.5", 500),
            ("1e300", LAST_SECOND * 1000),
        ] {
            assert_eq!(issued_at(iat), Ok((expected, ends)), "{iat}");
        }
        assert_eq!(issued_at("-0.5"), Err(AuthError::Claims));
    }
}
