//! How the persister is, over HTTP: for supervisors and Prometheus, on an address of its own.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use natter_shared::telemetry::metrics::{CONTENT_TYPE, Registry};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Says what is missing until the persister can do its work; nothing when it can.
pub(crate) type Missing = Arc<dyn Fn() -> Vec<&'static str> + Send + Sync>;

#[derive(Clone)]
struct Health {
    registry: Registry,
    missing: Missing,
}

/// Of the same shape as the gateway's.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    missing: Vec<&'static str>,
}

/// Serves `/healthz`, `/readyz` and `/metrics` until stopped.
pub(crate) async fn serve(listener: TcpListener, registry: Registry, missing: Missing, stop: CancellationToken) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Health { registry, missing });
    // Nothing to drain: whoever asks while the process stops, asks again.
    tokio::select! {
        served = axum::serve(listener, routes) => served,
        () = stop.cancelled() => Ok(()),
    }
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let missing = (health.missing)();
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready: missing.is_empty(), missing }))
}

async fn metrics(State(health): State<Health>) -> Result<impl IntoResponse, StatusCode> {
    let text = health.registry.encode().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}
