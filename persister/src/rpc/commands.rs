//! Commands about members: checked against SQL, stored as events, answered once those are applied.
//!
//! Each event's id follows from what it does and the version of the membership it does it to, so
//! that the same command given twice, at once or after a crash, is one event.

use std::collections::HashMap;

use futures::future::join_all;
use natter_shared::{
    event::{Event, GroupKind, MemberAdded, MemberRemoved, Role},
    frame::ErrorCode,
    id::{EventId, GroupId, UserId, derived_event},
    position::Position,
    rpc::{
        AddMember, Answer, FirstJoinMany, JoinOpen, JoinOpenMany, LeaveGroup, LeftGroup, Membership, OneOfMany, OpenGroup, RemoveMember,
        RpcError, ShardPosition,
    },
    subject::Topic,
};
use sea_orm::{ConnectionTrait, QueryResult};

use super::{
    bounds::{self, Counted},
    context::{Context, column},
    creation, many, memberships,
};
use crate::{
    checkpoint,
    database::rows::{Kind, Rows},
    error::{not_found, unavailable},
};

/// How a group, and a user in it, stand.
pub(super) struct Standing {
    pub(super) kind: Option<GroupKind>,
    /// Of a member.
    pub(super) role: Option<Role>,
    since: Position,
    until: Option<Position>,
    /// How often the membership has changed.
    pub(super) version: i64,
}

/// What of a group `g` and a membership `m` makes a standing.
const STANDING: &str = "g.kind, m.role, m.since_epoch, m.since_seq, m.until_epoch, m.until_seq, m.version";

impl Standing {
    fn of(row: &QueryResult) -> Result<Self, RpcError> {
        let at = |epoch: Option<i64>, seq: Option<i64>| epoch.zip(seq).map(|(epoch, seq)| checkpoint::position(epoch, seq));
        let kind: Option<String> = column(row, "kind")?;
        let role: Option<String> = column(row, "role")?;
        let until = at(column(row, "until_epoch")?, column(row, "until_seq")?);
        Ok(Self {
            kind: kind.as_deref().and_then(GroupKind::parse),
            role: role.as_deref().and_then(Role::parse).filter(|_| until.is_none()),
            since: at(column(row, "since_epoch")?, column(row, "since_seq")?).unwrap_or_default(),
            until,
            version: column::<Option<i64>>(row, "version")?.unwrap_or_default(),
        })
    }
}

pub(super) async fn standing(context: &Context, group: GroupId, user: &UserId) -> Result<Standing, RpcError> {
    let sql = format!(
        "SELECT {STANDING} FROM (SELECT 1 AS one) o LEFT JOIN groups g ON g.id = ? LEFT JOIN members m ON m.group_id = ? AND m.user_id = ?"
    );
    let statement = context.store.statement(&sql, [group.0.into(), group.0.into(), user.as_str().into()]);
    let row = context.store.database().query_one_raw(statement).await.map_err(|error| unavailable(&error))?.ok_or_else(not_found)?;
    Standing::of(&row)
}

/// The same of many.
async fn standings(context: &Context, asked: &[(&UserId, GroupId)]) -> Result<HashMap<(String, GroupId), Standing>, RpcError> {
    let sql = format!(
        "SELECT v.i AS asked_user, v.g AS asked_group, {STANDING} FROM v LEFT JOIN groups g ON g.id = v.g \
         LEFT JOIN members m ON m.group_id = v.g AND m.user_id = v.i"
    );
    let rows = memberships::pairs(asked).query(context.store.database(), &sql).await.map_err(|error| unavailable(&error))?;
    rows.iter().map(|row| Ok(((column(row, "asked_user")?, GroupId(column(row, "asked_group")?)), Standing::of(row)?))).collect()
}

const SINGLE_IS_FIXED: &str = "a single group is as it is, for good";

/// What kind of group this is.
pub(super) async fn kind(context: &Context, group: GroupId) -> Result<Option<GroupKind>, RpcError> {
    let statement = context.store.statement("SELECT kind FROM groups WHERE id = ?", [group.0.into()]);
    let row = context.store.database().query_one_raw(statement).await.map_err(|error| unavailable(&error))?;
    let kind: Option<String> = row.as_ref().map(|row| column(row, "kind")).transpose()?;
    Ok(kind.as_deref().and_then(GroupKind::parse))
}

/// Which of `users` SQL knows, and did not erase: handles in their order.
pub(super) async fn handles(context: &Context, users: &[UserId]) -> Result<Vec<Option<String>>, RpcError> {
    let mut rows = Rows::new([("id", Kind::Text)]);
    for user in users {
        rows.push([user.as_str().into()]);
    }
    let sql = "SELECT u.id, u.handle FROM v JOIN users u ON u.id = v.id WHERE u.erased_at IS NULL";
    let found = rows.query(context.store.database(), sql).await.map_err(|error| unavailable(&error))?;
    let mut handles = std::collections::HashMap::new();
    for row in &found {
        handles.insert(column::<String>(row, "id")?, column::<String>(row, "handle")?);
    }
    Ok(users.iter().map(|user| handles.get(user.as_str()).cloned()).collect())
}

/// The id of the event that changes a membership which has changed `version` times.
pub(crate) fn member_event(what: &str, group: GroupId, user: &UserId, version: i64) -> EventId {
    derived_event(what, &[group.0.as_bytes(), user.as_str().as_bytes(), &version.to_be_bytes()])
}

/// Answers with `user`'s membership as SQL has it now.
pub(super) async fn answer(context: &Context, user: &UserId, group: GroupId) -> Result<Answer<Membership>, RpcError> {
    let snapshot = context.snapshot().await?;
    match memberships::find(&snapshot, user, group).await? {
        Some(membership) => snapshot.answer(membership).await,
        // Stored too late to count, or undone at once.
        None => Err(RpcError::new(ErrorCode::Unavailable, "the membership did not come to be")),
    }
}

/// The membership of one of many, where it was found and fits.
fn told(found: &HashMap<(String, GroupId), Membership>, asked: (&UserId, GroupId), room: &mut many::Room) -> OneOfMany<Membership> {
    let member = found.get(&(asked.0.as_str().to_owned(), asked.1)).filter(|membership| room.take(memberships::size(membership)));
    member.map_or(OneOfMany::Alone, |membership| OneOfMany::Answered(Box::new(membership.clone())))
}

/// Those who are members, and have come again: two statements for all of them.
pub(super) async fn join_open_many(context: &Context, call: JoinOpenMany) -> Result<Answer<Vec<OneOfMany<Membership>>>, RpcError> {
    many::check(&call.joins)?;
    let snapshot = context.snapshot().await?;
    let asked: Vec<_> = call.joins.iter().map(|one| (&one.call.user, one.call.group.id())).collect();
    let found = memberships::find_many(&snapshot, &asked).await?;
    let mut room = many::Room::default();
    let answers = call
        .joins
        .iter()
        .zip(asked)
        .map(|(one, asked)| if snapshot.has(one.min_position) { told(&found, asked, &mut room) } else { OneOfMany::Alone });
    let answers = answers.collect();
    snapshot.answer(answers).await
}

pub(super) async fn join_open(context: &Context, call: JoinOpen) -> Result<Answer<Membership>, RpcError> {
    let group = call.group.id();
    // Who is a member, and has come again, is mostly answered with others, by `join_open_many`.
    let standing = standing(context, group, &call.user).await?;
    if standing.role.is_none() {
        if standing.kind.is_none() {
            bounds::check_maker(context, &call.user).await?;
            make_open(context, &call).await?;
        }
        add(context, &call, &standing).await?;
    }
    answer(context, &call.user, group).await
}

/// Makes an open group that somebody joins first, where that is allowed.
async fn make_open(context: &Context, JoinOpen { user, group }: &JoinOpen) -> Result<(), RpcError> {
    match group {
        OpenGroup::Name(name) if context.options.open_groups => creation::open(context, group.id(), name.clone(), None, Some(user)).await,
        OpenGroup::Name(_) | OpenGroup::Id(_) => Err(not_found()),
    }
}

/// Makes who joins a member of an open group that there is, or was about to be.
async fn add(context: &Context, call: &JoinOpen, standing: &Standing) -> Result<(), RpcError> {
    let group = call.group.id();
    if let Some(GroupKind::Single | GroupKind::Group) = standing.kind {
        return Err(not_found());
    }
    let id = member_event("member_added", group, &call.user, standing.version);
    let added = MemberAdded { group, user: call.user.clone(), role: Role::Member, by: Some(call.user.clone()) };
    context.publish(Topic::Group(group), id, &Event::MemberAdded(added)).await.map(drop)
}

/// Those of many who are no members yet: one statement that looks at all of them, their events at once, and one that
/// reads what came of them. They wait for each other, so a gateway asks for those together whose groups are of one shard.
pub(super) async fn first_join_many(context: &Context, call: FirstJoinMany) -> Result<Answer<Vec<OneOfMany<Membership>>>, RpcError> {
    many::check(&call.joins)?;
    let asked: Vec<_> = call.joins.iter().map(|join| (&join.user, join.group.id())).collect();
    let standings = standings(context, &asked).await?;
    let first = call.joins.iter().filter(|join| {
        let standing = standings.get(&(join.user.as_str().to_owned(), join.group.id()));
        standing.is_some_and(|standing| standing.kind.is_none())
    });
    let first: Vec<&JoinOpen> = first.collect();
    let mut makers: Vec<&UserId> = first.iter().map(|join| &join.user).collect();
    makers.sort_unstable_by_key(|user| user.as_str());
    makers.dedup();
    let refused = bounds::refused_makers(context, &makers).await?;
    let made = make_those_that_are_not(context, first.into_iter().filter(|join| !refused.contains_key(join.user.as_str()))).await;
    let joined = call.joins.iter().zip(&asked).map(async |(join, (user, group))| {
        let Some(standing) = standings.get(&(user.as_str().to_owned(), *group)) else { return Ok(()) };
        match (made.get(group), refused.get(user.as_str())) {
            (Some(Err(refused)), _) => Err(refused.clone()),
            (None, Some(refused)) if standing.kind.is_none() => Err(refused.clone()),
            (Some(Ok(())) | None, _) if standing.role.is_some() => Ok(()),
            (Some(Ok(())) | None, _) => add(context, join, standing).await,
        }
    });
    let joined = join_all(joined).await;
    let snapshot = context.snapshot().await?;
    let found = memberships::find_many(&snapshot, &asked).await?;
    let mut room = many::Room::default();
    let answers = joined.into_iter().zip(asked).map(|(joined, asked)| match joined {
        Ok(()) => told(&found, asked, &mut room),
        Err(refused) => OneOfMany::Refused(refused),
    });
    let answers = answers.collect();
    snapshot.answer(answers).await
}

/// Makes the groups that there are not, of those who join them first, each once, whoever comes to it; what became of each.
async fn make_those_that_are_not(context: &Context, first: impl Iterator<Item = &JoinOpen>) -> HashMap<GroupId, Result<(), RpcError>> {
    let mut new: HashMap<GroupId, &JoinOpen> = HashMap::new();
    for join in first {
        let known = new.entry(join.group.id()).or_insert(join);
        // Only by its name can one be made.
        if matches!(join.group, OpenGroup::Name(_)) {
            *known = join;
        }
    }
    join_all(new.into_iter().map(async |(id, join)| (id, make_open(context, join).await))).await.into_iter().collect()
}

pub(super) async fn leave(context: &Context, call: LeaveGroup) -> Result<Answer<LeftGroup>, RpcError> {
    let standing = standing(context, call.group, &call.user).await?;
    if standing.role.is_some() && standing.kind == Some(GroupKind::Single) {
        return Err(RpcError::new(ErrorCode::Forbidden, "a single group cannot be left"));
    }
    if call.since.is_some_and(|since| since < standing.since) {
        return context.snapshot().await?.answer(LeftGroup { until: standing.until }).await;
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

/// The role of `by`, who wants to change `group` or its members; without one, the application's
/// back end, which may what an owner may.
pub(super) async fn authority(context: &Context, group: GroupId, by: Option<&UserId>) -> Result<Role, RpcError> {
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
        bounds::check_members(context, call.group).await?;
        if call.by.is_some() {
            bounds::check_groups(context, [&call.user], Counted::ThatCanBeLeft, context.options.max_groups_by_others).await?;
        }
        let id = member_event("member_added", call.group, &call.user, standing.version);
        let added = MemberAdded { group: call.group, user: call.user, role: call.role, by: call.by };
        context.publish(topic, id, &Event::MemberAdded(added)).await?
    };
    context.snapshot().await?.answer(at).await
}

pub(super) async fn remove_member(context: &Context, call: RemoveMember) -> Result<Answer<LeftGroup>, RpcError> {
    if call.by.as_ref() == Some(&call.user) {
        return leave(context, LeaveGroup { user: call.user, group: call.group, since: None }).await;
    }
    let authority = authority(context, call.group, call.by.as_ref()).await?;
    let standing = standing(context, call.group, &call.user).await?;
    if authority != Role::Owner && standing.role.is_some_and(|role| role >= authority) {
        return Err(RpcError::new(ErrorCode::Forbidden, "nobody removes members of their own rank"));
    }
    remove(context, call.group, call.user, call.by, standing).await
}
