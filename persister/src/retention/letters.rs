//! What could not be applied is kept for as long as messages are.

use std::time::{Duration, Instant};

use sea_orm::DbErr;
use tokio::time::sleep;

use super::{BATCH, PAUSE, Retention, position, too_old};
use crate::checkpoint;

impl Retention {
    /// Deletes dead letters that are older than `keep`, those of each shard in the order of its log.
    pub(super) async fn dead_letters(&self, keep: Duration) -> Result<(), DbErr> {
        for (shard, cutoff) in self.cutoffs(keep).await? {
            while self.leases.holds(shard) {
                let started = Instant::now();
                let sql = "SELECT epoch, seq, stored_at AS at FROM dead_letters WHERE shard = ? ORDER BY epoch, seq LIMIT ?";
                let of = i64::from(shard.0);
                let rows = self.rows(sql, [of.into(), (BATCH as i64).into()]).await?;
                let Some(last) = too_old(&rows, cutoff)?.last() else { break };
                let (epoch, seq) = checkpoint::sql(position(last)?);
                let sql = "DELETE FROM dead_letters WHERE shard = ? AND (epoch, seq) <= (?, ?)";
                let gone = self.store.execute(sql, [of.into(), epoch.into(), seq.into()]).await?;
                self.metrics.retired("dead_letters", gone);
                sleep(started.elapsed().max(PAUSE)).await;
            }
        }
        Ok(())
    }
}
