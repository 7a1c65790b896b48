//! How many members a group takes, into how many groups a user is brought, and how many a user makes.
//!
//! A connection has room for so many groups, in the order of their ids: whoever is in more hears nothing of some. So a user whom others may
//! bring into groups is brought into no more than leave room. Groups for two do not count there: others open them, and nobody can leave
//! one. Each pair has one at most, so who opens them is bounded instead. SQL is counted as it is: commands at the same moment, and those
//! that are made while it lags, may overshoot by as many as there are.

use std::{collections::HashMap, time::Instant};

use natter_shared::{
    frame::ErrorCode,
    id::{GroupId, UserId},
    rpc::RpcError,
};
use sea_orm::ConnectionTrait;

use super::{
    context::{Context, column},
    memberships::IS_MEMBER,
};
use crate::{
    database::rows::{Kind, Rows},
    error::unavailable,
};

/// Refuses where `group` has as many members as it takes.
pub(super) async fn check_members(context: &Context, group: GroupId) -> Result<(), RpcError> {
    // An open group may have far more: these are not counted.
    let sql =
        format!("SELECT count(*) AS members FROM (SELECT 1 AS one FROM members m WHERE group_id = ? AND {IS_MEMBER} LIMIT ?) AS counted");
    let most = context.options.max_group_members as i64;
    let statement = context.store.statement(&sql, [group.0.into(), most.into()]);
    let row = context.store.database().query_one_raw(statement).await.map_err(|error| unavailable(&error))?;
    let members = row.as_ref().map(|row| column::<i64>(row, "members")).transpose()?.unwrap_or_default();
    if members < most { Ok(()) } else { Err(RpcError::new(ErrorCode::TooLarge, "the group is full")) }
}

/// Which groups of a user count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    All,
    /// Those that are not for two.
    ThatCanBeLeft,
}

/// Refuses where one of `users` is in `most` groups, or more.
pub(super) async fn check_groups(
    context: &Context,
    users: impl IntoIterator<Item = &UserId>,
    counted: Counted,
    most: usize,
) -> Result<(), RpcError> {
    match full(context, users, counted, most).await?.first() {
        None => Ok(()),
        Some(user) => Err(too_many(user, counted, most)),
    }
}

/// Those of `users` who may make no more groups, and why.
pub(super) async fn refused_makers(context: &Context, users: &[&UserId]) -> Result<HashMap<String, RpcError>, RpcError> {
    let (counted, most) = (Counted::ThatCanBeLeft, context.options.max_groups);
    let full = full(context, users.iter().copied(), counted, most).await?;
    let mut refused: HashMap<_, _> = full.into_iter().map(|user| (user.clone(), too_many(&user, counted, most))).collect();
    let (most, now) = (context.options.max_groups_made_per_day, Instant::now());
    for user in users.iter().filter(|user| context.makers.made(user, now) >= most) {
        let message = format!("user {user} has made {most} groups today; make more tomorrow, or join those that there are");
        refused.insert(user.as_str().to_owned(), RpcError::new(ErrorCode::TooManyGroups, message));
    }
    Ok(refused)
}

/// Refuses where `user` may make no more groups.
pub(super) async fn check_maker(context: &Context, user: &UserId) -> Result<(), RpcError> {
    refused_makers(context, &[user]).await?.into_values().next().map_or(Ok(()), Err)
}

/// Those of `users` who are in `most` groups, or more.
async fn full(context: &Context, users: impl IntoIterator<Item = &UserId>, counted: Counted, most: usize) -> Result<Vec<String>, RpcError> {
    let mut rows = Rows::new([("i", Kind::Text)]);
    for user in users {
        rows.push([user.as_str().into()]);
    }
    let last = most.saturating_sub(1);
    // By each membership: joined, all groups might be read.
    let and = match counted {
        Counted::All => "",
        Counted::ThatCanBeLeft => "AND (SELECT g.kind FROM groups g WHERE g.id = m.group_id) <> 'single'",
    };
    let sql = format!(
        "SELECT v.i AS i FROM v WHERE (SELECT 1 FROM members m WHERE m.user_id = v.i AND m.until_epoch IS NULL {and} \
         LIMIT 1 OFFSET {last}) IS NOT NULL"
    );
    let full = rows.query(context.store.database(), &sql).await.map_err(|error| unavailable(&error))?;
    full.iter().map(|row| column(row, "i")).collect()
}

fn too_many(user: &str, counted: Counted, most: usize) -> RpcError {
    let message = match counted {
        Counted::All => format!("user {user} is in {most} groups or more, and opens none for two any more"),
        Counted::ThatCanBeLeft => format!("user {user} is in {most} groups or more, beside those for two, and has to leave some first"),
    };
    RpcError::new(ErrorCode::TooManyGroups, message)
}
