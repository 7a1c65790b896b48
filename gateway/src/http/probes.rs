//! How the process is.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;

use crate::app::App;

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
pub(super) async fn readyz(State(app): State<Arc<App>>) -> impl IntoResponse {
    told(app.readiness())
}

fn told(missing: Vec<&'static str>) -> (StatusCode, Json<Readiness>) {
    let ready = missing.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, missing }))
}

/// For Prometheus.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], app.metrics.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_where_nothing_is_missing() {
        let (status, Json(readiness)) = told(Vec::new());
        assert_eq!((status, readiness.ready), (StatusCode::OK, true));
        let (status, Json(readiness)) = told(vec!["broker"]);
        assert_eq!((status, readiness.ready, readiness.missing), (StatusCode::SERVICE_UNAVAILABLE, false, vec!["broker"]));
    }
}
