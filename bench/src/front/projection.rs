//! How far SQL has come with what the streams have.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use natter_tests::sql::Sql;

use super::natter::Natter;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Without any progress for so long there will be none.
const STALLED: Duration = Duration::from_mins(1);

/// SQL, as it follows the streams.
pub(super) struct Projection {
    pub(super) sql: Sql,
}

impl Projection {
    /// Of an installation that has started.
    pub(super) async fn of(natter: &Natter) -> Result<Self> {
        Ok(Self { sql: natter.cluster.sql().await? })
    }

    /// Events that have been applied, of all shards.
    pub(super) async fn applied(&self) -> Result<i64> {
        self.sql.count("SELECT CAST(SUM(seq) AS BIGINT) FROM applied").await
    }

    /// Waits until so many have been; what the persister logged is told where it stands still.
    pub(super) async fn reach(&self, natter: &Natter, until: i64) -> Result<()> {
        let (mut at, mut moved) = (self.applied().await?, Instant::now());
        while at < until {
            tokio::time::sleep(LOOK).await;
            let now = self.applied().await?;
            if now > at {
                (at, moved) = (now, Instant::now());
            }
            ensure!(moved.elapsed() < STALLED, "the persister stands still at {at} of {until}; {}", {
                natter.cluster.persisters.first().map(|node| node.process.log()).unwrap_or_default()
            });
        }
        Ok(())
    }
}
