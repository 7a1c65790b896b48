//! Commands: checked against SQL, stored as events, answered once those are applied.
//!
//! Each event's id follows from what it does and the version of the membership it does it to, so
//! that the same command given twice, at once or after a crash, is one event.

use natter_shared::{
    event::{Event, GroupCreated, GroupKind, MemberAdded, MemberRemoved, Role},
    frame::ErrorCode,
    id::{EventId, GroupId, RoomName, UserId, derived_event, open_group, single_group},
    position::Position,
    rpc::{
        AddMember, Answer, CreateGroup, CreateSingle, JoinOpen, LeaveGroup, LeftGroup, Membership, OpenGroup, RemoveMember, RpcError,
        ShardPosition,
    },
    subject::Topic,
};
use sea_orm::ConnectionTrait;

use super::{
    context::{Context, column},
    memberships,
};
use crate::{
    checkpoint,
    database::rows::{Kind, Rows},
    error::{not_found, unavailable},
};

/// How a group, and a user in it, stand.
struct Standing {
    kind: Option<GroupKind>,
    /// Of a member.
    role: Option<Role>,
    since: Position,
    until: Option<Position>,
    /// How often the membership has changed.
    version: i64,
}

async fn standing(context: &Context, group: GroupId, user: &UserId) -> Result<Standing, RpcError> {
    let sql = "SELECT g.kind, m.role, m.since_epoch, m.since_seq, m.until_epoch, m.until_seq, m.version FROM (SELECT 1 AS one) o \
               LEFT JOIN groups g ON g.id = ? LEFT JOIN members m ON m.group_id = ? AND m.user_id = ?";
    let statement = context.store.statement(sql, [group.0.into(), group.0.into(), user.as_str().into()]);
    let row = context.store.database().query_one_raw(statement).await.map_err(|error| unavailable(&error))?.ok_or_else(not_found)?;
    let at = |epoch: Option<i64>, seq: Option<i64>| epoch.zip(seq).map(|(epoch, seq)| checkpoint::position(epoch, seq));
    let kind: Option<String> = column(&row, "kind")?;
    let role: Option<String> = column(&row, "role")?;
    let until = at(column(&row, "until_epoch")?, column(&row, "until_seq")?);
    Ok(Standing {
        kind: kind.as_deref().and_then(GroupKind::parse),
        role: role.as_deref().and_then(Role::parse).filter(|_| until.is_none()),
        since: at(column(&row, "since_epoch")?, column(&row, "since_seq")?).unwrap_or_default(),
        until,
        version: column::<Option<i64>>(&row, "version")?.unwrap_or_default(),
    })
}

const SINGLE_IS_FIXED: &str = "a single group is as it is, for good";

/// What kind of group this is.
async fn kind(context: &Context, group: GroupId) -> Result<Option<GroupKind>, RpcError> {
    let statement = context.store.statement("SELECT kind FROM groups WHERE id = ?", [group.0.into()]);
    let row = context.store.database().query_one_raw(statement).await.map_err(|error| unavailable(&error))?;
    let kind: Option<String> = row.as_ref().map(|row| column(row, "kind")).transpose()?;
    Ok(kind.as_deref().and_then(GroupKind::parse))
}

/// Which of `users` SQL knows: handles in their order.
async fn handles(context: &Context, users: &[UserId]) -> Result<Vec<Option<String>>, RpcError> {
    let mut rows = Rows::new([("id", Kind::Text)]);
    for user in users {
        rows.push([user.as_str().into()]);
    }
    let sql = "SELECT u.id, u.handle FROM v JOIN users u ON u.id = v.id";
    let found = rows.query(context.store.database(), sql).await.map_err(|error| unavailable(&error))?;
    let mut handles = std::collections::HashMap::new();
    for row in &found {
        handles.insert(column::<String>(row, "id")?, column::<String>(row, "handle")?);
    }
    Ok(users.iter().map(|user| handles.get(user.as_str()).cloned()).collect())
}

fn member_event(what: &str, group: GroupId, user: &UserId, version: i64) -> EventId {
    derived_event(what, &[group.0.as_bytes(), user.as_str().as_bytes(), &version.to_be_bytes()])
}

/// Answers with `user`'s membership as SQL has it now.
async fn answer(context: &Context, user: &UserId, group: GroupId) -> Result<Answer<Membership>, RpcError> {
    let snapshot = context.snapshot().await?;
    match memberships::find(&snapshot, user, group).await? {
        Some(membership) => snapshot.answer(membership).await,
        // Stored too late to count, or undone at once.
        None => Err(RpcError::new(ErrorCode::Unavailable, "the membership did not come to be")),
    }
}

async fn create(context: &Context, created: GroupCreated) -> Result<(), RpcError> {
    let group = created.group;
    let id = derived_event("group_created", &[group.0.as_bytes()]);
    context.publish(Topic::Group(group), id, &Event::GroupCreated(created)).await.map(drop)
}

pub(super) async fn join_open(context: &Context, call: JoinOpen) -> Result<Answer<Membership>, RpcError> {
    let group = match &call.group {
        OpenGroup::Name(name) => open_group(name),
        OpenGroup::Id(id) => *id,
    };
    let standing = standing(context, group, &call.user).await?;
    if standing.role.is_some() {
        return answer(context, &call.user, group).await;
    }
    match (standing.kind, call.group) {
        (Some(GroupKind::Open), _) => {}
        (None, OpenGroup::Name(name)) if context.options.open_groups => create(context, open(group, name)).await?,
        (None | Some(GroupKind::Single | GroupKind::Group), _) => return Err(not_found()),
    }
    let id = member_event("member_added", group, &call.user, standing.version);
    let added = MemberAdded { group, user: call.user.clone(), role: Role::Member, by: Some(call.user.clone()) };
    context.publish(Topic::Group(group), id, &Event::MemberAdded(added)).await?;
    answer(context, &call.user, group).await
}

/// An open group as whoever comes first makes it: without members, so that all who come at once
/// make the same event.
fn open(group: GroupId, name: RoomName) -> GroupCreated {
    GroupCreated { group, kind: GroupKind::Open, display_name: name.as_str().to_owned(), name: Some(name), members: Vec::new() }
}

pub(super) async fn leave(context: &Context, call: LeaveGroup) -> Result<Answer<LeftGroup>, RpcError> {
    let standing = standing(context, call.group, &call.user).await?;
    if standing.role.is_some() && standing.kind == Some(GroupKind::Single) {
        return Err(RpcError::new(ErrorCode::Forbidden, "a single group cannot be left"));
    }
    remove(context, call.group, call.user.clone(), Some(call.user), standing).await
}

async fn remove(
    context: &Context,
    group: GroupId,
    user: UserId,
    by: Option<UserId>,
    standing: Standing,
) -> Result<Answer<LeftGroup>, RpcError> {
    let mut until = standing.until;
    if standing.role.is_some() {
        let id = member_event("member_removed", group, &user, standing.version);
        let removed = MemberRemoved { group, user, by };
        until = Some(context.publish(Topic::Group(group), id, &Event::MemberRemoved(removed)).await?.position);
    }
    context.snapshot().await?.answer(LeftGroup { until }).await
}

pub(super) async fn create_single(context: &Context, call: CreateSingle) -> Result<Answer<Membership>, RpcError> {
    if call.user == call.other {
        return Err(RpcError::new(ErrorCode::BadRequest, "a single group is for two"));
    }
    let mut handles = handles(context, &[call.user.clone(), call.other.clone()]).await?.into_iter();
    let own = handles.next().flatten().unwrap_or_else(|| call.user.to_string());
    let other = handles.next().flatten().ok_or_else(not_found)?;
    let (group, display_name) = (single_group(&call.user, &call.other), format!("{own}_with_{other}"));
    if standing(context, group, &call.user).await?.role.is_none() {
        let members = vec![(call.user.clone(), Role::Member), (call.other, Role::Member)];
        let created = GroupCreated { group, kind: GroupKind::Single, name: None, display_name: display_name.clone(), members };
        create(context, created).await?;
    }
    // Each of the two is told it by their own side, whoever made it.
    let mut answer = answer(context, &call.user, group).await?;
    answer.reply.display_name = display_name;
    Ok(answer)
}

pub(super) async fn create_group(context: &Context, call: CreateGroup) -> Result<Answer<Membership>, RpcError> {
    let mut users = call.members;
    users.retain(|user| *user != call.user);
    users.sort();
    users.dedup();
    if users.len() >= context.options.max_group_members {
        return Err(RpcError::new(ErrorCode::TooLarge, "too many members"));
    }
    if call.display_name.trim().is_empty() || call.display_name.len() > 256 || call.display_name.chars().any(char::is_control) {
        return Err(RpcError::new(ErrorCode::BadRequest, "a group's name has 1 to 256 bytes and no control characters"));
    }
    let group = derived_event("group", &[call.user.as_str().as_bytes(), call.nonce.uuid().as_bytes()]);
    let group = GroupId(group.0);
    if standing(context, group, &call.user).await?.kind.is_none() {
        if handles(context, &users).await?.iter().any(Option::is_none) {
            return Err(not_found());
        }
        let owner = (call.user.clone(), Role::Owner);
        let members = std::iter::once(owner).chain(users.into_iter().map(|user| (user, Role::Member))).collect();
        let display_name = call.display_name.clone();
        create(context, GroupCreated { group, kind: GroupKind::Group, name: None, display_name, members }).await?;
    }
    let answer = answer(context, &call.user, group).await?;
    if answer.reply.display_name == call.display_name {
        Ok(answer)
    } else {
        Err(RpcError::new(ErrorCode::NonceReused, "the nonce made another group"))
    }
}

/// The role of `by`, who wants to change `group` or its members; without one, the application's
/// back end, which may what an owner may.
async fn authority(context: &Context, group: GroupId, by: Option<&UserId>) -> Result<Role, RpcError> {
    let Some(by) = by else {
        return match kind(context, group).await? {
            None => Err(not_found()),
            Some(GroupKind::Single) => Err(RpcError::new(ErrorCode::Forbidden, SINGLE_IS_FIXED)),
            Some(GroupKind::Group | GroupKind::Open) => Ok(Role::Owner),
        };
    };
    let standing = standing(context, group, by).await?;
    let forbidden = |why: &str| Err(RpcError::new(ErrorCode::Forbidden, why));
    match (standing.role, standing.kind) {
        (None, _) | (_, None) => Err(not_found()),
        (Some(_), Some(GroupKind::Single)) => forbidden(SINGLE_IS_FIXED),
        (Some(Role::Member), Some(GroupKind::Group | GroupKind::Open)) => forbidden("only admins and owners may"),
        (Some(role @ (Role::Admin | Role::Owner)), Some(GroupKind::Group | GroupKind::Open)) => Ok(role),
    }
}

pub(super) async fn add_member(context: &Context, call: AddMember) -> Result<Answer<ShardPosition>, RpcError> {
    if call.role > authority(context, call.group, call.by.as_ref()).await? {
        return Err(RpcError::new(ErrorCode::Forbidden, "nobody gives a role above their own"));
    }
    if handles(context, std::slice::from_ref(&call.user)).await?.iter().any(Option::is_none) {
        return Err(not_found());
    }
    let (standing, topic) = (standing(context, call.group, &call.user).await?, Topic::Group(call.group));
    let at = if standing.role.is_some() {
        ShardPosition { shard: context.broker.shards().of(topic).0, position: standing.since }
    } else {
        check_room(context, call.group).await?;
        let id = member_event("member_added", call.group, &call.user, standing.version);
        let added = MemberAdded { group: call.group, user: call.user, role: call.role, by: call.by };
        context.publish(topic, id, &Event::MemberAdded(added)).await?
    };
    context.snapshot().await?.answer(at).await
}

async fn check_room(context: &Context, group: GroupId) -> Result<(), RpcError> {
    let sql = "SELECT count(*) AS members FROM members WHERE group_id = ? AND until_epoch IS NULL";
    let statement = context.store.statement(sql, [group.0.into()]);
    let row = context.store.database().query_one_raw(statement).await.map_err(|error| unavailable(&error))?;
    let members = row.as_ref().map(|row| column::<i64>(row, "members")).transpose()?.unwrap_or_default();
    if members < context.options.max_group_members as i64 { Ok(()) } else { Err(RpcError::new(ErrorCode::TooLarge, "the group is full")) }
}

pub(super) async fn remove_member(context: &Context, call: RemoveMember) -> Result<Answer<LeftGroup>, RpcError> {
    if call.by.as_ref() == Some(&call.user) {
        return leave(context, LeaveGroup { user: call.user, group: call.group }).await;
    }
    let authority = authority(context, call.group, call.by.as_ref()).await?;
    let standing = standing(context, call.group, &call.user).await?;
    if authority != Role::Owner && standing.role.is_some_and(|role| role >= authority) {
        return Err(RpcError::new(ErrorCode::Forbidden, "nobody removes members of their own rank"));
    }
    remove(context, call.group, call.user, call.by, standing).await
}
