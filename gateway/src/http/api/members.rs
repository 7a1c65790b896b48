//! Members of one's groups.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use natter_shared::{
    event::Role,
    id::{GroupId, GroupRef, UserId},
    rpc::{AddMember, Members, RemoveMember},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Api,
    access::User,
    extract::{Asked, At, Perhaps},
    page::{self, Page},
    words::{MemberWord, RoleWord, StoredWord},
};
use crate::http::Problem;

const LIST: &str = "members";

/// A page of members.
#[derive(Serialize, ToSchema)]
pub(super) struct MembersList {
    members: Vec<MemberWord>,
    /// Where the next page begins; null at the end.
    #[schema(required = true)]
    next: Option<String>,
}

/// The members of a group of mine, by id.
#[utoipa::path(
    get, path = "/api/v1/groups/{group}/members", tag = "members",
    params(("group" = String, Path, description = "A group's id or an open group's name"), Page),
    responses((status = 200, body = MembersList)),
)]
pub(super) async fn list_members(
    State(api): State<Arc<Api>>,
    User(identity): User,
    At(group): At<GroupRef>,
    Asked(page): Asked<Page>,
) -> Result<Json<MembersList>, Problem> {
    list(&api, Some(identity.user), group.id(), &page).await.map(Json)
}

/// The members of a group, to one of them or to the application's back end.
pub(super) async fn list(api: &Api, user: Option<UserId>, group: GroupId, page: &Page) -> Result<MembersList, Problem> {
    let (limit, after) = (page.limit()?, page.after::<UserId>(LIST)?);
    let found = api.call(Members { user, group, after, limit }).await?.reply;
    let next = page::next(LIST, found.more, found.members.last().map(|(profile, _)| profile.id.clone()));
    let members = found.members.into_iter().map(|(profile, role)| MemberWord { user: profile.into(), role });
    Ok(MembersList { members: members.collect(), next })
}

/// What a member may do.
#[derive(Default, Deserialize, ToSchema)]
pub(super) struct WithRole {
    /// `member` unless told.
    #[schema(value_type = Option<RoleWord>)]
    role: Option<Role>,
}

/// Adds a member; the group's admins and owners may, and nobody gives a role above their own. Who is a member already keeps their role.
#[utoipa::path(
    put, path = "/api/v1/groups/{group}/members/{user}", tag = "members", request_body = Option<WithRole>,
    params(("group" = String, Path, description = "A group's id or an open group's name"), ("user" = String, Path, description = "A user's id")),
    responses((status = 200, body = StoredWord)),
)]
pub(super) async fn put_member(
    State(api): State<Arc<Api>>,
    User(identity): User,
    At((group, user)): At<(GroupRef, UserId)>,
    Perhaps(with): Perhaps<WithRole>,
) -> Result<Json<StoredWord>, Problem> {
    add(&api, Some(identity.user), group.id(), user, &with).await.map(Json)
}

pub(super) async fn add(api: &Api, by: Option<UserId>, group: GroupId, user: UserId, with: &WithRole) -> Result<StoredWord, Problem> {
    let role = with.role.unwrap_or(Role::Member);
    let at = api.call(AddMember { by, group, user, role }).await?.reply;
    Ok(StoredWord { position: at.position })
}

/// Removes a member; the group's admins and owners may. From here on nothing reaches the member.
#[utoipa::path(
    delete, path = "/api/v1/groups/{group}/members/{user}", tag = "members",
    params(("group" = String, Path, description = "A group's id or an open group's name"), ("user" = String, Path, description = "A user's id")),
    responses((status = 204)),
)]
pub(super) async fn delete_member(
    State(api): State<Arc<Api>>,
    User(identity): User,
    At((group, user)): At<(GroupRef, UserId)>,
) -> Result<StatusCode, Problem> {
    api.call(RemoveMember { by: Some(identity.user), group: group.id(), user }).await?;
    Ok(StatusCode::NO_CONTENT)
}
