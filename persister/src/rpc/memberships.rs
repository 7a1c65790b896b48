//! Memberships as their members know them: read positions and unread counts included.

use std::collections::HashMap;

use natter_shared::{
    event::{GroupKind, Role},
    id::{GroupId, RoomName, UserId},
    rpc::{Membership, RpcError},
};
use sea_orm::{DbBackend, QueryResult};
use uuid::Uuid;

use super::context::{Snapshot, column};
use crate::{
    checkpoint,
    database::rows::{Kind, Rows},
};

/// Groups in a page at most.
pub(super) const MAX_GROUPS: u32 = 200;

/// Unread is the ordinal of the last message less that of the last read one. Where a read position
/// came before the messages it covers, its ordinal is looked up here. What retention has deleted is
/// not unread, and where it deleted what was looked up, the last one deleted stands for it.
///
/// A one-to-one group has no name of its own: each of the two is told it by their own side.
const COLUMNS: &str = "g.id, g.kind, g.name, g.display_name, m.role, m.since_epoch, m.since_seq, m.since_ordinal, \
    r.epoch AS read_epoch, r.seq AS read_seq, coalesce(c.messages, 0) AS messages, \
    coalesce(c.floor_ordinal, 0) AS floor_ordinal, \
    CASE WHEN g.kind = 'single' THEN (SELECT u.handle FROM users u WHERE u.id = m.user_id) END AS own_handle, \
    CASE WHEN g.kind = 'single' THEN (SELECT CASE WHEN u.erased_at IS NULL THEN coalesce(u.handle, o.user_id) ELSE 'erased' END \
    FROM members o LEFT JOIN users u ON u.id = o.user_id WHERE o.group_id = m.group_id AND o.user_id <> m.user_id LIMIT 1) END \
    AS other_handle, \
    CASE WHEN r.epoch IS NULL THEN 0 ELSE coalesce(r.ordinal, (SELECT x.ordinal FROM messages x WHERE x.group_id = m.group_id \
    AND (x.epoch, x.seq) <= (r.epoch, r.seq) ORDER BY x.epoch DESC, x.seq DESC LIMIT 1), 0) END AS read_ordinal";

/// Beside memberships `m`.
const TABLES: &str = "JOIN groups g ON g.id = m.group_id LEFT JOIN group_counters c ON c.group_id = m.group_id \
    LEFT JOIN read_positions r ON r.user_id = m.user_id AND r.group_id = m.group_id";

/// Of memberships `m` that are found by their group: with `IS NULL` the index of users' present ones may be read as a whole,
/// where the planner takes them for few.
pub(crate) const IS_MEMBER: &str = "coalesce(m.until_epoch, 0) = 0";

fn of_one(and: &str) -> String {
    format!("SELECT {COLUMNS} FROM members m {TABLES} WHERE m.user_id = ? AND m.until_epoch IS NULL AND {and}")
}

/// A page of `user`'s groups in the order of their ids, and whether there are more.
pub(super) async fn page(
    snapshot: &Snapshot<'_>,
    user: &UserId,
    after: Option<GroupId>,
    limit: u32,
) -> Result<(Vec<Membership>, bool), RpcError> {
    let limit = limit.min(MAX_GROUPS) as usize;
    let after = after.map_or(Uuid::nil(), |group| group.0);
    let sql = of_one("m.group_id > ? ORDER BY m.group_id LIMIT ?");
    let rows = snapshot.all(&sql, [user.as_str().into(), after.into(), (limit as i64 + 1).into()]).await?;
    let mut groups = rows.iter().map(membership).collect::<Result<Vec<_>, _>>()?;
    let more = groups.len() > limit;
    groups.truncate(limit);
    Ok((groups, more))
}

/// The first `limit` groups of each of `users`, and whether there are more, by user.
pub(super) async fn first_pages(
    snapshot: &Snapshot<'_>,
    users: &[&UserId],
    limit: u32,
) -> Result<HashMap<String, (Vec<Membership>, bool)>, RpcError> {
    let limit = limit.min(MAX_GROUPS) as usize;
    let sql = match snapshot.backend() {
        DbBackend::Sqlite => format!(
            "SELECT * FROM (SELECT m.user_id AS member, row_number() OVER (PARTITION BY m.user_id ORDER BY m.group_id) AS place, {COLUMNS} \
             FROM v JOIN members m ON m.user_id = v.i {TABLES} WHERE m.until_epoch IS NULL) AS listed \
             WHERE place <= {} ORDER BY member, place",
            limit + 1
        ),
        // User by user: a join may be made by reading everybody's memberships, where the planner takes them for few.
        _ => format!(
            "SELECT m.user_id AS member, {COLUMNS} FROM v CROSS JOIN LATERAL (SELECT * FROM members o WHERE o.user_id = v.i \
             AND o.until_epoch IS NULL ORDER BY o.group_id LIMIT {}) m {TABLES} ORDER BY m.user_id, m.group_id",
            limit + 1
        ),
    };
    let mut pages: HashMap<String, (Vec<Membership>, bool)> = HashMap::with_capacity(users.len());
    for row in snapshot.all_of(users, &sql).await? {
        let (groups, more) = pages.entry(column(&row, "member")?).or_default();
        if groups.len() < limit { groups.push(membership(&row)?) } else { *more = true }
    }
    Ok(pages)
}

/// `user`'s membership in `group`.
pub(super) async fn find(snapshot: &Snapshot<'_>, user: &UserId, group: GroupId) -> Result<Option<Membership>, RpcError> {
    let sql = of_one("m.group_id = ?");
    snapshot.one(&sql, [user.as_str().into(), group.0.into()]).await?.as_ref().map(membership).transpose()
}

/// The table `v` of users `i` and groups `g`.
pub(super) fn pairs(asked: &[(&UserId, GroupId)]) -> Rows<2> {
    let mut rows = Rows::new([("i", Kind::Text), ("g", Kind::Uuid)]);
    for (user, group) in asked {
        rows.push([user.as_str().into(), group.0.into()]);
    }
    rows
}

/// Those of `asked`, users and groups, that are memberships.
pub(super) async fn find_many(
    snapshot: &Snapshot<'_>,
    asked: &[(&UserId, GroupId)],
) -> Result<HashMap<(String, GroupId), Membership>, RpcError> {
    let sql = format!(
        "SELECT m.user_id AS member, {COLUMNS} FROM v JOIN members m ON m.user_id = v.i AND m.group_id = v.g {TABLES} \
         WHERE {IS_MEMBER}"
    );
    let mut found = HashMap::with_capacity(asked.len());
    for row in snapshot.rows(pairs(asked), &sql).await? {
        let membership = membership(&row)?;
        found.insert((column(&row, "member")?, membership.group), membership);
    }
    Ok(found)
}

/// Bytes of a membership in an answer, or somewhat more.
pub(super) fn size(membership: &Membership) -> usize {
    256 + 2 * membership.display_name.len() + membership.name.as_ref().map_or(0, |name| name.as_str().len())
}

/// What one side of a one-to-one group sees, by handles.
pub(crate) fn single_name(own: &str, other: &str) -> String {
    format!("{own}_with_{other}")
}

fn membership(row: &QueryResult) -> Result<Membership, RpcError> {
    let (kind, role): (String, String) = (column(row, "kind")?, column(row, "role")?);
    let name: Option<String> = column(row, "name")?;
    let read: (Option<i64>, Option<i64>) = (column(row, "read_epoch")?, column(row, "read_seq")?);
    let ordinal = column::<i64>(row, "since_ordinal")?.max(column(row, "read_ordinal")?).max(column(row, "floor_ordinal")?);
    let sides: (Option<String>, Option<String>) = (column(row, "own_handle")?, column(row, "other_handle")?);
    let display_name = match sides {
        (Some(own), Some(other)) => single_name(&own, &other),
        (None, _) | (_, None) => column(row, "display_name")?,
    };
    Ok(Membership {
        group: GroupId(column(row, "id")?),
        kind: GroupKind::parse(&kind).unwrap_or(GroupKind::Group),
        name: name.and_then(|name| RoomName::room(&name).ok()),
        display_name,
        role: Role::parse(&role).unwrap_or(Role::Member),
        since: checkpoint::position(column(row, "since_epoch")?, column(row, "since_seq")?),
        last_read: read.0.zip(read.1).map(|(epoch, seq)| checkpoint::position(epoch, seq)),
        unread: u64::try_from(column::<i64>(row, "messages")? - ordinal).unwrap_or_default(),
    })
}
