//! One's groups.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use natter_shared::{
    id::{GroupId, GroupRef, RoomName, UserId},
    rpc::{self, CreateGroup, CreateSingle, JoinOpen, LeaveGroup, ListGroups, OpenGroup, RenameGroup},
    subject::Topic,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Api,
    access::User,
    extract::{Asked, At, Once},
    no_such_group,
    page::{self, Page},
    words::GroupWord,
};
use crate::http::{Problem, extract::JsonBody};

const LIST: &str = "groups";

/// A page of one's groups.
#[derive(Serialize, ToSchema)]
pub(super) struct Groups {
    groups: Vec<GroupWord>,
    /// Where the next page begins; null at the end.
    #[schema(required = true)]
    next: Option<String>,
}

/// My groups, by id, each with its last message and what is unread.
#[utoipa::path(get, path = "/api/v1/groups", tag = "groups", params(Page), responses((status = 200, body = Groups)))]
pub(super) async fn list_groups(
    State(api): State<Arc<Api>>,
    User(identity): User,
    Asked(page): Asked<Page>,
) -> Result<Json<Groups>, Problem> {
    let (limit, after) = (page.limit()?, page.after::<GroupId>(LIST)?);
    let answer = api.call(ListGroups { user: identity.user, after, limit }).await?;
    let applied = answer.applied;
    let next = page::next(LIST, answer.reply.more, answer.reply.groups.last().map(|group| group.membership.group));
    let shards = api.broker().shards();
    let tell = |overview: rpc::GroupOverview| {
        let at = rpc::applied_in(&applied, shards.of(Topic::Group(overview.membership.group)));
        GroupWord::of(overview, at)
    };
    Ok(Json(Groups { groups: answer.reply.groups.into_iter().map(tell).collect(), next }))
}

/// A group of the user.
async fn group_of(api: &Api, user: &UserId, group: GroupId) -> Result<GroupWord, Problem> {
    // Of the list by id, the one that follows the id before.
    let after = group.0.as_u128().checked_sub(1).map(|before| GroupId(Uuid::from_u128(before)));
    let answer = api.call(ListGroups { user: user.clone(), after, limit: 1 }).await?;
    let applied = answer.applied(api.broker().shards().of(Topic::Group(group)));
    let found = answer.reply.groups.into_iter().find(|overview| overview.membership.group == group);
    found.map(|overview| GroupWord::of(overview, applied)).ok_or_else(no_such_group)
}

/// A new group of people.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewGroup {
    /// 1 to 256 bytes without control characters.
    #[schema(min_length = 1, max_length = 256)]
    display_name: String,
    /// Ids of its further members; each must be known.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    members: Vec<UserId>,
}

/// Makes a group of people, whose owner I am.
#[utoipa::path(post, path = "/api/v1/groups", tag = "groups", request_body = NewGroup, responses((status = 201, body = GroupWord)))]
pub(super) async fn create_group(
    State(api): State<Arc<Api>>,
    User(identity): User,
    Once(nonce): Once,
    JsonBody(new): JsonBody<NewGroup>,
) -> Result<(StatusCode, Json<GroupWord>), Problem> {
    let user = identity.user.clone();
    let call = CreateGroup { user, nonce, display_name: new.display_name, members: new.members };
    let made = api.call(call).await?.reply;
    Ok((StatusCode::CREATED, Json(group_of(&api, &identity.user, made.group).await?)))
}

/// With whom.
#[derive(Deserialize, ToSchema)]
pub(super) struct With {
    /// The other one's id.
    #[schema(value_type = String, min_length = 1, max_length = 128)]
    user: UserId,
}

/// Finds or makes my one-to-one group with another user.
#[utoipa::path(post, path = "/api/v1/groups/single", tag = "groups", request_body = With, responses((status = 200, body = GroupWord)))]
pub(super) async fn create_single(
    State(api): State<Arc<Api>>,
    User(identity): User,
    JsonBody(with): JsonBody<With>,
) -> Result<Json<GroupWord>, Problem> {
    let made = api.call(CreateSingle { user: identity.user.clone(), other: with.user, by_back_end: false }).await?.reply;
    group_of(&api, &identity.user, made.group).await.map(Json)
}

/// Which open group.
#[derive(Deserialize, ToSchema)]
pub(super) struct OpenName {
    /// 1 to 64 characters without control characters.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
}

/// An open group's name, which is not shaped like an id.
pub(super) fn open_name(name: &str) -> Result<RoomName, Problem> {
    if Uuid::parse_str(name).is_ok() {
        return Err(Problem::bad_request("UUID-shaped text is an id, never a name"));
    }
    RoomName::room(name).map_err(|error| Problem::bad_request(error.to_string()))
}

/// Joins an open group; made on first join where the configuration allows.
#[utoipa::path(post, path = "/api/v1/groups/open", tag = "groups", request_body = OpenName, responses((status = 200, body = GroupWord)))]
pub(super) async fn join_open(
    State(api): State<Arc<Api>>,
    User(identity): User,
    JsonBody(open): JsonBody<OpenName>,
) -> Result<Json<GroupWord>, Problem> {
    let group = OpenGroup::Name(open_name(&open.name)?);
    let joined = api.call(JoinOpen { user: identity.user.clone(), group }).await?.reply;
    group_of(&api, &identity.user, joined.group).await.map(Json)
}

/// A group of mine.
#[utoipa::path(
    get, path = "/api/v1/groups/{group}", tag = "groups",
    params(("group" = String, Path, description = "A group's id or an open group's name")),
    responses((status = 200, body = GroupWord)),
)]
pub(super) async fn get_group(
    State(api): State<Arc<Api>>,
    User(identity): User,
    At(group): At<GroupRef>,
) -> Result<Json<GroupWord>, Problem> {
    group_of(&api, &identity.user, group.id()).await.map(Json)
}

/// Another name.
#[derive(Deserialize, ToSchema)]
pub(super) struct Renamed {
    /// 1 to 256 bytes without control characters.
    #[schema(min_length = 1, max_length = 256)]
    pub(super) display_name: String,
}

/// Gives a group another name; its admins and owners may.
#[utoipa::path(
    patch, path = "/api/v1/groups/{group}", tag = "groups", request_body = Renamed,
    params(("group" = String, Path, description = "A group's id or an open group's name")),
    responses((status = 200, body = GroupWord)),
)]
pub(super) async fn rename_group(
    State(api): State<Arc<Api>>,
    User(identity): User,
    At(group): At<GroupRef>,
    JsonBody(renamed): JsonBody<Renamed>,
) -> Result<Json<GroupWord>, Problem> {
    let call = RenameGroup { by: Some(identity.user.clone()), group: group.id(), display_name: renamed.display_name };
    api.call(call).await?;
    group_of(&api, &identity.user, group.id()).await.map(Json)
}

/// Leaves a group, for good. A one-to-one group cannot be left.
#[utoipa::path(
    post, path = "/api/v1/groups/{group}/leave", tag = "groups",
    params(("group" = String, Path, description = "A group's id or an open group's name")),
    responses((status = 204)),
)]
pub(super) async fn leave_group(State(api): State<Arc<Api>>, User(identity): User, At(group): At<GroupRef>) -> Result<StatusCode, Problem> {
    api.call(LeaveGroup { user: identity.user, group: group.id(), since: None }).await?;
    Ok(StatusCode::NO_CONTENT)
}
