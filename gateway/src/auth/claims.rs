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
            issued_at: self.iat.as_ref().map(instant).transpose()?.unwrap_or_default(),
        })
    }
}

/// A part of a token.
pub(super) fn decode_part(part: &str) -> Result<Vec<u8>, AuthError> {
    BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| AuthError::Malformed)
}

/// A NumericDate (RFC 7519 section 2): seconds since the epoch, a fraction allowed.
fn instant(number: &serde_json::Number) -> Result<Timestamp, AuthError> {
    let seconds = match (number.as_u64(), number.as_f64()) {
        (Some(seconds), _) => seconds,
        // The cast saturates.
        (None, Some(seconds)) if seconds >= 0.0 => seconds as u64,
        (None, _) => return Err(AuthError::Claims),
    };
    Ok(Timestamp(seconds.min(LAST_SECOND) * 1000))
}
