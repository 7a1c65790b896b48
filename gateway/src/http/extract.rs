//! What handlers take from a request: who asks and from which page, and the body.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Form, Json,
    extract::{
        ConnectInfo, FromRequest, FromRequestParts, Request,
        rejection::{FormRejection, JsonRejection},
    },
    http::{HeaderMap, StatusCode, request::Parts},
};
use natter_shared::{config::Http, frame::ErrorCode};
use serde::de::DeserializeOwned;

use super::Problem;
use crate::{
    app::App,
    auth::{AuthError, By, CSRF_COOKIE, Identity, SignedIn, cookie, origin},
    limit::Limit,
    standings,
};

/// The header in which scripts echo the CSRF cookie.
const CSRF_HEADER: &str = "x-csrftoken";

/// What proxies add to a request.
const FORWARDED: [&str; 6] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];

/// Who asks, and from where.
pub(super) struct Caller {
    /// The user; nobody without a token, an error with one that does not hold.
    pub(super) who: Result<Option<SignedIn>, AuthError>,
    /// The page's origin, judged.
    pub(super) origin: Result<origin::OriginVerdict, origin::Forbidden>,
    /// The user's side is encrypted: cookies are `Secure`.
    pub(super) https: bool,
    headers: HeaderMap,
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        Ok(Self::of(parts, app).await)
    }
}

/// The other end of a request's TCP connection.
pub(super) fn peer(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip())
}

impl Caller {
    /// The caller of a request.
    pub(super) async fn of(parts: &Parts, app: &App) -> Self {
        let peer = peer(parts);
        let http = &app.config.http;
        let who = app.auth.identify(&parts.headers).await;
        let who = who.and_then(|found| found.map(|signed_in| app.judge(&signed_in.identity).map(|()| signed_in)).transpose());
        if let Err(reason) = &who {
            tracing::debug!(%reason, "token_refused");
        }
        Self {
            who,
            origin: origin::of_request(&parts.headers, peer, http),
            https: origin::is_https(&parts.headers, peer, http),
            headers: parts.headers.clone(),
        }
    }

    /// The user of a call that changes nothing.
    pub(super) fn require_user(&self) -> Result<&Identity, Problem> {
        self.identity().ok_or_else(|| self.refusal())
    }

    /// The user of a call that changes something: as of a form, and a cookie counts only on a page
    /// that says where it is from.
    pub(super) fn require_own_page(&self, app: &App) -> Result<&Identity, Problem> {
        let by_cookie = matches!(&self.who, Ok(Some(SignedIn { by: By::Cookie, .. })));
        if by_cookie && self.origin == Ok(origin::OriginVerdict::Absent) {
            return Err(Problem::new(StatusCode::FORBIDDEN, "origin", "with a cookie, a call that changes something says its Origin"));
        }
        self.require_form(app, None)
    }

    /// The user of a page; one whose token does not hold has to sign in again.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.who.as_ref().ok()?.as_ref().map(|signed_in| &signed_in.identity)
    }

    /// What nobody is answered, or who may not come in.
    pub(super) fn refusal(&self) -> Problem {
        match self.who {
            Err(refusal @ (AuthError::Blocked | AuthError::Unknown | AuthError::NoKeys)) => {
                Problem::of(standings::error_code(refusal), refusal.to_string())
            }
            Ok(_) | Err(_) => Problem::unauthorized(),
        }
    }

    /// Whether the request says that it came through a proxy.
    pub(super) fn is_forwarded(&self) -> bool {
        FORWARDED.iter().any(|name| self.headers.contains_key(*name))
    }

    /// Whether a page of this host may be a foreign one whose name leads here.
    pub(super) fn is_by_another_name(&self, http: &Http) -> bool {
        let is_known = origin::is_by_address(&self.headers) || origin::is_of_public_url(&self.headers, http);
        self.origin == Ok(origin::OriginVerdict::Own) && !is_known
    }

    /// Refuses foreign pages.
    pub(super) fn require_origin(&self) -> Result<(), Problem> {
        match self.origin {
            Ok(_) => Ok(()),
            Err(forbidden) => Err(Problem::new(StatusCode::FORBIDDEN, "origin", forbidden.to_string())),
        }
    }

    /// The user of a form: refuses foreign pages (403), nobody (401), and a user signed in by
    /// cookie whose form does not echo the CSRF cookie (403). `field` is the form's
    /// `csrfmiddlewaretoken`.
    pub(super) fn require_form(&self, app: &App, field: Option<&str>) -> Result<&Identity, Problem> {
        self.require_origin()?;
        let Ok(Some(SignedIn { identity, by })) = &self.who else { return Err(self.refusal()) };
        match by {
            By::Bearer => Ok(identity),
            By::Cookie => {
                let header = self.headers.get(CSRF_HEADER).and_then(|value| value.to_str().ok());
                let held = self
                    .csrf_cookie()
                    .zip(header.or(field))
                    .is_some_and(|(cookie, echo)| app.auth.csrf().holds(&cookie, echo, &identity.user));
                if held {
                    Ok(identity)
                } else {
                    Err(Problem::new(StatusCode::FORBIDDEN, "csrf", "the form's csrf token is missing or does not hold"))
                }
            }
        }
    }

    /// The CSRF token of a page: the one that the browser has, if it holds, else a fresh one.
    pub(super) fn csrf_token(&self, app: &App) -> String {
        let user = self.identity().map(|identity| &identity.user);
        let csrf = app.auth.csrf();
        self.csrf_cookie().filter(|token| csrf.is_ours(token, user)).unwrap_or_else(|| csrf.issue(user))
    }

    fn csrf_cookie(&self) -> Option<String> {
        cookie(&self.headers, CSRF_COOKIE)
    }
}

/// A JSON body. Its content type is required: a foreign page cannot send it unasked.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(unsupported("application/json")),
            Err(rejection) => Err(unreadable(rejection.status(), rejection.body_text())),
        }
    }
}

/// A form's fields, in order; names may repeat.
pub(crate) struct FormFields(Vec<(String, String)>);

impl FormFields {
    /// The first value of a field.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All of them: name, value.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(String, String)> {
        self.0.iter()
    }

    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

impl<S: Send + Sync> FromRequest<S> for FormFields {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Form::from_request(request, state).await {
            Ok(Form(fields)) => Ok(Self(fields)),
            Err(FormRejection::InvalidFormContentType(_)) => Err(unsupported("application/x-www-form-urlencoded")),
            Err(rejection) => Err(unreadable(rejection.status(), rejection.body_text())),
        }
    }
}

fn unsupported(wanted: &str) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", format!("the body is {wanted}"))
}

fn unreadable(status: StatusCode, detail: String) -> Problem {
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::over(Limit::HttpBodyBytes, ErrorCode::TooLarge, "the body is too large");
    }
    Problem::bad_request(detail)
}
