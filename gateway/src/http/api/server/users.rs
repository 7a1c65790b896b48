//! Users, before and while they are here.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use natter_shared::{
    event::Ephemeral,
    id::UserId,
    rpc::{RpcError, SignIn},
    subject::Topic,
};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    auth::MAX_NAME_CHARS,
    http::{
        Problem,
        api::{
            Api,
            access::BackEnd,
            extract::{At, Perhaps},
            users::find,
            words::UserWord,
        },
        extract::JsonBody,
    },
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
    let (handle, display_name) = (name("handle", known.handle)?, name("display_name", known.display_name)?);
    let profile = api.call(SignIn { user, handle, display_name, limit: 1 }).await?.reply.profile;
    Ok(Json(profile.into()))
}

fn name(what: &str, name: Option<String>) -> Result<Option<String>, Problem> {
    let Some(name) = name else { return Ok(None) };
    let fits = (1..=MAX_NAME_CHARS).contains(&name.chars().count()) && !name.chars().any(char::is_control) && name.trim() == name;
    if fits {
        Ok(Some(name))
    } else {
        Err(Problem::bad_request(format!(
            "`{what}` has 1 to {MAX_NAME_CHARS} characters, none of them control characters or a space at an end"
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
