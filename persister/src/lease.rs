//! Leases: which persister works on which shard, so that two do not do the same work. Losing one
//! costs nothing but that; the fence is the checkpoint.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use natter_shared::{id::InstanceId, subject::Shard};
use sea_orm::{ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryFilter};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    database::{
        Store,
        rows::{Kind, Rows},
    },
    entity::leases,
    error::is_locked,
};

/// How long a row that another transaction holds is waited for at least.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// The leases this process holds.
pub(crate) struct Leases {
    held: Vec<watch::Sender<bool>>,
    /// When each was asked for last with an answer, in milliseconds since `started`.
    asked: Vec<AtomicU64>,
    started: Instant,
    holder: InstanceId,
    ttl: Duration,
    store: Store,
}

impl Leases {
    pub(crate) fn new(store: Store, holder: InstanceId, ttl: Duration, shards: u16) -> Arc<Self> {
        let held = (0..shards).map(|_| watch::Sender::new(false)).collect();
        let asked = (0..shards).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { held, asked, started: Instant::now(), holder, ttl, store })
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
        let asked = self.asked.get(usize::from(shard.0)).map_or(0, |asked| asked.load(Ordering::Relaxed));
        self.started.elapsed() <= Duration::from_millis(asked) + self.ttl
    }

    /// Whether the database has answered lately.
    pub(crate) fn is_any_confirmed(&self) -> bool {
        (0..).map(Shard).take(self.asked.len()).any(|shard| self.is_confirmed(shard))
    }

    /// Waits until the database answers.
    pub(crate) async fn confirmed(&self) {
        while !self.is_any_confirmed() {
            tokio::time::sleep(self.ttl / 10).await;
        }
    }

    /// Takes and renews leases until `shutdown`, then gives them back.
    pub(crate) async fn keep(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(self.ttl / 3);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = tick.tick() => {}
            }
            match timeout(self.ttl, self.renew()).await {
                Ok(Ok(())) => {}
                // Nobody else can take one either while the database is away for all.
                Ok(Err(error)) => tracing::debug!(%error, "leases_not_renewed"),
                Err(_) => tracing::debug!("leases_not_renewed: no answer"),
            }
        }
        let mine = leases::Entity::delete_many().filter(leases::Column::Holder.eq(self.holder.0));
        let release = async {
            let write = self.store.write().await?;
            mine.exec(&write.transaction).await?;
            write.commit().await
        };
        // Not released, they run out by themselves.
        if let Ok(Err(error)) = timeout(Duration::from_secs(1), release).await {
            tracing::debug!(%error, "leases_not_released");
        }
    }

    /// Takes and renews all that are to be had; by one statement, or where another transaction holds a row, one by one, so that only
    /// that one has to wait.
    async fn renew(&self) -> Result<(), DbErr> {
        let all = || (0..).take(self.held.len());
        match self.take(all()).await {
            Err(error) if is_locked(&error) => {}
            taken => return taken,
        }
        for shard in all() {
            match self.take(std::iter::once(shard)).await {
                Err(error) if is_locked(&error) => tracing::debug!(%error, shard, "lease_not_renewed"),
                taken => taken?,
            }
        }
        Ok(())
    }

    async fn take(&self, shards: impl Iterator<Item = u16> + Clone) -> Result<(), DbErr> {
        let write = self.store.write().await?;
        if self.store.backend() == DbBackend::Postgres {
            // All rows may be waited for in vain, and then each by itself. Whose host dies before the commit, without a word, keeps
            // them for no longer than a lease lasts.
            let (waits, idles) = (self.ttl / 2 / self.held.len().max(1) as u32, self.ttl);
            let (waits, idles) = (waits.max(SHORTEST_WAIT).as_millis(), idles.as_millis());
            let limits = format!("SET LOCAL lock_timeout = {waits}; SET LOCAL idle_in_transaction_session_timeout = {idles}");
            write.transaction.execute_unprepared(&limits).await?;
        }
        let now = self.store.clock();
        let sql = format!(
            "INSERT INTO leases (shard, holder, until) SELECT v.shard, v.holder, {now} + v.ttl FROM v WHERE TRUE ON CONFLICT (shard) DO UPDATE \
             SET holder = excluded.holder, until = excluded.until WHERE leases.holder = excluded.holder OR leases.until < {now} \
             RETURNING shard"
        );
        let mut rows = Rows::new([("shard", Kind::Int), ("holder", Kind::Uuid), ("ttl", Kind::Int)]);
        for shard in shards.clone() {
            rows.push([i64::from(shard).into(), self.holder.0.into(), (self.ttl.as_millis() as i64).into()]);
        }
        let taken = rows.query(&write.transaction, &sql).await?;
        let taken: HashSet<i64> = taken.iter().map(|row| row.try_get("", "shard")).collect::<Result<_, _>>()?;
        write.commit().await?;
        let now = self.started.elapsed().as_millis() as u64;
        for shard in shards {
            let (asked, held) = (self.asked.get(usize::from(shard)), self.held.get(usize::from(shard)));
            if let (Some(asked), Some(held)) = (asked, held) {
                asked.store(now, Ordering::Relaxed);
                let is_taken = taken.contains(&i64::from(shard));
                held.send_if_modified(|held| std::mem::replace(held, is_taken) != is_taken);
            }
        }
        Ok(())
    }
}
