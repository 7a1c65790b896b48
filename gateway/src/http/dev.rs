//! Dev sign-in: anybody signs in by a bare name. Only where the config says so.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use natter_shared::{
    id::UserId,
    rpc::{self, SignIn},
    timestamp::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{
    Problem, Site, cookies,
    extract::{Caller, JsonBody},
};
use crate::auth::MAX_NAME_CHARS;

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
    let config = &site.config().auth;

    // So that the user is there at once, for others to write to.
    let call = SignIn { user: user.clone(), handle: Some(name.clone()), display_name: Some(name.clone()), limit: 1 };
    let profile = rpc::call(site.broker(), call, None).await?.reply.profile;

    let (token, expires_at) = site.auth().issue(&user, &name, Timestamp::now(), config.session_lifetime).map_err(|reason| {
        tracing::error!(%reason, "token_not_issued");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "no token could be issued")
    })?;
    let mut headers = HeaderMap::new();
    let csrf = site.auth().csrf().issue(Some(&user));
    headers.extend(cookies::session(&token, config.session_lifetime, caller.https).map(|cookie| (header::SET_COOKIE, cookie)));
    headers.append(header::SET_COOKIE, cookies::csrf(&csrf, config.session_lifetime, caller.https).ok_or_else(Problem::timeout)?);
    Ok((headers, Json(LoggedIn { token, user: profile, expires_at })).into_response())
}

/// Forgets the cookie. Who is signed in by it has to prove that the page is ours.
pub(super) async fn logout(State(site): State<Arc<dyn Site>>, caller: Caller) -> Result<Response, Problem> {
    require_enabled(&*site)?;
    caller.require_origin()?;
    if caller.identity().is_some() {
        caller.require_form(&*site, None)?;
    }
    let headers: HeaderMap = cookies::no_session(caller.https).map(|cookie| (header::SET_COOKIE, cookie)).into_iter().collect();
    Ok((StatusCode::NO_CONTENT, headers).into_response())
}

fn require_enabled(site: &dyn Site) -> Result<(), Problem> {
    if site.config().auth.dev_login { Ok(()) } else { Err(Problem::not_found("dev sign-in is switched off")) }
}

fn checked(name: &str) -> Result<UserId, Problem> {
    let chars = name.chars().count();
    let user = UserId::new(name).ok().filter(|_| chars <= MAX_NAME_CHARS && name.trim() == name);
    user.ok_or_else(|| Problem::bad_request("a name has 1 to 64 characters, none of them control characters or a space at an end"))
}
