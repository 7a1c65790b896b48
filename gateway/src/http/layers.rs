//! What holds for every request: a deadline, and headers that keep browsers from guessing.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use natter_shared::frame::ErrorCode;

use super::Problem;
use crate::app::App;
use crate::limit::Limit;

/// Scripts, styles and sockets of this host only, and nothing inline. Escaping is the first wall
/// against what people write; this is the second.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Set wherever a handler has not said otherwise.
const SAFE: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Gives up on a request that takes longer than `limits.http_timeout`, its body included.
pub(super) async fn deadline(State(timeout): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::timeout(Limit::HttpTimeout).into_response(),
    }
}

/// Refuses what would change something once the process is on its way out; who asks again finds
/// another one.
pub(super) async fn closing(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if app.closing.is_cancelled() && !request.method().is_safe() {
        return Problem::of(ErrorCode::Draining, "this gateway is shutting down: try again elsewhere").into_response();
    }
    next.run(request).await
}

/// Adds the headers of [`SAFE`].
pub(super) async fn safe_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in SAFE {
        response.headers_mut().entry(name).or_insert(value);
    }
    response
}
