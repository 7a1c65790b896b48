//! Tokens: JWTs (RFC 7519) signed with HS256, by one of the configured issuers.
//!
//! The algorithm is ours to say, never the token's: `alg` must be exactly `HS256` and is used for
//! nothing else, so neither `none` nor a public key taken for a secret gets through. `iss` picks
//! the key before the signature is checked; nothing else of the claims is looked at until then.

use std::{fmt, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use natter_shared::{config::Auth, id::UserId, timestamp::Timestamp};
use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{Csrf, Identity, identity};

/// The longest token looked at, in bytes; headers are limited to little more anyway.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The last second a timestamp can show (9999-12-31T23:59:59Z); a later `exp` means that.
const LAST_SECOND: u64 = 253_402_300_799;

const DEFAULT_NAME: &str = "natter";

/// Why a token does not hold. For the log: clients get [`super::UNAUTHORIZED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Not three parts of base64url, JSON in the first two; or too long.
    #[error("not a token")]
    Malformed,
    /// `alg` is not HS256, or the header asks for extensions.
    #[error("algorithm or extension not allowed")]
    Algorithm,
    /// A claim is missing or of the wrong type.
    #[error("a required claim is missing or of the wrong type")]
    Claims,
    /// `iss` is none of ours.
    #[error("unknown issuer")]
    Issuer,
    /// Signed with another key, or changed since.
    #[error("wrong signature")]
    Signature,
    /// `aud` is not us.
    #[error("for another audience")]
    Audience,
    /// `exp` has passed.
    #[error("expired")]
    Expired,
    /// `nbf` is still to come.
    #[error("not valid yet")]
    NotYet,
    /// `sub` cannot be a user's id.
    #[error("`sub` is no user id")]
    Subject,
    /// There is no secret to sign with.
    #[error("no secret to sign with")]
    CannotSign,
}

/// Why no authenticator can be made of a config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticatorError {
    /// Nobody could ever sign in.
    #[error("auth.secret or one of auth.issuers is needed")]
    NoIssuer,
    /// An issuer whose tokens cannot be checked.
    #[error("auth.issuers: `{0}` has no secret")]
    NoSecret(String),
    /// Two keys for one `iss`.
    #[error("auth.issuers: `{0}` is there twice")]
    Twice(String),
    /// Dev sign-in signs with `auth.secret`.
    #[error("auth.dev_login needs auth.secret")]
    DevLogin,
}

/// Checks tokens, and signs those of dev sign-in.
pub struct Authenticator {
    issuers: Vec<TrustedIssuer>,
    signer: Option<Signer>,
    leeway: Duration,
    csrf: Csrf,
}

struct TrustedIssuer {
    name: String,
    audience: String,
    key: DecodingKey,
}

struct Signer {
    issuer: String,
    audience: String,
    key: EncodingKey,
}

#[derive(Deserialize)]
struct JoseHeader<'a> {
    #[serde(borrow)]
    alg: std::borrow::Cow<'a, str>,
    /// Extensions that must be understood (RFC 7515 section 4.1.11); we understand none.
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    sub: String,
    exp: serde_json::Number,
    nbf: Option<serde_json::Number>,
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

#[derive(Serialize)]
struct IssuedClaims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
    preferred_username: &'a str,
    name: &'a str,
}

impl Authenticator {
    /// Prepares the keys of all issuers.
    pub fn from_config(config: &Auth) -> Result<Self, AuthenticatorError> {
        let mut issuers: Vec<TrustedIssuer> = Vec::new();
        let mut secrets = Vec::new();
        let mut signer = None;
        if let Some(secret) = &config.secret {
            let issuer = config.issuer.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned());
            let audience = config.audience.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned());
            let bytes = secret.expose().as_bytes();
            secrets.push(bytes);
            signer = Some(Signer { issuer: issuer.clone(), audience: audience.clone(), key: EncodingKey::from_secret(bytes) });
            issuers.push(TrustedIssuer { name: issuer, audience, key: DecodingKey::from_secret(bytes) });
        } else if config.dev_login {
            return Err(AuthenticatorError::DevLogin);
        }
        for issuer in &config.issuers {
            let name = issuer.issuer.clone();
            let Some(secret) = &issuer.secret else { return Err(AuthenticatorError::NoSecret(name)) };
            if issuers.iter().any(|known| known.name == name) {
                return Err(AuthenticatorError::Twice(name));
            }
            let bytes = secret.expose().as_bytes();
            secrets.push(bytes);
            issuers.push(TrustedIssuer { name, audience: issuer.audience.clone(), key: DecodingKey::from_secret(bytes) });
        }
        // Every gateway must come to the same key; with `auth.secret` it stays the same when
        // further issuers come and go.
        let csrf = Csrf::new(secrets.first().ok_or(AuthenticatorError::NoIssuer)?);
        Ok(Self { issuers, signer, leeway: config.leeway, csrf })
    }

    /// Signs and checks CSRF tokens.
    pub fn csrf(&self) -> &Csrf {
        &self.csrf
    }

    /// Who holds `token`, if it holds at `now`.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Identity, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(AuthError::Malformed)?;

        let header = decode_part(header)?;
        let header: JoseHeader<'_> = serde_json::from_slice(&header).map_err(|_| AuthError::Malformed)?;
        if header.alg != "HS256" || header.crit.is_some() {
            return Err(AuthError::Algorithm);
        }

        let claims: Claims = serde_json::from_slice(&decode_part(claims)?).map_err(|_| AuthError::Claims)?;
        let issuer = self.issuers.iter().find(|issuer| issuer.name == claims.iss).ok_or(AuthError::Issuer)?;
        match jsonwebtoken::crypto::verify(signature, message.as_bytes(), &issuer.key, Algorithm::HS256) {
            Ok(true) => self.accept(claims, issuer, now),
            Ok(false) => Err(AuthError::Signature),
            Err(_) => Err(AuthError::Malformed),
        }
    }

    /// Checks what a token of a known signer says.
    fn accept(&self, claims: Claims, issuer: &TrustedIssuer, now: Timestamp) -> Result<Identity, AuthError> {
        if !claims.aud.names(&issuer.audience) {
            return Err(AuthError::Audience);
        }
        let leeway = self.leeway.as_millis() as u64;
        let expires_at = instant(&claims.exp)?;
        if now.0 >= expires_at.0.saturating_add(leeway) {
            return Err(AuthError::Expired);
        }
        if let Some(nbf) = &claims.nbf
            && now.0.saturating_add(leeway) < instant(nbf)?.0
        {
            return Err(AuthError::NotYet);
        }
        Ok(Identity {
            user: UserId::new(&claims.sub).map_err(|_| AuthError::Subject)?,
            handle: identity::handle(claims.preferred_username),
            display_name: identity::display_name(claims.name),
            expires_at,
        })
    }

    /// Signs a token for `user`, whose handle and display name are `name`, good from `now` on for
    /// `lifetime`. For dev sign-in.
    pub fn issue(&self, user: &UserId, name: &str, now: Timestamp, lifetime: Duration) -> Result<(String, Timestamp), AuthError> {
        let signer = self.signer.as_ref().ok_or(AuthError::CannotSign)?;
        let iat = now.0 / 1000;
        let exp = iat.saturating_add(lifetime.as_secs()).min(LAST_SECOND);
        let claims =
            IssuedClaims { iss: &signer.issuer, aud: &signer.audience, sub: user.as_str(), iat, exp, preferred_username: name, name };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &signer.key).map_err(|_| AuthError::CannotSign)?;
        Ok((token, Timestamp(exp * 1000)))
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.issuers.iter().map(|issuer| &issuer.name).collect();
        f.debug_struct("Authenticator").field("issuers", &names).finish_non_exhaustive()
    }
}

impl Audience {
    fn names(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

fn decode_part(part: &str) -> Result<Vec<u8>, AuthError> {
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
