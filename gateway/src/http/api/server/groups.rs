//! Groups, made and named by the application.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use natter_shared::{
    event::Role,
    id::{GroupId, GroupRef, UserId},
    rpc::{CreateSingle, EnsureGroup, FindGroup, NewGroup, RenameGroup},
};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::http::{
    Problem,
    api::{
        Api,
        access::BackEnd,
        extract::{At, Once},
        groups::{Renamed, open_name},
        no_such_group,
        users::find,
        words::{RecordWord, RoleWord},
    },
    extract::JsonBody,
};

/// A member of a new group.
#[derive(Deserialize, ToSchema)]
pub(in crate::http::api) struct NewMember {
    #[schema(value_type = String, min_length = 1, max_length = 128)]
    user: UserId,
    /// `member` unless told.
    #[schema(value_type = Option<RoleWord>)]
    role: Option<Role>,
}

/// A new group of people.
#[derive(Deserialize, ToSchema)]
pub(in crate::http::api) struct ServerNewGroup {
    /// 1 to 256 bytes without control characters.
    #[schema(min_length = 1, max_length = 256)]
    display_name: String,
    /// Its members; each must be known.
    #[serde(default)]
    members: Vec<NewMember>,
}

/// Makes a group of people.
#[utoipa::path(post, path = "/api/v1/server/groups", tag = "server", request_body = ServerNewGroup, responses((status = 201, body = RecordWord)))]
pub(in crate::http::api) async fn server_create_group(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    Once(nonce): Once,
    JsonBody(new): JsonBody<ServerNewGroup>,
) -> Result<(StatusCode, Json<RecordWord>), Problem> {
    let members = new.members.into_iter().map(|member| (member.user, member.role.unwrap_or(Role::Member))).collect();
    let group = NewGroup::Group { nonce, display_name: new.display_name, members };
    let record = api.call(EnsureGroup { group }).await?.reply;
    Ok((StatusCode::CREATED, Json(record.into())))
}

/// A new open group.
#[derive(Deserialize, ToSchema)]
pub(in crate::http::api) struct NewOpen {
    /// 1 to 64 characters without control characters.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    /// What people see; else the name.
    #[schema(min_length = 1, max_length = 256)]
    display_name: Option<String>,
}

/// Finds or makes an open group, whatever the configuration says of making them.
#[utoipa::path(post, path = "/api/v1/server/groups/open", tag = "server", request_body = NewOpen, responses((status = 200, body = RecordWord)))]
pub(in crate::http::api) async fn server_create_open(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    JsonBody(new): JsonBody<NewOpen>,
) -> Result<Json<RecordWord>, Problem> {
    let group = NewGroup::Open { name: open_name(&new.name)?, display_name: new.display_name };
    Ok(Json(api.call(EnsureGroup { group }).await?.reply.into()))
}

/// The two of a one-to-one group.
#[derive(Deserialize, ToSchema)]
pub(in crate::http::api) struct Two {
    /// Two users' ids, who must be known.
    #[schema(value_type = Vec<String>, min_items = 2, max_items = 2)]
    users: [UserId; 2],
}

/// Finds or makes the one-to-one group of two users.
#[utoipa::path(post, path = "/api/v1/server/groups/single", tag = "server", request_body = Two, responses((status = 200, body = RecordWord)))]
pub(in crate::http::api) async fn server_create_single(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    JsonBody(two): JsonBody<Two>,
) -> Result<Json<RecordWord>, Problem> {
    let [user, other] = two.users;
    find(&api, user.clone()).await?;
    let made = api.call(CreateSingle { user, other, by_back_end: true }).await?.reply;
    record_of(&api, made.group).await.map(Json)
}

async fn record_of(api: &Api, group: GroupId) -> Result<RecordWord, Problem> {
    api.call(FindGroup { group }).await?.reply.map(RecordWord::from).ok_or_else(no_such_group)
}

/// A group.
#[utoipa::path(
    get, path = "/api/v1/server/groups/{group}", tag = "server",
    params(("group" = String, Path, description = "A group's id or an open group's name")),
    responses((status = 200, body = RecordWord)),
)]
pub(in crate::http::api) async fn server_get_group(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    At(group): At<GroupRef>,
) -> Result<Json<RecordWord>, Problem> {
    record_of(&api, group.id()).await.map(Json)
}

/// Gives a group another name; not a one-to-one group.
#[utoipa::path(
    patch, path = "/api/v1/server/groups/{group}", tag = "server", request_body = Renamed,
    params(("group" = String, Path, description = "A group's id or an open group's name")),
    responses((status = 200, body = RecordWord)),
)]
pub(in crate::http::api) async fn server_rename_group(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    At(group): At<GroupRef>,
    JsonBody(renamed): JsonBody<Renamed>,
) -> Result<Json<RecordWord>, Problem> {
    api.call(RenameGroup { by: None, group: group.id(), display_name: renamed.display_name }).await?;
    record_of(&api, group.id()).await.map(Json)
}
