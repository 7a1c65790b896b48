//! Leases: which persister works on which shard, so that two do not do the same work. Losing one
//! costs nothing but that; the fence is the checkpoint.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use natter_shared::{id::InstanceId, subject::Shard};
use parking_lot::Mutex;
use sea_orm::{ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryFilter, QueryResult};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    database::{
        Store,
        rows::{Kind, Rows},
    },
    entity::leases,
};

/// Leases are renewed so often while they hold.
const RENEWED: u32 = 3;

/// How long a transaction may say nothing at most: as long as any other.
const LONGEST_IDLE: Duration = Duration::from_secs(30);

/// How long a row of another holder has to stand unchanged before it is taken, where that one's log is its own: whoever lives renews
/// it far more often, and what it accepts after it lost it is applied by nobody.
pub(crate) const OTHERS_WATCHED: Duration = Duration::from_mins(1);

/// Another holder's row.
struct Foreign {
    holder: Uuid,
    until: i64,
    /// How often in a row it was found unchanged.
    looks: u32,
}

/// Further ahead no lease runs, whoever's: the longest that the config allows, and some. A row that does is from before the
/// database's clock was set back.
const FURTHEST: Duration = Duration::from_mins(11);

/// The leases this process holds.
pub(crate) struct Leases {
    held: Vec<watch::Sender<bool>>,
    /// When each was asked for last with an answer, in milliseconds since `started`.
    asked: Vec<AtomicU64>,
    started: Instant,
    holder: InstanceId,
    ttl: Duration,
    /// Looks after which an unchanged row of another holder is taken; unset, it is as soon as it has run out.
    looks: Option<u32>,
    foreign: Mutex<HashMap<i64, Foreign>>,
    has_warned: AtomicBool,
    /// Whether the connections for what a lease is about answer.
    reaches_work: AtomicBool,
    store: Store,
}

impl Leases {
    /// `watched`: how long rows of others are before they are taken; unset, they are as soon as they have run out.
    pub(crate) fn new(store: Store, holder: InstanceId, ttl: Duration, shards: u16, watched: Option<Duration>) -> Arc<Self> {
        let held = (0..shards).map(|_| watch::Sender::new(false)).collect();
        let asked = (0..shards).map(|_| AtomicU64::new(0)).collect();
        // Looks that the database answers, so that the time of an outage, in which nobody can renew, is none of it.
        let looks = watched.map(|watched| watched.div_duration_f64(ttl / RENEWED).ceil() as u32);
        let (foreign, has_warned, reaches_work) = (Mutex::default(), AtomicBool::new(false), AtomicBool::new(true));
        Arc::new(Self { held, asked, started: Instant::now(), holder, ttl, looks, foreign, has_warned, reaches_work, store })
    }

    /// Whether `shard` is this process's to work on.
    pub(crate) fn watch(&self, shard: Shard) -> Option<watch::Receiver<bool>> {
        self.held.get(usize::from(shard.0)).map(watch::Sender::subscribe)
    }

    /// Whether `shard` is this process's to work on now.
    pub(crate) fn holds(&self, shard: Shard) -> bool {
        self.held.get(usize::from(shard.0)).is_some_and(|held| *held.borrow())
    }

    /// Whether the database has said so lately. It may be this process alone that does not reach it: then another one holds `shard`.
    pub(crate) fn is_confirmed(&self, shard: Shard) -> bool {
        self.asked.get(usize::from(shard.0)).is_some_and(|asked| self.is_within(asked, self.ttl))
    }

    /// Whether the database has answered lately.
    pub(crate) fn is_any_confirmed(&self) -> bool {
        self.was_confirmed_within(self.ttl)
    }

    /// Whether the database has answered in the last so long: it was written to.
    pub(crate) fn was_confirmed_within(&self, time: Duration) -> bool {
        self.asked.iter().any(|asked| self.is_within(asked, time))
    }

    fn is_within(&self, asked: &AtomicU64, time: Duration) -> bool {
        self.started.elapsed() <= Duration::from_millis(asked.load(Ordering::Relaxed)) + time
    }

    /// How long each holds without being renewed.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Whether the connections for the work on shards answer: where they do not and others can go on with the logs, these get the leases.
    pub(crate) fn reaches_work(&self) -> bool {
        self.reaches_work.load(Ordering::Relaxed)
    }

    /// Says so. True where it is news.
    pub(crate) fn set_reaches_work(&self, does: bool) -> bool {
        self.reaches_work.swap(does, Ordering::Relaxed) != does
    }

    /// Whether all are left to others, whether or not there are any.
    pub(crate) fn are_left(&self) -> bool {
        !self.reaches_work() && self.looks.is_none()
    }

    /// Waits until the database answers.
    pub(crate) async fn confirmed(&self) {
        while !self.is_any_confirmed() {
            tokio::time::sleep(self.ttl / 10).await;
        }
    }

    /// Takes and renews leases until `shutdown`, then gives them back.
    pub(crate) async fn keep(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(self.ttl / RENEWED);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = tick.tick() => {}
            }
            let renewed = async { if self.are_left() { self.leave().await } else { self.renew().await } };
            match timeout(self.ttl, renewed).await {
                Ok(Ok(())) => {}
                // Nobody else can take one either while the database is away for all.
                Ok(Err(error)) => tracing::debug!(%error, "leases_not_renewed"),
                Err(_) => tracing::debug!("leases_not_renewed: no answer"),
            }
        }
        // Not released, they run out by themselves.
        if let Ok(Err(error)) = timeout(Duration::from_secs(1), self.release()).await {
            tracing::debug!(%error, "leases_not_released");
        }
    }

    async fn release(&self) -> Result<(), DbErr> {
        let write = self.store.write().await?;
        leases::Entity::delete_many().filter(leases::Column::Holder.eq(self.holder.0)).exec(&write.transaction).await?;
        write.commit().await
    }

    /// Leaves all to others.
    async fn leave(&self) -> Result<(), DbErr> {
        for held in &self.held {
            held.send_if_modified(std::mem::take);
        }
        self.release().await?;
        self.answered();
        Ok(())
    }

    /// The database has just answered about all.
    fn answered(&self) {
        let now = self.started.elapsed().as_millis() as u64;
        for asked in &self.asked {
            asked.store(now, Ordering::Relaxed);
        }
    }

    /// Takes and renews all that are to be had, and waits for no row that another transaction holds.
    async fn renew(&self) -> Result<(), DbErr> {
        let others = self.others().await?;
        let shards: Vec<i64> = self.shards().filter(|shard| !others.contains(shard)).collect();
        let mine = match self.store.backend() {
            DbBackend::Sqlite => self.take_or_make(&shards).await?,
            _ => self.take_unlocked(&shards).await?,
        };
        self.answered();
        for (shard, held) in self.shards().zip(&self.held) {
            let is_mine = mine.contains(&shard);
            held.send_if_modified(|held| std::mem::replace(held, is_mine) != is_mine);
        }
        Ok(())
    }

    fn shards(&self) -> impl Iterator<Item = i64> + use<> {
        0..self.held.len() as i64
    }

    /// Runs `sql` with `shards` in it, in a transaction of its own.
    async fn ask(&self, shards: &[i64], sql: &str) -> Result<Vec<QueryResult>, DbErr> {
        let write = self.store.write().await?;
        if self.store.backend() == DbBackend::Postgres {
            // Whose host dies before the commit, without a word, keeps rows for no longer than a lease lasts.
            let (waits, idles) = ((self.ttl / 6).as_millis(), self.ttl.min(LONGEST_IDLE).as_millis());
            let limits = format!("SET LOCAL lock_timeout = {waits}; SET LOCAL idle_in_transaction_session_timeout = {idles}");
            write.transaction.execute_unprepared(&limits).await?;
        }
        let mut rows = Rows::new([("shard", Kind::Int), ("holder", Kind::Uuid), ("ttl", Kind::Int)]);
        for shard in shards {
            rows.push([(*shard).into(), self.holder.0.into(), (self.ttl.as_millis() as i64).into()]);
        }
        let answer = rows.query(&write.transaction, sql).await?;
        write.commit().await?;
        Ok(answer)
    }

    /// Whether a row of `leases` holds for nobody.
    fn is_free(&self) -> String {
        let (now, furthest) = (self.store.clock(), FURTHEST.as_millis());
        format!("(leases.until < {now} OR leases.until > {now} + {furthest})")
    }

    /// Takes what is free of `shards`, with or without a row.
    async fn take_or_make(&self, shards: &[i64]) -> Result<HashSet<i64>, DbErr> {
        let (now, is_free) = (self.store.clock(), self.is_free());
        let sql = format!(
            "INSERT INTO leases (shard, holder, until) SELECT v.shard, v.holder, {now} + v.ttl FROM v WHERE TRUE ON CONFLICT (shard) DO UPDATE \
             SET holder = excluded.holder, until = excluded.until WHERE leases.holder = excluded.holder OR {is_free} \
             RETURNING shard"
        );
        self.ask(shards, &sql).await?.iter().map(|row| row.try_get("", "shard")).collect()
    }

    /// The same on PostgreSQL, where an upsert would hold each row until it commits, those of others too. A row of ours that is held
    /// stays ours until it runs out.
    async fn take_unlocked(&self, shards: &[i64]) -> Result<HashSet<i64>, DbErr> {
        let (now, is_free) = (self.store.clock(), self.is_free());
        let sql = format!(
            ", free AS (SELECT leases.shard FROM leases JOIN v ON v.shard = leases.shard WHERE leases.holder = v.holder OR {is_free} \
             FOR UPDATE OF leases SKIP LOCKED), \
             taken AS (UPDATE leases SET holder = v.holder, until = {now} + v.ttl FROM v JOIN free ON free.shard = v.shard \
             WHERE leases.shard = free.shard RETURNING leases.shard) \
             SELECT l.shard, taken.shard IS NOT NULL OR (l.holder = v.holder AND l.until >= {now}) AS mine \
             FROM leases l JOIN v ON v.shard = l.shard LEFT JOIN taken ON taken.shard = l.shard"
        );
        let (mut known, mut mine) = (HashSet::new(), HashSet::new());
        for row in self.ask(shards, &sql).await? {
            let shard = row.try_get("", "shard")?;
            known.insert(shard);
            if row.try_get("", "mine")? {
                mine.insert(shard);
            }
        }
        // Only here another one is waited for, who makes the same row; and what is ours already is renewed.
        let missing: Vec<i64> = shards.iter().copied().filter(|shard| !known.contains(shard)).collect();
        if !missing.is_empty() {
            match self.take_or_make(&missing).await {
                Ok(made) => mine.extend(made),
                Err(error) => tracing::debug!(%error, "leases_not_made"),
            }
        }
        Ok(mine)
    }

    /// Looks at the rows of other holders. Returns the shards whose are to be left to them still.
    async fn others(&self) -> Result<HashSet<i64>, DbErr> {
        let Some(enough) = self.looks else { return Ok(HashSet::new()) };
        let rows = leases::Entity::find().filter(leases::Column::Holder.ne(self.holder.0)).all(self.store.database()).await?;
        if let Some(row) = rows.first()
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                holder = %row.holder,
                "database_is_anothers: a natter with another data folder works on this database, or did (its folder's file `holder` has \
                 this id). It is left alone until it has been silent for {} s. Stop one of the two; a database has one natter with the \
                 built-in broker",
                OTHERS_WATCHED.as_secs()
            );
        }
        let mut foreign = self.foreign.lock();
        let mut before = std::mem::take(&mut *foreign);
        let mut left = HashSet::new();
        for leases::Model { shard, holder, until } in rows {
            let same = before.remove(&shard).filter(|seen| seen.holder == holder && seen.until == until);
            let looks = same.map_or(0, |seen| seen.looks + 1);
            if looks < enough {
                left.insert(shard);
            }
            foreign.insert(shard, Foreign { holder, until, looks });
        }
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        database::{connect, migrate},
        options::DatabaseOptions,
    };

    #[tokio::test]
    async fn a_lapsed_lease_of_another_is_taken_only_after_it_has_been_watched() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("natter.db").display());
        let connection = connect(&DatabaseOptions { url, ..DatabaseOptions::default() }).await.unwrap();
        migrate(&connection).await.unwrap();
        let store = Store::new(connection);
        let (ttl, watched, shard) = (Duration::from_millis(30), Duration::from_millis(50), Shard(0));
        let leases = |watched| Leases::new(store.clone(), InstanceId::random(), ttl, 1, watched);
        let until = async |until: i64| {
            let sql = "INSERT INTO leases (shard, holder, until) VALUES (0, ?, ?) ON CONFLICT DO UPDATE SET until = excluded.until";
            store.execute(sql, [Uuid::nil().into(), until.into()]).await.unwrap();
        };
        until(1).await;
        let second = leases(Some(watched));
        second.renew().await.unwrap();
        assert!(!second.holds(shard) && second.is_confirmed(shard));
        // No look, as while the database is away, is none in which it was silent; and the rightful one renews it then.
        tokio::time::sleep(2 * watched).await;
        second.renew().await.unwrap();
        until(2).await;
        for _ in 0..5 {
            second.renew().await.unwrap();
            assert!(!second.holds(shard));
        }
        second.renew().await.unwrap();
        assert!(second.holds(shard), "silent for so long");

        let third = leases(None);
        tokio::time::sleep(2 * ttl).await;
        third.renew().await.unwrap();
        assert!(third.holds(shard), "where logs are everybody's, as soon as it has run out");
        store.execute("DELETE FROM leases", []).await.unwrap();
        second.renew().await.unwrap();
        assert!(second.holds(shard), "one that was given back at once");
    }
}
