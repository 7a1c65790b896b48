//! Dev sign-in: anybody signs in by a bare name. Only where the config says so, and not through a proxy that it does not
//! know of: one on the same machine makes loopback public.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use natter_shared::{
    id::UserId,
    rpc::{self, MAX_NAME_CHARS},
    timestamp::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{
    Problem,
    extract::{Caller, JsonBody},
    sign_in,
};
use crate::{app::App, auth::Identity};

/// `{"name":"alice"}`.
#[derive(Deserialize)]
pub(super) struct Login {
    name: String,
}

#[derive(Serialize)]
struct LoggedIn {
    token: String,
    user: rpc::Profile,
    expires_at: Timestamp,
}

/// Signs in by name: a token in the answer, and as a cookie.
pub(super) async fn login(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Result<JsonBody<Login>, Problem>,
) -> Result<Response, Problem> {
    require_enabled(&app, &caller)?;
    // A foreign page must not sign its visitor in as somebody of its choice.
    caller.require_origin()?;
    let JsonBody(Login { name }) = body?;
    let user = checked(&name)?;
    let lifetime = app.config.auth.session_lifetime;
    let (token, expires_at) = app.auth.issue(&user, &name, Timestamp::now(), lifetime).map_err(|reason| {
        tracing::error!(%reason, "token_not_issued");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "no token could be issued")
    })?;
    let identity = Identity { user, handle: Some(name.clone()), display_name: Some(name), expires_at, issued_at: Timestamp::now() };
    let user = sign_in::make_known(&app, &identity).await?;
    let (headers, expires_at) = sign_in::cookies_for(&app, &identity, caller.https)?;
    Ok((headers, Json(LoggedIn { token, user, expires_at })).into_response())
}

/// Whether this caller may sign in so.
pub(super) fn is_offered(app: &App, caller: &Caller) -> bool {
    require_enabled(app, caller).is_ok()
}

fn require_enabled(app: &App, caller: &Caller) -> Result<(), Problem> {
    let config = &app.config;
    if !config.auth.dev_login {
        return Err(Problem::not_found("dev sign-in is switched off"));
    }
    if caller.is_forwarded() && !config.http.is_proxied() {
        let detail = "dev sign-in is for this machine, and the request was forwarded: set http.public_url, and auth.dev_login if whoever \
                      reaches the proxy may be anybody";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
    }
    if caller.is_by_another_name(&config.http) {
        let detail = "dev sign-in is for pages of this machine's address or of localhost: any name may be made to lead here. Set http.public_url \
                      to the name that people use";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
    }
    Ok(())
}

fn checked(name: &str) -> Result<UserId, Problem> {
    let chars = name.chars().count();
    let user = UserId::new(name).ok().filter(|_| chars <= MAX_NAME_CHARS && name.trim() == name);
    user.ok_or_else(|| Problem::bad_request("a name has 1 to 64 characters, none of them control characters or a space at an end"))
}
