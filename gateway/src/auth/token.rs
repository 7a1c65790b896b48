//! Bearer tokens: JWTs (RFC 7519) of the configured issuers.
//!
//! The algorithm is the config's to say for each issuer, never the token's: `alg` must be exactly
//! that and is used for nothing else, so neither `none` nor a public key taken for a secret gets
//! through. `iss` picks the keys before the signature is checked; nothing else of the claims is
//! looked at until then.

use std::{fmt, sync::Arc, time::Duration};

use jsonwebtoken::{EncodingKey, Header};
use natter_shared::{
    config::{Algorithm, Auth, Issuer},
    id::UserId,
    timestamp::Timestamp,
};
use serde::Serialize;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Csrf, Identity, Sessions,
    claims::{Claims, JoseHeader, LAST_SECOND, decode_part},
    jwks::{FetchError, Jwks},
    key::{KeyError, VerifyingKey},
};

/// The longest token looked at, in bytes; headers are limited to little more anyway.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Why a token does not hold. For the log: clients get [`super::UNAUTHORIZED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Not three parts of base64url, JSON in the first two; or too long.
    #[error("not a token")]
    Malformed,
    /// `alg` is not what its issuer is pinned to, or the header asks for extensions.
    #[error("algorithm or extension not allowed")]
    Algorithm,
    /// A claim is missing or of the wrong type.
    #[error("a required claim is missing or of the wrong type")]
    Claims,
    /// `iss` is none of ours.
    #[error("unknown issuer")]
    Issuer,
    /// `kid` is none of the issuer's published keys, as far as is known.
    #[error("signed with a key that the issuer has not published")]
    UnknownKey,
    /// The issuer's keys are not known: never fetched yet, or not for too long. Whether the token holds cannot be told.
    #[error("the issuer's keys cannot be fetched")]
    NoKeys,
    /// Without `kid`, while the issuer publishes several keys.
    #[error("does not say which of the issuer's keys it is signed with")]
    NoKeyId,
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
    /// Its user is blocked.
    #[error("the user is blocked")]
    Blocked,
    /// Issued before the user's tokens were revoked.
    #[error("revoked")]
    Revoked,
    /// Who is blocked is not known yet.
    #[error("it is not known yet who is blocked")]
    Unknown,
    /// There is no secret to sign with.
    #[error("no secret to sign with")]
    CannotSign,
}

/// Why no authenticator can be made of a config.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticatorError {
    /// Nothing to sign cookies with.
    #[error("auth.secret is needed")]
    NoSecret,
    /// Nobody could ever sign in.
    #[error("no issuer has a key: set auth.secret, auth.public_key, auth.jwks_url or auth.issuers")]
    NoIssuer,
    /// An issuer whose tokens cannot be checked.
    #[error("the issuer `{0}` has no key that {algorithm} can use", algorithm = .1.as_str())]
    NoKey(String, Algorithm),
    /// A public key that is none.
    #[error("the public key of the issuer `{0}` {1}")]
    Key(String, #[source] KeyError),
    /// A URL that no keys can come from.
    #[error("the keys of the issuer `{0}`: {1}")]
    Jwks(String, #[source] FetchError),
    /// Two keys for one `iss`.
    #[error("the issuer `{0}` is there twice")]
    Twice(String),
    /// Dev sign-in signs with `auth.secret`.
    #[error("auth.dev_login needs auth.algorithm HS256")]
    DevLogin,
}

/// Checks tokens, and signs those of dev sign-in.
pub struct Authenticator {
    issuers: Vec<TrustedIssuer>,
    signer: Option<Signer>,
    leeway: Duration,
    sessions: Sessions,
    csrf: Csrf,
}

struct TrustedIssuer {
    name: String,
    audience: String,
    algorithm: Algorithm,
    keys: Keys,
}

enum Keys {
    /// Of the config.
    Fixed(VerifyingKey),
    /// Fetched.
    Published(Arc<Jwks>),
}

struct Signer {
    issuer: String,
    audience: String,
    key: EncodingKey,
}

#[derive(Serialize)]
struct IssuedClaims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    iat: f64,
    exp: u64,
    preferred_username: &'a str,
    name: &'a str,
}

impl Authenticator {
    /// Prepares the keys of all issuers. Published ones are not there before
    /// [`Authenticator::keep_keys`].
    pub fn from_config(config: &Auth) -> Result<Self, AuthenticatorError> {
        let secret = config.secret.as_ref().ok_or(AuthenticatorError::NoSecret)?.expose().as_bytes();
        let mut issuers: Vec<TrustedIssuer> = Vec::new();
        let mut signer = None;
        for (index, issuer) in config.all_issuers().into_iter().enumerate() {
            if index == 0 && config.signs_with_secret() {
                let (issuer, audience) = (issuer.issuer.clone(), issuer.audience.clone());
                signer = Some(Signer { issuer, audience, key: EncodingKey::from_secret(secret) });
            }
            let trusted = TrustedIssuer::new(issuer, config)?;
            if issuers.iter().any(|known| known.name == trusted.name) {
                return Err(AuthenticatorError::Twice(trusted.name));
            }
            issuers.push(trusted);
        }
        if issuers.is_empty() {
            return Err(AuthenticatorError::NoIssuer);
        }
        if config.dev_login && signer.is_none() {
            return Err(AuthenticatorError::DevLogin);
        }
        let (sessions, csrf) = (Sessions::new(secret), Csrf::new(secret));
        Ok(Self { issuers, signer, leeway: config.leeway, sessions, csrf })
    }

    /// Starts the tasks that fetch published keys; they end with `stop`.
    pub fn keep_keys(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        for issuer in &self.issuers {
            if let Keys::Published(jwks) = &issuer.keys {
                let jwks = Arc::clone(jwks);
                tasks.spawn(stop.clone().run_until_cancelled_owned(async move { jwks.keep().await }));
            }
        }
    }

    /// Signs and checks CSRF tokens.
    pub fn csrf(&self) -> &Csrf {
        &self.csrf
    }

    /// Signs and checks session cookies.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Who holds a bearer token, if it holds now. One that is signed with a key that is not known yet
    /// waits a while for the issuer's keys to be fetched anew; all others take no time.
    pub async fn authenticate(&self, token: &str) -> Result<Identity, AuthError> {
        match self.checked(token, Timestamp::now()) {
            Ok(identity) => Ok(identity),
            Err((AuthError::UnknownKey | AuthError::NoKeys, Some(jwks))) => {
                jwks.refreshed().await;
                self.verify(token, Timestamp::now())
            }
            Err((reason, _)) => Err(reason),
        }
    }

    /// Who holds a bearer token, if it holds at `now` by the keys that are known.
    ///
    /// # Errors
    /// [`AuthError::UnknownKey`] and [`AuthError::NoKeys`] are not the last word: see [`Authenticator::authenticate`].
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Identity, AuthError> {
        self.checked(token, now).map_err(|(reason, _)| reason)
    }

    /// With the error, the published keys that it was checked against.
    fn checked(&self, token: &str, now: Timestamp) -> Result<Identity, (AuthError, Option<Arc<Jwks>>)> {
        let own = |reason| (reason, None);
        if token.len() > MAX_TOKEN_BYTES {
            return Err(own(AuthError::Malformed));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(own(AuthError::Malformed))?;
        let (header, claims) = message.split_once('.').ok_or(own(AuthError::Malformed))?;

        let header = decode_part(header).map_err(own)?;
        let header: JoseHeader<'_> = serde_json::from_slice(&header).map_err(|_| own(AuthError::Malformed))?;
        if header.crit.is_some() {
            return Err(own(AuthError::Algorithm));
        }
        let claims = decode_part(claims).map_err(own)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| own(AuthError::Claims))?;
        let issuer = self.issuers.iter().find(|issuer| issuer.name == claims.iss).ok_or(own(AuthError::Issuer))?;
        if header.alg != issuer.algorithm.as_str() {
            return Err(own(AuthError::Algorithm));
        }
        match &issuer.keys {
            // Its only key: a name for it says nothing more.
            Keys::Fixed(key) => key.verify(message, signature).map_err(own)?,
            Keys::Published(jwks) => {
                let verify = |key: &VerifyingKey| key.verify(message, signature);
                jwks.check(header.kid.as_deref(), verify).map_err(|reason| (reason, Some(Arc::clone(jwks))))?;
            }
        }
        claims.accept(&issuer.audience, self.leeway, now).map_err(own)
    }

    /// Signs a token for `user`, whose handle and display name are `name`, good from `now` on for
    /// `lifetime`. For dev sign-in.
    pub fn issue(&self, user: &UserId, name: &str, now: Timestamp, lifetime: Duration) -> Result<(String, Timestamp), AuthError> {
        let signer = self.signer.as_ref().ok_or(AuthError::CannotSign)?;
        let exp = (now.0 / 1000).saturating_add(lifetime.as_secs()).min(LAST_SECOND);
        // To the millisecond: one that follows a revocation in the same second holds.
        let iat = now.0 as f64 / 1000.0;
        let claims =
            IssuedClaims { iss: &signer.issuer, aud: &signer.audience, sub: user.as_str(), iat, exp, preferred_username: name, name };
        let header = Header::new(jsonwebtoken::Algorithm::HS256);
        let token = jsonwebtoken::encode(&header, &claims, &signer.key).map_err(|_| AuthError::CannotSign)?;
        Ok((token, Timestamp(exp * 1000)))
    }
}

impl TrustedIssuer {
    fn new(issuer: Issuer, config: &Auth) -> Result<Self, AuthenticatorError> {
        let Issuer { issuer: name, audience, algorithm, secret, public_key, jwks_url } = issuer;
        let keys = match (algorithm, secret, public_key, jwks_url) {
            (Algorithm::HS256, Some(secret), None, None) => Keys::Fixed(VerifyingKey::from_secret(secret.expose().as_bytes())),
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, None, Some(pem), None) => {
                let key = VerifyingKey::from_pem(algorithm, pem.as_pem());
                Keys::Fixed(key.map_err(|reason| AuthenticatorError::Key(name.clone(), reason))?)
            }
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, None, None, Some(url)) => {
                let jwks = Jwks::new(&name, algorithm, &url, config);
                Keys::Published(Arc::new(jwks.map_err(|reason| AuthenticatorError::Jwks(name.clone(), reason))?))
            }
            // None at all, or two that could contradict each other.
            (Algorithm::HS256 | Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, ..) => {
                return Err(AuthenticatorError::NoKey(name, algorithm));
            }
        };
        Ok(Self { name, audience, algorithm, keys })
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.issuers.iter().map(|issuer| &issuer.name).collect();
        f.debug_struct("Authenticator").field("issuers", &names).finish_non_exhaustive()
    }
}
