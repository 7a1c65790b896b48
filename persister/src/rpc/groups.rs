//! Reading of groups and their members.

use std::collections::HashMap;

use natter_shared::{
    event::{GroupKind, Role},
    id::{GroupId, MessageId, RoomName, UserId},
    rpc::{
        Answer, FindGroup, FindMembership, GroupOverview, GroupRecord, Groups, GroupsPage, LastMessage, ListGroups, ListedGroups, Members,
        MembersPage, Membership, Profile, RpcError,
    },
    timestamp::Timestamp,
};
use uuid::Uuid;

use super::{
    context::{Context, Snapshot, column},
    memberships::{self, IS_MEMBER},
    users,
};
use crate::{
    checkpoint,
    database::rows::{Kind, Rows},
    error::{not_found, unavailable},
};

/// Members in a page at most.
const MAX_MEMBERS: u32 = 500;

/// Members of a group that are counted, of open ones that all visitors come to as well.
const COUNTED: u32 = 10_000;

pub(super) async fn page(context: &Context, call: Groups) -> Result<Answer<GroupsPage>, RpcError> {
    let snapshot = context.snapshot().await?;
    let (groups, more) = memberships::page(&snapshot, &call.user, call.after, call.limit).await?;
    snapshot.answer(GroupsPage { groups, more }).await
}

pub(super) async fn membership(context: &Context, call: FindMembership) -> Result<Answer<Option<Membership>>, RpcError> {
    let snapshot = context.snapshot().await?;
    let found = memberships::find(&snapshot, &call.user, call.group).await?;
    snapshot.answer(found).await
}

pub(super) async fn members(context: &Context, call: Members) -> Result<Answer<MembersPage>, RpcError> {
    let snapshot = context.snapshot().await?;
    check_access(&snapshot, call.user.as_ref(), call.group).await?;
    if call.limit == 0 {
        return snapshot.answer(MembersPage { members: Vec::new(), more: false }).await;
    }
    let limit = call.limit.min(MAX_MEMBERS) as usize;
    let after = call.after.map(|user| user.as_str().to_owned()).unwrap_or_default();
    let sql = format!(
        "SELECT m.user_id, m.role, coalesce(u.handle, m.user_id) AS handle, coalesce(u.display_name, m.user_id) AS display_name \
         FROM members m LEFT JOIN users u ON u.id = m.user_id WHERE m.group_id = ? AND {IS_MEMBER} AND m.user_id > ? \
         ORDER BY m.user_id LIMIT ?"
    );
    let rows = snapshot.all(&sql, [call.group.0.into(), after.into(), (limit as i64 + 1).into()]).await?;
    let more = rows.len() > limit;
    let mut members = Vec::with_capacity(limit);
    for row in rows.iter().take(limit) {
        let (user, role): (String, String) = (column(row, "user_id")?, column(row, "role")?);
        let Ok(id) = UserId::new(&user) else { continue };
        let profile = Profile { id, handle: column(row, "handle")?, display_name: column(row, "display_name")? };
        members.push((profile, Role::parse(&role).unwrap_or(Role::Member)));
    }
    snapshot.answer(MembersPage { members, more }).await
}

/// Whether the group is there for `user`, who must be a member; for the application's back end
/// (none) it has to exist.
pub(super) async fn check_access(snapshot: &Snapshot<'_>, user: Option<&UserId>, group: GroupId) -> Result<(), RpcError> {
    let there = match user {
        Some(user) => memberships::find(snapshot, user, group).await?.is_some(),
        None => snapshot.one("SELECT 1 AS one FROM groups WHERE id = ?", [group.0.into()]).await?.is_some(),
    };
    if there { Ok(()) } else { Err(not_found()) }
}

pub(super) async fn list(context: &Context, call: ListGroups) -> Result<Answer<ListedGroups>, RpcError> {
    let snapshot = context.snapshot().await?;
    let (groups, more) = memberships::page(&snapshot, &call.user, call.after, call.limit).await?;
    let groups = overviews(&snapshot, &call.user, groups).await?;
    snapshot.answer(ListedGroups { groups, more }).await
}

/// `memberships` of `user` with what a list of groups shows beside them.
pub(super) async fn overviews(
    snapshot: &Snapshot<'_>,
    user: &UserId,
    memberships: Vec<Membership>,
) -> Result<Vec<GroupOverview>, RpcError> {
    let mut last = last_messages(snapshot, &memberships).await?;
    let mut others = others(snapshot, user, &memberships).await?;
    let overview = |membership: Membership| GroupOverview {
        last_message: last.remove(&membership.group.0),
        other: others.remove(&membership.group.0),
        membership,
    };
    Ok(memberships.into_iter().map(overview).collect())
}

/// The newest message of each group that has one.
async fn last_messages(snapshot: &Snapshot<'_>, groups: &[Membership]) -> Result<HashMap<Uuid, LastMessage>, RpcError> {
    let mut rows = Rows::new([("g", Kind::Uuid)]);
    for membership in groups {
        rows.push([membership.group.0.into()]);
    }
    let sql = "SELECT m.id, m.group_id, m.epoch, m.seq, m.sender, substr(m.body, 1, 256) AS body, m.sent_at FROM v JOIN messages m \
               ON m.id = (SELECT x.id FROM messages x WHERE x.group_id = v.g ORDER BY x.epoch DESC, x.seq DESC LIMIT 1)";
    let mut last = HashMap::new();
    for row in rows.query(&snapshot.read, sql).await.map_err(|error| unavailable(&error))? {
        let sender: String = column(&row, "sender")?;
        let Ok(sender) = UserId::new(&sender) else { continue };
        let message = LastMessage {
            id: MessageId(column(&row, "id")?),
            position: checkpoint::position(column(&row, "epoch")?, column(&row, "seq")?),
            sender,
            body: column(&row, "body")?,
            sent_at: Timestamp(column::<i64>(&row, "sent_at")? as u64),
        };
        last.insert(column(&row, "group_id")?, message);
    }
    Ok(last)
}

/// The other one of each one-to-one group.
async fn others(snapshot: &Snapshot<'_>, user: &UserId, groups: &[Membership]) -> Result<HashMap<Uuid, Profile>, RpcError> {
    let mut rows = Rows::new([("g", Kind::Uuid), ("u", Kind::Text)]);
    for membership in groups.iter().filter(|membership| membership.kind == GroupKind::Single) {
        rows.push([membership.group.0.into(), user.as_str().into()]);
    }
    let sql = "SELECT m.group_id, m.user_id AS id, coalesce(u.handle, m.user_id) AS handle, coalesce(u.display_name, m.user_id) \
               AS display_name FROM v JOIN members m ON m.group_id = v.g AND m.user_id <> v.u LEFT JOIN users u ON u.id = m.user_id";
    let mut others = HashMap::new();
    for row in rows.query(&snapshot.read, sql).await.map_err(|error| unavailable(&error))? {
        others.insert(column(&row, "group_id")?, users::profile(&row)?);
    }
    Ok(others)
}

pub(super) async fn find(context: &Context, call: FindGroup) -> Result<Answer<Option<GroupRecord>>, RpcError> {
    let snapshot = context.snapshot().await?;
    let found = record(&snapshot, call.group).await?;
    snapshot.answer(found).await
}

/// A group as the application's back end knows it.
pub(super) async fn record(snapshot: &Snapshot<'_>, group: GroupId) -> Result<Option<GroupRecord>, RpcError> {
    let sql = format!(
        "SELECT g.kind, g.name, g.display_name, g.created_at, coalesce(c.messages, 0) AS messages, \
         (SELECT count(*) FROM (SELECT 1 AS one FROM members m WHERE m.group_id = g.id AND {IS_MEMBER} LIMIT {COUNTED}) AS counted) \
         AS members \
         FROM groups g LEFT JOIN group_counters c ON c.group_id = g.id WHERE g.id = ?"
    );
    let Some(row) = snapshot.one(&sql, [group.0.into()]).await? else { return Ok(None) };
    let (kind, name): (String, Option<String>) = (column(&row, "kind")?, column(&row, "name")?);
    Ok(Some(GroupRecord {
        group,
        kind: GroupKind::parse(&kind).unwrap_or(GroupKind::Group),
        name: name.and_then(|name| RoomName::room(&name).ok()),
        display_name: column(&row, "display_name")?,
        members: column::<i64>(&row, "members")? as u64,
        messages: column::<i64>(&row, "messages")? as u64,
        created_at: Timestamp(column::<i64>(&row, "created_at")? as u64),
    }))
}
