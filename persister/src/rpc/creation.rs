//! Commands that make and name groups. A group's id follows from what it is made of (two users, a
//! name, a nonce), and so does the event that makes it: whoever comes twice, or at once, makes one.

use std::time::Instant;

use natter_shared::{
    event::{Event, GroupCreated, GroupKind, GroupRenamed, MemberAdded, Role},
    frame::ErrorCode,
    id::{EventId, GroupId, RoomName, UserId, derived_event, open_group, single_group},
    position::Position,
    rpc::{Answer, CreateGroup, CreateSingle, EnsureGroup, GroupRecord, Membership, NewGroup, RenameGroup, RpcError, ShardPosition},
    subject::Topic,
};

use super::{
    bounds::{self, Counted},
    commands::{answer, authority, handles, kind, member_event, standing},
    context::{Context, column},
    groups,
};
use crate::{
    checkpoint,
    error::{not_found, unavailable},
};

/// Names of groups in bytes at most.
const MAX_NAME: usize = 256;

fn creation(group: GroupId) -> EventId {
    derived_event("group_created", &[group.0.as_bytes()])
}

/// Makes a group, which counts as one of `maker`'s today.
async fn create(context: &Context, created: GroupCreated, maker: Option<&UserId>) -> Result<(), RpcError> {
    let group = created.group;
    let count = || {
        if let Some(maker) = maker {
            context.makers.count(maker, Instant::now());
        }
    };
    context.publish_new(Topic::Group(group), creation(group), &Event::GroupCreated(created), count).await.map(drop)
}

/// Makes an open group as whoever comes first does: without members, so that all who come at once
/// make the same event. It counts as one of `maker`'s.
pub(super) async fn open(
    context: &Context,
    group: GroupId,
    name: RoomName,
    display_name: Option<String>,
    maker: Option<&UserId>,
) -> Result<(), RpcError> {
    let display_name = display_name.unwrap_or_else(|| name.as_str().to_owned());
    create(context, GroupCreated { group, kind: GroupKind::Open, name: Some(name), display_name, members: Vec::new() }, maker).await
}

pub(super) async fn create_single(context: &Context, call: CreateSingle) -> Result<Answer<Membership>, RpcError> {
    if call.user == call.other {
        return Err(RpcError::new(ErrorCode::BadRequest, "a single group is for two"));
    }
    let mut handles = handles(context, &[call.user.clone(), call.other.clone()]).await?.into_iter();
    let own = handles.next().flatten().unwrap_or_else(|| call.user.to_string());
    let other = handles.next().flatten().ok_or_else(not_found)?;
    let group = single_group(&call.user, &call.other);
    let mut standings = Vec::new();
    for user in [&call.user, &call.other] {
        standings.push((user, standing(context, group, user).await?));
    }
    // Who opens it is bounded: were it the other one, others would decide whom that one hears of.
    let opens = standings.iter().any(|(user, standing)| **user == call.user && standing.role.is_none());
    if opens && !call.by_back_end {
        bounds::check_groups(context, [&call.user], Counted::All, context.options.max_groups).await?;
    }
    if standings.iter().all(|(_, standing)| standing.kind.is_none()) {
        // What either sees follows from their handles of the day; this is for the back end.
        let members = vec![(call.user.clone(), Role::Member), (call.other.clone(), Role::Member)];
        let display_name = crate::rpc::memberships::single_name(&own, &other);
        create(context, GroupCreated { group, kind: GroupKind::Single, name: None, display_name, members }, None).await?;
    } else {
        // One of them was erased, and is back as somebody new.
        for (user, standing) in standings.iter().filter(|(_, standing)| standing.role.is_none()) {
            let id = member_event("member_added", group, user, standing.version);
            let added = MemberAdded { group, user: (*user).clone(), role: Role::Member, by: Some(call.user.clone()) };
            context.publish(Topic::Group(group), id, &Event::MemberAdded(added)).await?;
        }
    }
    answer(context, &call.user, group).await
}

pub(super) async fn create_group(context: &Context, call: CreateGroup) -> Result<Answer<Membership>, RpcError> {
    let others = call.members.into_iter().filter(|user| *user != call.user).map(|user| (user, Role::Member));
    let members = std::iter::once((call.user.clone(), Role::Owner)).chain(others).collect();
    let group = GroupId(derived_event("group", &[call.user.as_str().as_bytes(), call.nonce.uuid().as_bytes()]).0);
    let is_new = make(context, group, call.display_name, members, Some(&call.user)).await?;
    match answer(context, &call.user, group).await {
        // Made long ago, and left since.
        Err(error) if !is_new && error.code == ErrorCode::Unavailable && standing(context, group, &call.user).await?.role.is_none() => {
            Err(not_found())
        }
        answered => answered,
    }
}

/// Makes a group of people, unless it was made before; then it must have been with the same name
/// and members, whatever they are by now. `by` is one of them, or the application's back end. True when it is new.
async fn make(
    context: &Context,
    group: GroupId,
    display_name: String,
    mut members: Vec<(UserId, Role)>,
    by: Option<&UserId>,
) -> Result<bool, RpcError> {
    members.sort_by(|one, other| one.0.cmp(&other.0).then(other.1.cmp(&one.1)));
    members.dedup_by(|later, earlier| later.0 == earlier.0);
    if members.len() > context.options.max_group_members {
        return Err(RpcError::new(ErrorCode::TooLarge, "too many members"));
    }
    check_name(&display_name)?;
    let before = created(context, group).await?;
    let is_new = before.is_none();
    if is_new {
        let users: Vec<UserId> = members.iter().map(|(user, _)| user.clone()).collect();
        // Whoever makes it is signed in, and need not be known yet.
        let known = handles(context, &users).await?;
        let maker = |(_, role): &(UserId, Role)| *role == Role::Owner;
        if members.iter().zip(known).any(|(member, handle)| handle.is_none() && !maker(member)) {
            return Err(not_found());
        }
        if let Some(by) = by {
            bounds::check_maker(context, by).await?;
            let others = users.iter().filter(|user| *user != by);
            bounds::check_groups(context, others, Counted::ThatCanBeLeft, context.options.max_groups_by_others).await?;
        }
        let (display_name, members) = (display_name.clone(), members.clone());
        create(context, GroupCreated { group, kind: GroupKind::Group, name: None, display_name, members }, by).await?;
    }
    // Of two at once with the same nonce, one is first: what is stored says which.
    let stored = match before {
        Some(before) => before,
        None => created(context, group).await?.ok_or_else(|| RpcError::new(ErrorCode::Unavailable, "the group did not come to be"))?,
    };
    let mut of_stored = stored.members;
    of_stored.sort_by(|one, other| one.0.cmp(&other.0));
    if stored.display_name == display_name && of_stored == members {
        Ok(is_new)
    } else {
        Err(RpcError::new(ErrorCode::NonceReused, "the nonce made another group"))
    }
}

/// What made `group`, if it is made.
async fn created(context: &Context, group: GroupId) -> Result<Option<GroupCreated>, RpcError> {
    let snapshot = context.snapshot().await?;
    let row = snapshot.one("SELECT payload FROM group_events WHERE event_id = ?", [creation(group).0.into()]).await?;
    let Some(row) = row else { return Ok(None) };
    match Event::decode(column::<String>(&row, "payload")?.as_bytes()) {
        Ok(Event::GroupCreated(created)) => Ok(Some(created)),
        Ok(_) | Err(_) => Err(unavailable(&sea_orm::DbErr::Custom(format!("group {group} was made by what is no group_created")))),
    }
}

fn check_name(name: &str) -> Result<(), RpcError> {
    if name.trim().is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(RpcError::new(ErrorCode::BadRequest, "a group's name has 1 to 256 bytes and no control characters"));
    }
    Ok(())
}

pub(super) async fn ensure(context: &Context, call: EnsureGroup) -> Result<Answer<GroupRecord>, RpcError> {
    let group = match call.group {
        NewGroup::Group { nonce, display_name, members } => {
            let group = GroupId(derived_event("server group", &[nonce.uuid().as_bytes()]).0);
            let users: Vec<UserId> = members.iter().map(|(user, _)| user.clone()).collect();
            if created(context, group).await?.is_none() && handles(context, &users).await?.iter().any(Option::is_none) {
                return Err(not_found());
            }
            make(context, group, display_name, members, None).await?;
            group
        }
        NewGroup::Open { name, display_name } => {
            if let Some(name) = &display_name {
                check_name(name)?;
            }
            let group = open_group(&name);
            if kind(context, group).await?.is_none() {
                open(context, group, name, display_name, None).await?;
            }
            group
        }
    };
    let snapshot = context.snapshot().await?;
    match groups::record(&snapshot, group).await? {
        Some(record) => snapshot.answer(record).await,
        None => Err(RpcError::new(ErrorCode::Unavailable, "the group did not come to be")),
    }
}

pub(super) async fn rename(context: &Context, call: RenameGroup) -> Result<Answer<ShardPosition>, RpcError> {
    check_name(&call.display_name)?;
    authority(context, call.group, call.by.as_ref()).await?;
    let (name, last) = named(context, call.group).await?;
    let topic = Topic::Group(call.group);
    let at = if name == call.display_name {
        ShardPosition { shard: context.broker.shards().of(topic).0, position: last }
    } else {
        // Told twice it is one event; told again after another name it is another one.
        let before = last.to_string();
        let id = derived_event("group_renamed", &[call.group.0.as_bytes(), before.as_bytes(), call.display_name.as_bytes()]);
        let renamed = GroupRenamed { group: call.group, display_name: call.display_name, by: call.by };
        context.publish(topic, id, &Event::GroupRenamed(renamed)).await?
    };
    context.snapshot().await?.answer(at).await
}

/// A group's name, and the event that gave it.
async fn named(context: &Context, group: GroupId) -> Result<(String, Position), RpcError> {
    let sql = "SELECT g.display_name, coalesce(e.epoch, g.epoch) AS epoch, coalesce(e.seq, g.seq) AS seq FROM groups g \
               LEFT JOIN (SELECT group_id, epoch, seq FROM group_events WHERE group_id = ? AND kind = 'group_renamed' \
               ORDER BY epoch DESC, seq DESC LIMIT 1) e ON e.group_id = g.id WHERE g.id = ?";
    let row = context.snapshot().await?.one(sql, [group.0.into(), group.0.into()]).await?.ok_or_else(not_found)?;
    Ok((column(&row, "display_name")?, checkpoint::position(column(&row, "epoch")?, column(&row, "seq")?)))
}
