//! How the process is.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;

use super::Site;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    missing: Vec<&'static str>,
}

/// 200 once the process serves, whatever is away behind it.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 when all is there that requests need, else 503; says what is missing.
pub(super) async fn readyz(State(site): State<Arc<dyn Site>>) -> impl IntoResponse {
    let missing = site.missing();
    let ready = missing.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, missing }))
}

/// For Prometheus.
pub(super) async fn metrics(State(site): State<Arc<dyn Site>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], site.metrics())
}
