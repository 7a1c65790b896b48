//! Mistakes as problem JSON (RFC 9457) with a stable `code`.
//!
//! | code | status | when |
//! |---|---|---|
//! | those of [`ErrorCode`] | [`status_of`] | as in the socket's `error` frames |
//! | `not_found` | 404 | no such page, room, user or switched-off call |
//! | `method_not_allowed` | 405 | the path is there, the method is not |
//! | `unsupported_media_type` | 415 | a body that is not what the call takes |
//! | `origin` | 403 | from a foreign page |
//! | `csrf` | 403 | a form without a token that holds |
//! | `timeout` | 503 | not done in time; try again |

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use natter_shared::{frame::ErrorCode, rpc::RpcError};
use serde::Serialize;

use crate::{auth::UNAUTHORIZED, limit::Limit, publish::NotAccepted, rates::TooFast};

/// What a client waits before it tries again, in seconds, where nothing else is known.
const RETRY_AFTER: u64 = 2;

/// A request that was not done.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retryable: bool,
    limit: Option<Limit>,
    retry_after: Option<u64>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    retryable: bool,
}

impl Problem {
    /// With one of the codes of the module's table.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), retryable: false, limit: None, retry_after: None }
    }

    /// With one of the socket's codes.
    pub fn of(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { retryable: code.is_retryable(), ..Self::new(status_of(code), code.as_str(), detail) }
    }

    /// Refused by a limit, which is counted when the answer goes out.
    pub fn over(limit: Limit, code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { limit: Some(limit), ..Self::of(code, detail) }
    }

    /// The status of the answer.
    #[cfg(test)]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether the same may work later.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// The limit that refused.
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }

    /// Missing or wrong fields.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::of(ErrorCode::BadRequest, detail)
    }

    /// Nothing here, or nothing for this user.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::of(ErrorCode::NotFound, detail)
    }

    /// No token, or one that does not hold.
    pub fn unauthorized() -> Self {
        Self::of(ErrorCode::Unauthorized, UNAUTHORIZED)
    }

    /// Not done in time, which is counted as of `limit`.
    pub fn timeout(limit: Limit) -> Self {
        let late = Self::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", "the request was not done in time");
        Self { retryable: true, limit: Some(limit), ..late }
    }
}

/// The status that goes with a code.
fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadFrame | ErrorCode::UnknownType | ErrorCode::BadRequest | ErrorCode::OutOfOrder | ErrorCode::TooManyGroups => {
            StatusCode::BAD_REQUEST
        }
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Forbidden | ErrorCode::Blocked => StatusCode::FORBIDDEN,
        ErrorCode::NonceReused => StatusCode::CONFLICT,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Busy | ErrorCode::Unavailable | ErrorCode::Pending | ErrorCode::Draining => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl From<RpcError> for Problem {
    fn from(error: RpcError) -> Self {
        if error.code.is_retryable() {
            // What went wrong behind the gateway is the operator's to know.
            tracing::warn!(code = error.code.as_str(), error = error.message, "call_failed");
            return Self::of(error.code, "something behind the gateway is away; try again");
        }
        Self::of(error.code, error.message)
    }
}

impl From<NotAccepted> for Problem {
    fn from(error: NotAccepted) -> Self {
        if error.code == ErrorCode::Pending {
            return Self::of(error.code, "not known yet whether it was stored; try again with the same idempotency key");
        }
        let retry_after = error.retry_after.map(|after| after.as_secs() + 1);
        Self { retry_after, ..RpcError::new(error.code, error.message).into() }
    }
}

impl From<TooFast> for Problem {
    fn from(TooFast { limit, wait }: TooFast) -> Self {
        let detail = format!("this comes faster than limits.{} allows", limit.key());
        Self { retry_after: Some(wait.as_secs() + 1), ..Self::over(limit, ErrorCode::RateLimited, detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            retryable: self.retryable,
        };
        // Plain data: writing it cannot fail.
        let body = serde_json::to_string(&body).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        if let Some(limit) = self.limit {
            response.extensions_mut().insert(limit);
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.retryable {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after.unwrap_or(RETRY_AFTER)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Answers paths that are not there.
pub(super) async fn not_found() -> Problem {
    Problem::not_found("there is no such page")
}

/// Answers methods that are not there.
pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not take this method")
}
