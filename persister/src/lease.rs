//! Leases: which persister works on which shard, so that two do not do the same work. Losing one
//! costs nothing but that; the fence is the checkpoint.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use natter_shared::{id::InstanceId, subject::Shard};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{database::Store, entity::leases};

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
            for (shard, held) in self.held.iter().enumerate() {
                match timeout(self.ttl, self.take(shard as i64)).await.unwrap_or_else(|_| Err(DbErr::Custom("no answer".to_owned()))) {
                    Ok(taken) => {
                        if let Some(asked) = self.asked.get(shard) {
                            asked.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
                        }
                        held.send_if_modified(|held| std::mem::replace(held, taken) != taken);
                    }
                    // Nobody else can take one either while the database is away for all.
                    Err(error) => tracing::debug!(%error, shard, "lease_not_renewed"),
                }
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

    async fn take(&self, shard: i64) -> Result<bool, DbErr> {
        let now = self.store.clock();
        let sql = format!(
            "INSERT INTO leases (shard, holder, until) VALUES (?, ?, {now} + ?) ON CONFLICT (shard) DO UPDATE \
             SET holder = excluded.holder, until = excluded.until WHERE leases.holder = excluded.holder OR leases.until < {now}"
        );
        let ttl = self.ttl.as_millis() as i64;
        Ok(self.store.execute(&sql, [shard.into(), self.holder.0.into(), ttl.into()]).await? == 1)
    }
}
