//! Dev sign-in: anybody signs in by a bare name. Only where the config says so.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use natter_shared::{id::UserId, rpc, timestamp::Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Problem, Site,
    extract::{Caller, JsonBody},
    session,
};
use crate::auth::{Identity, MAX_NAME_CHARS};

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
    State(site): State<Arc<dyn Site>>,
    caller: Caller,
    body: Result<JsonBody<Login>, Problem>,
) -> Result<Response, Problem> {
    require_enabled(&*site)?;
    // A foreign page must not sign its visitor in as somebody of its choice.
    caller.require_origin()?;
    let JsonBody(Login { name }) = body?;
    let user = checked(&name)?;
    let lifetime = site.config().auth.session_lifetime;
    let (token, expires_at) = site.auth().issue(&user, &name, Timestamp::now(), lifetime).map_err(|reason| {
        tracing::error!(%reason, "token_not_issued");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "no token could be issued")
    })?;
    let identity = Identity { user, handle: Some(name.clone()), display_name: Some(name), expires_at, issued_at: Timestamp::now() };
    let user = session::make_known(&*site, &identity).await?;
    let (headers, expires_at) = session::cookies_for(&*site, &identity, caller.https)?;
    Ok((headers, Json(LoggedIn { token, user, expires_at })).into_response())
}

fn require_enabled(site: &dyn Site) -> Result<(), Problem> {
    if site.config().auth.dev_login { Ok(()) } else { Err(Problem::not_found("dev sign-in is switched off")) }
}

fn checked(name: &str) -> Result<UserId, Problem> {
    let chars = name.chars().count();
    let user = UserId::new(name).ok().filter(|_| chars <= MAX_NAME_CHARS && name.trim() == name);
    user.ok_or_else(|| Problem::bad_request("a name has 1 to 64 characters, none of them control characters or a space at an end"))
}
