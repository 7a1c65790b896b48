//! What the gateway answers over plain HTTP: pages, forms, sign-in, health. A request passes
//! `layers` (deadline, headers), then its handler takes what it needs by `extract` (who asks, from
//! which page, the body); mistakes leave as a `problem`.

mod api;
mod assets;
mod chat;
mod cookies;
mod dev;
pub(crate) mod extract;
mod layers;
mod pages;
mod probes;
mod problem;
mod sign_in;
pub(crate) mod team_pages;
pub(crate) mod upgrade;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};

pub use problem::Problem;

use crate::app::App;

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    let limits = &app.config.limits;
    // A message's text fits even where JSON doubles it.
    let body_bytes = limits.http_body_bytes.max(2 * limits.body_bytes);
    let timeout = limits.http_timeout;
    let bounded = |routes: Router<Arc<App>>| {
        routes
            .layer(DefaultBodyLimit::max(body_bytes))
            .layer(middleware::from_fn_with_state(Arc::clone(&app), layers::closing))
            .layer(middleware::from_fn_with_state(timeout, layers::deadline))
    };
    // What pages of listed origins may call and load; they may read why not, too.
    let shared = api::routes(Arc::clone(&app))
        .route("/api/v1/session", get(sign_in::current).post(sign_in::sign_in).delete(sign_in::sign_out))
        .route("/assets/{*path}", get(assets::asset))
        .method_not_allowed_fallback(problem::method_not_allowed);
    let shared = bounded(shared).layer(api::cors(&app.config.http));
    let own = Router::new()
        .route("/", get(pages::root))
        .route("/sign-in", get(pages::sign_in))
        .route("/chat/{room}", axum::routing::any(chat::add_slash))
        .route("/chat/{room}/", get(chat::page).post(chat::form))
        .route("/api/v1/dev/login", post(dev::login))
        .route("/static/{*path}", get(team_pages::static_file))
        .route("/healthz", get(probes::healthz))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed);
    let plain = bounded(own).merge(shared).layer(middleware::from_fn(layers::safe_headers));
    plain.with_state(Arc::clone(&app)).merge(upgrade::routes(app))
}

#[cfg(test)]
pub(crate) mod tests;
