//! Users, before and while they are here.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use natter_shared::{
    event::Ephemeral,
    id::{InstanceId, UserId},
    rpc::{ChangeStanding, MAX_NAME_CHARS, RpcError, SignIn, StandingChange, is_display_name, is_handle},
    subject::Topic,
    timestamp::Timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::{
    Problem,
    api::{
        Api,
        access::BackEnd,
        extract::{At, Perhaps},
        users::find,
        words::UserWord,
    },
    extract::JsonBody,
};

/// What a token would say of the user.
#[derive(Deserialize, ToSchema)]
pub(in crate::http::api) struct Known {
    /// First come, first served; where it is taken, the id.
    #[schema(min_length = 1, max_length = 64)]
    handle: Option<String>,
    /// What people see.
    #[schema(min_length = 1, max_length = 64)]
    display_name: Option<String>,
}

/// Makes a user known, as signing in would: others find the user from now on.
#[utoipa::path(
    put, path = "/api/v1/server/users/{user}", tag = "server", request_body = Known,
    params(("user" = String, Path, description = "A user's id")),
    responses((status = 200, body = UserWord)),
)]
pub(in crate::http::api) async fn server_put_user(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    At(user): At<UserId>,
    JsonBody(known): JsonBody<Known>,
) -> Result<Json<UserWord>, Problem> {
    let (handle, display_name) = (name("handle", known.handle, is_handle)?, name("display_name", known.display_name, is_display_name)?);
    let profile = api.call(SignIn { user, handle, display_name, limit: 1, issued_at: None }).await?.reply.profile;
    Ok(Json(profile.into()))
}

fn name(what: &str, name: Option<String>, fits: fn(&str) -> bool) -> Result<Option<String>, Problem> {
    let Some(name) = name else { return Ok(None) };
    if fits(&name) {
        Ok(Some(name))
    } else {
        Err(Problem::bad_request(format!(
            "`{what}` has 1 to {MAX_NAME_CHARS} characters, none of them invisible or control characters or a space at an end"
        )))
    }
}

/// A user.
#[utoipa::path(
    get, path = "/api/v1/server/users/{user}", tag = "server",
    params(("user" = String, Path, description = "A user's id")),
    responses((status = 200, body = UserWord)),
)]
pub(in crate::http::api) async fn server_get_user(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    At(user): At<UserId>,
) -> Result<Json<UserWord>, Problem> {
    find(&api, user).await.map(Json)
}

/// How to disconnect.
#[derive(Default, Deserialize, ToSchema)]
pub(in crate::http::api) struct Disconnected {
    /// The user's clients may come back at once (close 1012); else not before a person has done
    /// something (4403).
    #[serde(default)]
    reconnect: bool,
}

/// Closes all connections of a user, on every gateway. Tokens stay good: the application sees to
/// that the user gets no other one.
#[utoipa::path(
    post, path = "/api/v1/server/users/{user}/disconnect", tag = "server", request_body = Option<Disconnected>,
    params(("user" = String, Path, description = "A user's id")),
    responses((status = 202, description = "Passed on to all gateways")),
)]
pub(in crate::http::api) async fn server_disconnect_user(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    At(user): At<UserId>,
    Perhaps(how): Perhaps<Disconnected>,
) -> Result<StatusCode, Problem> {
    let frame = Ephemeral::Disconnect { reconnect: how.reconnect };
    let payload = serde_json::to_vec(&frame).map_err(|error| Problem::bad_request(error.to_string()))?;
    api.broker().publish_ephemeral(Topic::User(user.key()), payload.into()).await.map_err(RpcError::from)?;
    Ok(StatusCode::ACCEPTED)
}

/// How a user stands, and which gateways keep to it.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct StandingWord {
    blocked: bool,
    /// Tokens issued before then are void; null where none are.
    #[schema(value_type = Option<String>, required = true)]
    tokens_void_before: Option<Timestamp>,
    /// Gateways (by process) that keep to it already.
    #[schema(value_type = Vec<uuid::Uuid>)]
    confirmed: Vec<InstanceId>,
    /// Gateways heard of in the last 5 s that have not said so yet: gone, or cut off, and then they end
    /// their sessions by themselves within 5 s; or they could not look it up, since the persister that they
    /// asked does not reach the database, and go on until they can: repeat the call until none is listed.
    #[schema(value_type = Vec<uuid::Uuid>)]
    unconfirmed: Vec<InstanceId>,
}

async fn change(api: &Api, user: UserId, change: StandingChange) -> Result<Json<StandingWord>, Problem> {
    let changed = api.call(ChangeStanding { user, change }).await?.reply;
    let void_before = changed.standing.void_before;
    Ok(Json(StandingWord {
        blocked: changed.standing.blocked,
        tokens_void_before: (void_before > Timestamp::default()).then_some(void_before),
        confirmed: changed.confirmed,
        unconfirmed: changed.unconfirmed,
    }))
}

/// Blocks a user, known or not: connections are closed (4403) on every gateway, and nobody signs in or
/// calls as that user until unblocked. Memberships stay.
#[utoipa::path(
    post, path = "/api/v1/server/users/{user}/block", tag = "server",
    params(("user" = String, Path, description = "A user's id")),
    responses((status = 200, body = StandingWord)),
)]
pub(in crate::http::api) async fn server_block_user(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    At(user): At<UserId>,
) -> Result<Json<StandingWord>, Problem> {
    change(&api, user, StandingChange::Block).await
}

/// Takes a block back.
#[utoipa::path(
    post, path = "/api/v1/server/users/{user}/unblock", tag = "server",
    params(("user" = String, Path, description = "A user's id")),
    responses((status = 200, body = StandingWord)),
)]
pub(in crate::http::api) async fn server_unblock_user(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    At(user): At<UserId>,
) -> Result<Json<StandingWord>, Problem> {
    change(&api, user, StandingChange::Unblock).await
}

/// Which tokens.
#[derive(Default, Deserialize, ToSchema)]
pub(in crate::http::api) struct Revoked {
    /// Those issued before this time, which is not in the future. Unset: all issued until now.
    #[schema(value_type = Option<String>)]
    before: Option<Timestamp>,
}

/// Voids a user's tokens and cookies by when they were issued (`iat`; a token without one is as old as
/// can be), for good: connections that stand on one are closed (4401) on every gateway.
#[utoipa::path(
    post, path = "/api/v1/server/users/{user}/revoke", tag = "server", request_body = Option<Revoked>,
    params(("user" = String, Path, description = "A user's id")),
    responses((status = 200, body = StandingWord)),
)]
pub(in crate::http::api) async fn server_revoke_tokens(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    At(user): At<UserId>,
    Perhaps(which): Perhaps<Revoked>,
) -> Result<Json<StandingWord>, Problem> {
    if which.before.is_some_and(|before| before > Timestamp::now()) {
        // Later tokens would be void as well, and nothing takes that back.
        return Err(Problem::bad_request("`before` lies in the future"));
    }
    change(&api, user, StandingChange::Revoke(which.before)).await
}
