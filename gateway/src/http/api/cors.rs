//! Which other origins' pages may read answers (the Fetch standard): those on the list, exactly, with
//! their cookies.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use natter_shared::config::Http;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::extract::IDEMPOTENCY_KEY;

/// How long browsers need not ask again.
const MAX_AGE: Duration = Duration::from_mins(10);

/// Answers preflights, and marks answers that a listed origin may read.
pub(in crate::http) fn cors(http: &Http) -> CorsLayer {
    let listed = http.allowed_origins.iter().filter_map(|origin| HeaderValue::from_str(origin.trim_end_matches('/')).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(listed))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, IDEMPOTENCY_KEY, HeaderName::from_static("x-csrftoken")])
        .expose_headers([header::RETRY_AFTER, header::WWW_AUTHENTICATE])
        .max_age(MAX_AGE)
}
