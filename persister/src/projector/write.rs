//! Writes a plan and the checkpoint in one transaction.

use std::collections::BTreeMap;

use natter_shared::{
    failpoint,
    position::Position,
    subject::{Shard, Topic},
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr};
use uuid::Uuid;

use super::{
    marks,
    plan::{Plan, Segment},
    tables,
};
use crate::{
    checkpoint::{self, Checkpoint},
    database::{Store, rows::Rows},
    error::{is_overtaken, is_taken},
    metrics::Metrics,
};

/// How writing went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Committed.
    Yes,
    /// The checkpoint is not where it was: another persister has applied these events.
    Elsewhere,
    /// Some id is taken: the plan has to be made again, knowing whose.
    Clash,
    /// Not by one statement: another transaction came between.
    Overtaken,
}

/// Writes `plan`, which takes `shard` from `from` to `to`; by one statement where that will do and `at_once` says so.
pub(super) async fn write(
    store: &Store,
    metrics: &Metrics,
    shard: Shard,
    from: Position,
    to: &Checkpoint,
    plan: &mut Plan<'_>,
    at_once: bool,
) -> Result<Written, DbErr> {
    // Memberships are left alone: else a command finds itself applied and its rows not there, and nobody comes to send.
    let is_torn = failpoint::hit("checkpoint-first") && plan.segments.iter().all(|segment| segment.members.is_empty());
    if at_once && store.backend() == DbBackend::Postgres && plan.is_of_messages() && !is_torn {
        return write_messages(store, metrics, shard, from, to, plan).await;
    }
    let mut write = store.write().await?;
    // First, so that of two persisters the second waits here and then learns that it is late.
    if !checkpoint::advance(store, &write.transaction, shard, Some(from), to).await? {
        write.rollback().await?;
        return Ok(Written::Elsewhere);
    }
    if is_torn {
        write.commit().await?;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        write = store.write().await?;
    }
    let dead = plan.dead_letters(shard);
    if !rows(&write.transaction, metrics, plan, to.position).await? {
        write.rollback().await?;
        return Ok(Written::Clash);
    }
    dead.execute(&write.transaction, tables::INSERT_DEAD_LETTERS).await?;
    write.commit().await?;
    tell_dead(metrics, shard, plan);
    Ok(Written::Yes)
}

/// Counts the dead letters that were written, and tells of them: once for each reason, for a user can make many.
fn tell_dead(metrics: &Metrics, shard: Shard, plan: &Plan<'_>) {
    let mut by_reason = BTreeMap::<_, Vec<_>>::new();
    for (stored, reason) in &plan.dead {
        by_reason.entry(metrics.dead_letter(reason)).or_default().push((stored, reason));
    }
    for (reason, dead) in by_reason {
        let Some((first, why)) = dead.first() else { continue };
        let (position, event_id, letters) = (first.position, first.id, dead.len());
        tracing::warn!(shard = shard.0, reason, letters, %position, %event_id, why, "dead_letter");
    }
}

/// Nothing but messages, as most batches are: one statement, which is a transaction of its own, instead of six in turn. For
/// PostgreSQL: elsewhere a `WITH` cannot write.
async fn write_messages(
    store: &Store,
    metrics: &Metrics,
    shard: Shard,
    from: Position,
    to: &Checkpoint,
    plan: &mut Plan<'_>,
) -> Result<Written, DbErr> {
    let messages = std::mem::replace(&mut plan.tables, tables::Tables::new()).messages;
    let count = messages.len();
    let (advance, mut values) = checkpoint::advancing(shard, from, to);
    let (v, rows) = messages.unnest("v", values.len() + 1);
    values.extend(rows);
    let (c, rows) = plan.counter_rows().unnest("c", values.len() + 1);
    values.extend(rows);
    let (insert, upsert) = (tables::INSERT_MESSAGES, tables::UPSERT_COUNTERS_IF_MOVED);
    // What the others read of `moved` has it done before them.
    let text = format!(
        "WITH moved AS ({advance} RETURNING 1), {v}, {c}, written AS ({insert} WHERE EXISTS (SELECT FROM moved)), \
         counted AS ({upsert}) SELECT 1 AS moved FROM moved"
    );
    let moved = match store.database().query_one_raw(store.statement(&text, values)).await {
        Err(error) if is_taken(&error) => return Ok(Written::Clash),
        // It runs at the connection's level, REPEATABLE READ.
        Err(error) if is_overtaken(&error) => return Ok(Written::Overtaken),
        moved => moved?,
    };
    if moved.is_none() {
        return Ok(Written::Elsewhere);
    }
    metrics.rows("messages", count);
    Ok(Written::Yes)
}

/// False when some id or position is taken, after which the transaction is of no use.
async fn insert_new<const N: usize>(database: &DatabaseTransaction, rows: Rows<N>, sql: &str) -> Result<bool, DbErr> {
    match rows.execute(database, sql).await {
        Err(error) if is_taken(&error) => Ok(false),
        inserted => inserted.map(|_| true),
    }
}

/// False when not all rows of new ids could be inserted. After these, SQL is at `to`.
async fn rows(database: &DatabaseTransaction, metrics: &Metrics, plan: &mut Plan<'_>, to: Position) -> Result<bool, DbErr> {
    let fresh = std::mem::replace(&mut plan.tables, tables::Tables::new());
    let (messages, events, notifications) = (fresh.messages.len(), fresh.group_events.len(), fresh.notifications.len());
    if !insert_new(database, fresh.messages, tables::INSERT_MESSAGES).await?
        || !insert_new(database, fresh.group_events, tables::INSERT_GROUP_EVENTS).await?
    {
        return Ok(false);
    }
    plan.counter_rows().execute(database, tables::UPSERT_COUNTERS).await?;
    // In the order of ids: two shards that make the same placeholders must not wait for each other.
    let mut users = tables::placeholders();
    let now = natter_shared::timestamp::Timestamp::now().0 as i64;
    for user in &plan.users {
        let key = Uuid::from_u128(user.key().0);
        let fallback = format!("{user}~{}", key.simple());
        users.push([user.as_str().into(), key.into(), fallback.into(), now.into()]);
    }
    users.execute(database, tables::INSERT_PLACEHOLDERS).await?;
    fresh.groups.execute(database, tables::INSERT_GROUPS).await?;
    let mut names = tables::names();
    for (group, name) in std::mem::take(&mut plan.names) {
        names.push([group.0.into(), name.into()]);
    }
    names.execute(database, tables::UPDATE_NAMES).await?;
    for segment in std::mem::take(&mut plan.segments) {
        write_segment(database, segment).await?;
    }
    if !insert_new(database, fresh.notifications, tables::INSERT_NOTIFICATIONS).await? {
        return Ok(false);
    }
    marks::write(database, std::mem::take(&mut plan.seen), std::mem::take(&mut plan.seen_upto), to).await?;
    let mut reads = tables::reads();
    for ((user, group), position) in &plan.reads {
        let ((epoch, seq), shard) = (checkpoint::sql(*position), plan.shards.of(Topic::Group(*group)));
        reads.push([user.as_str().into(), group.0.into(), epoch.into(), seq.into(), i64::from(shard.0).into()]);
    }
    reads.execute(database, tables::UPSERT_READS).await?;
    metrics.rows("messages", messages);
    metrics.rows("group_events", events);
    metrics.rows("notifications", notifications);
    Ok(true)
}

async fn write_segment(database: &DatabaseTransaction, segment: Segment) -> Result<(), DbErr> {
    let mut members = tables::members();
    for ((group, user), state) in segment.members {
        let ((epoch, seq), until) = (checkpoint::sql(state.since), state.until.map(checkpoint::sql));
        members.push([
            group.0.into(),
            user.as_str().into(),
            state.role.as_str().into(),
            epoch.into(),
            seq.into(),
            state.since_ordinal.into(),
            until.map(|until| until.0).into(),
            until.map(|until| until.1).into(),
            state.version.into(),
        ]);
    }
    members.execute(database, tables::UPSERT_MEMBERS).await?;
    let mut notified = tables::group_notifications();
    for entry in segment.notified {
        let (epoch, seq) = checkpoint::sql(entry.position);
        notified.push([
            entry.notification.id.0.into(),
            epoch.into(),
            seq.into(),
            entry.group.0.into(),
            entry.notification.sender.as_ref().map(|sender| sender.as_str().to_owned()).into(),
            entry.notification.nonce.uuid().into(),
            (entry.stored_at.0 as i64).into(),
        ]);
    }
    notified.execute(database, &tables::expand_notifications()).await?;
    Ok(())
}
