//! Erases users who asked for it: memberships end by events, connections close, then what is theirs
//! in SQL is emptied.
//!
//! A request is a row that a command wrote ([`crate::admin`]); the persister that holds the lease of
//! the user's shard carries it out. Each step is harmless to repeat, and the row says how far it is:
//! after a crash it goes on. Positions, ids and who wrote stay, or the order of things and the
//! counts of others would change; the user is a row without a name then.

mod tables;

pub(crate) use self::tables::{DeadLetters, naming};

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use natter_shared::{
    broker::{Broker, BrokerError, Outgoing, VOID_AFTER},
    event::{Ephemeral, Event, MemberRemoved},
    id::{GroupId, UserId},
    rpc::ShardPosition,
    subject::Topic,
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, QueryResult, Value};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    database::{Store, Write, seldom},
    error::Error,
    lease::Leases,
    progress::Progress,
    rpc::member_event,
};

/// Rows looked through in one transaction.
const CHUNK: i64 = 5000;

/// Requests read at once.
const REQUESTS: u32 = 100;

/// How long events that end memberships, or were under way, may take to be applied before the
/// request is looked at again.
const PATIENCE: Duration = Duration::from_secs(20);

/// From one look for what erasures by an earlier release left to the next.
const SWEEP: Duration = Duration::from_mins(10);

/// From the end of the user's connections to when nothing said over them can be stored any more and count: a gateway tries for as long
/// as its config says, and what it has sent may be on its way for longer. Some seconds are for clocks, and for connections to end.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(VOID_AFTER.as_secs() + 5);

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The profile is emptied, memberships end, connections close; then what was said is waited for.
    Memberships,
    /// Messages are emptied.
    Messages,
    /// Notifications received are deleted, those sent emptied.
    Notifications,
    /// The same of what groups were told.
    GroupEvents,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Memberships, Self::Messages, Self::Notifications, Self::GroupEvents];

    /// As written in SQL and told to who waits.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Memberships => "memberships",
            Self::Messages => "messages",
            Self::Notifications => "notifications",
            Self::GroupEvents => "group_events",
        }
    }
}

/// Carries out requests.
pub(crate) struct Eraser {
    pub(crate) store: Store,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) leases: Arc<Leases>,
    /// How often requests are looked for.
    pub(crate) every: Duration,
    /// [`LAST_WORDS`].
    pub(crate) last_words: Duration,
}

impl Eraser {
    /// Looks for requests and carries them out, until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut swept: Option<Instant> = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(self.every) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.work(&mut swept) => {}
            }
        }
    }

    async fn work(&self, swept: &mut Option<Instant>) {
        if let Err(error) = self.carry_out_all().await {
            tracing::warn!(%error, "erasures_not_read");
        }
        if swept.is_none_or(|at| at.elapsed() >= SWEEP) {
            *swept = Some(Instant::now());
            if let Err(error) = self.drop_leftovers().await {
                tracing::warn!(%error, "erasures_not_swept");
            }
        }
    }

    /// An earlier release knows nothing of `marked_upto`: beside it, in the middle of an upgrade, it erases users without that.
    async fn drop_leftovers(&self) -> Result<(), Error> {
        const ERASED: &str = "SELECT e.user_id FROM erasures e JOIN users u ON u.id = e.user_id \
                              WHERE e.finished_at IS NOT NULL AND u.erased_at IS NOT NULL";
        let left = format!("{ERASED} AND EXISTS (SELECT 1 FROM marked_upto d WHERE d.recipient = e.user_id) LIMIT 1");
        if !self.all(&left, []).await?.is_empty() {
            self.store.execute(&format!("DELETE FROM marked_upto WHERE recipient IN ({ERASED})"), []).await?;
        }
        Ok(())
    }

    async fn carry_out_all(&self) -> Result<(), Error> {
        let sql = format!(
            "SELECT user_id, stage, requested_at FROM erasures WHERE finished_at IS NULL AND (requested_at, user_id) > (?, ?) \
             ORDER BY requested_at, user_id LIMIT {REQUESTS}"
        );
        let mut after = (i64::MIN, String::new());
        loop {
            // To the end, for the oldest may all be another persister's.
            let rows = self.all(&sql, [after.0.into(), after.1.into()]).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = (last.try_get("", "requested_at")?, last.try_get("", "user_id")?);
            for row in &rows {
                let (user, stage): (String, String) = (row.try_get("", "user_id")?, row.try_get("", "stage")?);
                let Ok(user) = UserId::new(&user) else { continue };
                let shard = self.broker.shards().of(Topic::User(user.key()));
                if self.leases.holds(shard) {
                    let stage = Stage::ALL.into_iter().find(|known| known.as_str() == stage).unwrap_or(Stage::Memberships);
                    // One that cannot be carried out now does not hold up those behind it.
                    if let Err(error) = self.carry_out(&user, stage).await {
                        tracing::warn!(%error, "erasure_retried");
                    }
                }
            }
        }
    }

    /// One request, from `stage` on.
    async fn carry_out(&self, user: &UserId, stage: Stage) -> Result<(), Error> {
        let from = Stage::ALL.iter().position(|known| *known == stage).unwrap_or_default();
        for stage in Stage::ALL.into_iter().skip(from) {
            match stage {
                Stage::Memberships => {
                    // Others are not kept waiting: it is looked at again.
                    if !self.has_left(user).await? {
                        return Ok(());
                    }
                    self.settle().await?;
                }
                Stage::Messages | Stage::Notifications | Stage::GroupEvents => {
                    if stage == Stage::Notifications {
                        seldom(self.delete_received(user)).await?;
                    }
                    self.walk(user, stage).await?;
                }
            }
            seldom(self.stage_done(user, stage)).await?;
        }
        tracing::info!("user_erased");
        Ok(())
    }

    /// Whether the user left so long ago that all was said; has the user leave at the first look.
    async fn has_left(&self, user: &UserId) -> Result<bool, Error> {
        let (clock, whose) = (self.store.clock(), || [user.as_str().into(), Stage::Memberships.as_str().into()]);
        let sql = format!("SELECT after_id AS since, {clock} AS now FROM erasures WHERE user_id = ? AND stage = ?");
        let row = self.all(&sql, whose()).await?;
        let Some(row) = row.first() else { return Err(elsewhere()) };
        let (since, now): (Option<String>, i64) = (row.try_get("", "since")?, row.try_get("", "now")?);
        let since = since.and_then(|since| since.parse::<i64>().ok());
        let is_over = since.map(|since| now.saturating_sub(since) >= self.last_words.as_millis() as i64);
        if is_over == Some(false) {
            return Ok(false);
        }
        // Once more at the end: the order to close connections may have been lost, and who had a token still could come back.
        self.empty_profile(user).await?;
        self.end_memberships(user).await?;
        self.disconnect(user).await?;
        if is_over == Some(true) {
            return Ok(true);
        }
        let sql = format!("UPDATE erasures SET after_id = CAST({clock} AS text) WHERE user_id = ? AND stage = ?");
        self.store.execute(&sql, whose()).await?;
        Ok(false)
    }

    /// From here on nobody finds the user; the handle is free.
    async fn empty_profile(&self, user: &UserId) -> Result<(), Error> {
        // A tilde no claim may have: nobody else can be called so.
        let handle = format!("erased~{}", Uuid::from_u128(user.key().0).simple());
        let sql = format!(
            "UPDATE users SET handle = ?, display_name = 'erased', claimed_handle = NULL, claimed_name = NULL, placeholder = TRUE, \
             erased_at = coalesce(erased_at, {}) WHERE id = ?",
            self.store.clock()
        );
        self.store.execute(&sql, [handle.into(), user.as_str().into()]).await?;
        Ok(())
    }

    async fn end_memberships(&self, user: &UserId) -> Result<(), Error> {
        loop {
            let sql = "SELECT group_id, version FROM members WHERE user_id = ? AND until_epoch IS NULL LIMIT 200";
            let rows = self.all(sql, [user.as_str().into()]).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut stored = Vec::new();
            for row in rows {
                let group = GroupId(row.try_get("", "group_id")?);
                let id = member_event("member_removed", group, user, row.try_get("", "version")?);
                let removed = Event::MemberRemoved(MemberRemoved { group, user: user.clone(), by: None });
                let payload = removed.encode().map_err(|error| BrokerError::Refused(error.to_string()))?;
                let (topic, made_at) = (Topic::Group(group), self.broker.now());
                let ack = self.broker.publish(Outgoing { topic, id, made_at, epoch: None, payload }).await?;
                stored.push(ShardPosition { shard: self.broker.shards().of(topic).0, position: ack.position });
            }
            for at in stored {
                self.applied(at).await?;
            }
        }
    }

    async fn disconnect(&self, user: &UserId) -> Result<(), Error> {
        let order = serde_json::to_vec(&Ephemeral::Disconnect { reconnect: false });
        let order = order.map_err(|error| BrokerError::Refused(error.to_string()))?;
        Ok(self.broker.publish_ephemeral(Topic::User(user.key()), Bytes::from(order)).await?)
    }

    /// Waits until what is stored by now is in SQL, wherever it was said.
    async fn settle(&self) -> Result<(), Error> {
        for shard in self.broker.shards().iter() {
            let position = self.broker.fence(shard).await?;
            self.applied(ShardPosition { shard: shard.0, position }).await?;
        }
        Ok(())
    }

    async fn applied(&self, at: ShardPosition) -> Result<(), Error> {
        if self.progress.reached(at, tokio::time::Instant::now() + PATIENCE).await {
            return Ok(());
        }
        Err(BrokerError::Unavailable(format!("shard {} is not applied up to {}", at.shard, at.position)).into())
    }

    /// Walks through the whole table of `stage`, from where it was left: senders have no index,
    /// which every message would pay for.
    async fn walk(&self, user: &UserId, stage: Stage) -> Result<(), Error> {
        loop {
            if !self.leases.holds(self.broker.shards().of(Topic::User(user.key()))) {
                return Err(elsewhere());
            }
            let started = Instant::now();
            if seldom(self.chunk(user, stage)).await? {
                return Ok(());
            }
            // Half of the time is everybody else's.
            sleep(started.elapsed()).await;
        }
    }

    /// The next chunk of the walk. True at its end.
    async fn chunk(&self, user: &UserId, stage: Stage) -> Result<bool, Error> {
        let sql = "SELECT after_id FROM erasures WHERE user_id = ? AND stage = ?";
        let row = self.all(sql, [user.as_str().into(), stage.as_str().into()]).await?;
        let Some(row) = row.first() else { return Err(elsewhere()) };
        let from: Option<String> = row.try_get("", "after_id")?;
        let after = from.clone().and_then(|after| serde_json::from_str::<Vec<String>>(&after).ok()).unwrap_or_default();
        let write = self.store.write().await?;
        let done = match stage {
            Stage::Memberships => return Ok(true),
            Stage::Messages => self.messages(&write.transaction, user, &after).await?,
            Stage::Notifications => self.notifications(&write.transaction, user, &after).await?,
            Stage::GroupEvents => self.group_events(&write.transaction, user, &after).await?,
        };
        let sql = "UPDATE erasures SET after_id = ?, messages = messages + ?, notifications = notifications + ? WHERE user_id = ? \
                   AND stage = ? AND coalesce(after_id, '') = ?";
        let end = done.end.as_ref().map(|end| end.iter().map(text).collect::<Vec<_>>());
        let end = end.map(|end| serde_json::Value::from(end).to_string());
        let counted = [(done.messages as i64).into(), (done.notifications as i64).into()];
        let whose = [user.as_str().into(), stage.as_str().into(), from.unwrap_or_default().into()];
        if self.execute(&write, sql, std::iter::once(end.into()).chain(counted).chain(whose)).await? == 0 {
            write.rollback().await?;
            return Err(elsewhere());
        }
        write.commit().await?;
        Ok(done.end.is_none())
    }

    /// The stage after `stage`, or the end.
    async fn stage_done(&self, user: &UserId, stage: Stage) -> Result<(), Error> {
        let next = Stage::ALL.iter().skip_while(|known| **known != stage).nth(1);
        if next.is_none() {
            // Said to be done, it is: no stream has it, to be replayed after a loss of power.
            self.store.sync().await?;
        }
        let write = self.store.write().await?;
        let whose = [user.as_str().into(), stage.as_str().into()];
        let moved = if let Some(next) = next {
            let sql = "UPDATE erasures SET stage = ?, after_id = NULL WHERE user_id = ? AND stage = ?";
            self.execute(&write, sql, std::iter::once(next.as_str().into()).chain(whose)).await?
        } else {
            self.dead_letters(&write.transaction, user).await?;
            let sql = format!("UPDATE erasures SET finished_at = {} WHERE user_id = ? AND stage = ?", self.store.clock());
            self.execute(&write, &sql, whose).await?
        };
        if moved == 0 {
            write.rollback().await?;
            return Err(elsewhere());
        }
        write.commit().await?;
        Ok(())
    }

    async fn all(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<Vec<QueryResult>, DbErr> {
        seldom(self.store.database().query_all_raw(self.store.statement(sql, values))).await
    }

    async fn rows(
        &self,
        database: &DatabaseTransaction,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<QueryResult>, DbErr> {
        database.query_all_raw(self.store.statement(sql, values)).await
    }

    async fn execute(&self, write: &Write, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<u64, DbErr> {
        Ok(write.transaction.execute_raw(self.store.statement(sql, values)).await?.rows_affected())
    }
}

/// Another persister has taken the request over.
fn elsewhere() -> Error {
    BrokerError::Unavailable("another persister carries it out".to_owned()).into()
}

/// A part of a table's key, as the request's row keeps it.
fn text(value: &Value) -> String {
    match value {
        Value::Uuid(Some(id)) => id.to_string(),
        Value::String(Some(text)) => text.clone(),
        Value::BigInt(Some(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}
