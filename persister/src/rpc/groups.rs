//! Reading of groups and their members.

use natter_shared::{
    event::Role,
    id::UserId,
    rpc::{Answer, FindMembership, Groups, GroupsPage, Members, MembersPage, Membership, Profile, RpcError},
};

use super::{
    context::{Context, column},
    memberships,
};
use crate::error::not_found;

/// Members in a page at most.
const MAX_MEMBERS: u32 = 500;

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
    if let Some(user) = &call.user
        && memberships::find(&snapshot, user, call.group).await?.is_none()
    {
        return Err(not_found());
    }
    let limit = call.limit.min(MAX_MEMBERS) as usize;
    let after = call.after.map(|user| user.as_str().to_owned()).unwrap_or_default();
    let sql = "SELECT m.user_id, m.role, coalesce(u.handle, m.user_id) AS handle, coalesce(u.display_name, m.user_id) AS display_name \
               FROM members m LEFT JOIN users u ON u.id = m.user_id WHERE m.group_id = ? AND m.until_epoch IS NULL AND m.user_id > ? \
               ORDER BY m.user_id LIMIT ?";
    let rows = snapshot.all(sql, [call.group.0.into(), after.into(), (limit as i64 + 1).into()]).await?;
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
