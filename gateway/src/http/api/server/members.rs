//! Members of any group but a one-to-one.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use natter_shared::{
    id::{GroupRef, UserId},
    rpc::RemoveMember,
};

use crate::http::{
    Problem,
    api::{
        Api,
        access::BackEnd,
        extract::{Asked, At, Perhaps},
        members::{MembersList, WithRole, add, list},
        page::Page,
        words::StoredWord,
    },
};

/// The members of a group, by id.
#[utoipa::path(
    get, path = "/api/v1/server/groups/{group}/members", tag = "server",
    params(("group" = String, Path, description = "A group's id or an open group's name"), Page),
    responses((status = 200, body = MembersList)),
)]
pub(in crate::http::api) async fn server_list_members(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    At(group): At<GroupRef>,
    Asked(page): Asked<Page>,
) -> Result<Json<MembersList>, Problem> {
    list(&api, None, group.id(), &page).await.map(Json)
}

/// Adds a member. Who is one already keeps their role.
#[utoipa::path(
    put, path = "/api/v1/server/groups/{group}/members/{user}", tag = "server", request_body = Option<WithRole>,
    params(("group" = String, Path, description = "A group's id or an open group's name"), ("user" = String, Path, description = "A user's id")),
    responses((status = 200, body = StoredWord)),
)]
pub(in crate::http::api) async fn server_put_member(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    At((group, user)): At<(GroupRef, UserId)>,
    Perhaps(with): Perhaps<WithRole>,
) -> Result<Json<StoredWord>, Problem> {
    add(&api, None, group.id(), user, &with).await.map(Json)
}

/// Removes a member. From here on nothing of the group reaches the user.
#[utoipa::path(
    delete, path = "/api/v1/server/groups/{group}/members/{user}", tag = "server",
    params(("group" = String, Path, description = "A group's id or an open group's name"), ("user" = String, Path, description = "A user's id")),
    responses((status = 204)),
)]
pub(in crate::http::api) async fn server_delete_member(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    At((group, user)): At<(GroupRef, UserId)>,
) -> Result<StatusCode, Problem> {
    api.call(RemoveMember { by: None, group: group.id(), user }).await?;
    Ok(StatusCode::NO_CONTENT)
}
