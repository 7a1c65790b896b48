//! Users' standings: changed, listed, and looked at when somebody signs in.

use std::collections::HashMap;

use natter_shared::{
    frame::ErrorCode,
    id::UserId,
    rpc::{Answer, ChangeStanding, RpcError, Standing, StandingChange, StandingChanged, Standings, StandingsPage},
    timestamp::Timestamp,
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::context::{Context, Snapshot, column};
use crate::{
    error::unavailable,
    standings::{self, Confirmation},
};

/// Standings in a page at most.
const MAX_STANDINGS: u32 = 2000;

const SELECT: &str = "SELECT user_id, blocked_at, void_before, version FROM standings";

/// A standing in the making.
struct Change {
    blocked_at: Option<i64>,
    void_before: i64,
    version: i64,
}

pub(super) async fn change(context: &Context, call: ChangeStanding) -> Result<Answer<StandingChanged>, RpcError> {
    let standing = write(context, &call).await.map_err(|error| unavailable(&error))?;
    context.standings.committed(standing.version);
    tracing::info!(blocked = standing.blocked, version = standing.version, "standing_changed");
    let Confirmation { confirmed, unconfirmed } = context.standings.confirm(standing.version).await;
    context.snapshot().await?.answer(StandingChanged { standing, confirmed, unconfirmed }).await
}

/// Commits the change; one that changes nothing is no new version, so that it can be repeated.
async fn write(context: &Context, call: &ChangeStanding) -> Result<Standing, DbErr> {
    let now = Timestamp::now().0 as i64;
    let write = context.store.write().await?;
    // Whoever has this row is alone. Versions follow the clock where that is ahead, so that none comes
    // again after a backup is restored.
    let lock = "UPDATE standings_version SET version = CASE WHEN version < ? THEN ? ELSE version + 1 END WHERE one = 1";
    write.transaction.execute_raw(context.store.statement(lock, [now.into(), now.into()])).await?;
    let version = standings::version(&context.store, &write.transaction).await?;
    let found = context.store.statement(&format!("{SELECT} WHERE user_id = ?"), [call.user.as_str().into()]);
    let before = match write.transaction.query_one_raw(found).await? {
        Some(row) => Change {
            blocked_at: row.try_get("", "blocked_at")?,
            void_before: row.try_get("", "void_before")?,
            version: row.try_get("", "version")?,
        },
        None => Change { blocked_at: None, void_before: 0, version: 0 },
    };
    let (blocked_at, void_before) = match call.change {
        StandingChange::Block => (before.blocked_at.or(Some(now)), before.void_before),
        StandingChange::Unblock => (None, before.void_before),
        StandingChange::Revoke(at) => (before.blocked_at, before.void_before.max(at.map_or(now, |at| at.0.min(i64::MAX as u64) as i64))),
    };
    let standing = |version: u64| Standing {
        user: call.user.clone(),
        blocked: blocked_at.is_some(),
        void_before: Timestamp(u64::try_from(void_before).unwrap_or_default()),
        version,
    };
    if (blocked_at, void_before) == (before.blocked_at, before.void_before) {
        write.rollback().await?;
        // The call before may have failed at this.
        context.store.sync().await?;
        return Ok(standing(u64::try_from(before.version).unwrap_or_default()));
    }
    let upsert = "INSERT INTO standings (user_id, blocked_at, void_before, version) VALUES (?, ?, ?, ?) ON CONFLICT (user_id) \
                  DO UPDATE SET blocked_at = excluded.blocked_at, void_before = excluded.void_before, version = excluded.version";
    let values = [call.user.as_str().into(), blocked_at.into(), void_before.into(), (version as i64).into()];
    write.transaction.execute_raw(context.store.statement(upsert, values)).await?;
    write.commit().await?;
    context.store.sync().await?;
    Ok(standing(version))
}

pub(super) async fn list(context: &Context, call: Standings) -> Result<Answer<StandingsPage>, RpcError> {
    let snapshot = context.snapshot().await?;
    let limit = call.limit.min(MAX_STANDINGS) as usize;
    let sql = format!("{SELECT} WHERE version > ? ORDER BY version LIMIT ?");
    let after = i64::try_from(call.after).unwrap_or(i64::MAX);
    let rows = snapshot.all(&sql, [after.into(), (limit as i64 + 1).into()]).await?;
    let mut standings = rows.iter().filter_map(|row| standing(row).transpose()).collect::<Result<Vec<_>, _>>()?;
    let more = rows.len() > limit;
    standings.truncate(limit);
    let version = standings::version(&context.store, &snapshot.read).await.map_err(|error| unavailable(&error))?;
    let version = if more { standings.last().map_or(call.after, |last| last.version) } else { version };
    snapshot.answer(StandingsPage { standings, more, version }).await
}

fn standing(row: &QueryResult) -> Result<Option<Standing>, RpcError> {
    let Ok(user) = UserId::new(&column::<String>(row, "user_id")?) else { return Ok(None) };
    Ok(Some(Standing {
        user,
        blocked: column::<Option<i64>>(row, "blocked_at")?.is_some(),
        void_before: Timestamp(u64::try_from(column::<i64>(row, "void_before")?).unwrap_or_default()),
        version: u64::try_from(column::<i64>(row, "version")?).unwrap_or_default(),
    }))
}

/// Refuses who is blocked, and a token from before the user's tokens were revoked.
pub(super) async fn check(snapshot: &Snapshot<'_>, user: &UserId, issued_at: Timestamp) -> Result<(), RpcError> {
    let found = snapshot.one(&format!("{SELECT} WHERE user_id = ?"), [user.as_str().into()]).await?;
    judge(found.as_ref().map(standing).transpose()?.flatten().as_ref(), issued_at)
}

/// The standings of `users` that have one, by user.
pub(super) async fn of_all(snapshot: &Snapshot<'_>, users: &[&UserId]) -> Result<HashMap<UserId, Standing>, RpcError> {
    let rows = snapshot.all_of(users, &format!("{SELECT} WHERE user_id IN (SELECT i FROM v)")).await?;
    let standings = rows.iter().filter_map(|row| standing(row).transpose());
    standings.map(|standing| standing.map(|standing| (standing.user.clone(), standing))).collect()
}

/// What a standing means for a token that was issued at `issued_at`.
pub(super) fn judge(standing: Option<&Standing>, issued_at: Timestamp) -> Result<(), RpcError> {
    match standing {
        Some(standing) if standing.blocked => Err(RpcError::new(ErrorCode::Blocked, "this user is blocked")),
        Some(standing) if issued_at < standing.void_before => Err(RpcError::new(ErrorCode::Unauthorized, "the token was revoked")),
        Some(_) | None => Ok(()),
    }
}
