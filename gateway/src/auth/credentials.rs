//! Where a request says who it is from: a token in the `Authorization` header, else the session
//! cookie.

use axum::http::{HeaderMap, header};
use axum_extra::extract::CookieJar;
use natter_shared::timestamp::Timestamp;

use super::{AuthError, Authenticator, Identity};

/// The cookie of who has signed in; not for scripts.
pub const SESSION_COOKIE: &str = "natter_session";

/// The cookie that scripts echo in forms.
pub const CSRF_COOKIE: &str = "csrftoken";

/// How a request is signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By `Authorization: Bearer …`, which no foreign page can make a browser send.
    Bearer,
    /// By cookie, which a browser sends along whatever page asks: look at the Origin and, for
    /// forms, at the CSRF token.
    Cookie,
}

/// A request's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIn {
    /// Who.
    pub identity: Identity,
    /// How.
    pub by: By,
}

impl Authenticator {
    /// Who a request is from; nobody without a token or cookie. A bearer token wins over a cookie.
    ///
    /// # Errors
    /// One is there, and does not hold.
    pub async fn identify(&self, headers: &HeaderMap) -> Result<Option<SignedIn>, AuthError> {
        if let Some(token) = bearer(headers)? {
            let identity = self.authenticate(token).await?;
            return Ok(Some(SignedIn { identity, by: By::Bearer }));
        }
        match cookie(headers, SESSION_COOKIE).filter(|value| !value.is_empty()) {
            Some(value) => Ok(Some(SignedIn { identity: self.sessions().verify(&value, Timestamp::now())?, by: By::Cookie })),
            None => Ok(None),
        }
    }
}

/// The bearer token (RFC 6750 section 2.1). Other schemes are somebody else's business.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, AuthError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(AuthError::Malformed);
    }
    let value = value.to_str().map_err(|_| AuthError::Malformed)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        Some(_) | None => Ok(None),
    }
}

/// A cookie's value.
pub fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    CookieJar::from_headers(headers).get(name).map(|cookie| cookie.value().to_owned())
}
