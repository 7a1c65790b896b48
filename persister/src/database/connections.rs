//! The connections of a persister.

use sea_orm::DatabaseConnection;
use tokio_util::sync::CancellationToken;

use super::connect_with_retry;
use crate::options::DatabaseOptions;

/// Beside one for each shard: for counts of inboxes, standings, retention, erasures.
const BESIDE_SHARDS: u32 = 4;

/// The connections of a persister. Calls have their own, so that however many of them wait for the database, shards go on: behind
/// calls, projection would stop; and leases theirs, since behind the work on many shards they would run out.
#[derive(Debug, Clone)]
pub struct Connections {
    /// For what works on shards.
    pub work: DatabaseConnection,
    /// For calls.
    pub calls: DatabaseConnection,
    /// One: on PostgreSQL for leases and readiness, on SQLite, which has one writer, for all that is written.
    pub apart: DatabaseConnection,
}

impl Connections {
    /// Connects for so many shards, however long it takes; `None` when shut down before.
    pub async fn open(options: &DatabaseOptions, shards: u16, shutdown: &CancellationToken) -> Option<Self> {
        let (work, calls) = divided(options.max_connections, shards);
        let some = |max_connections| DatabaseOptions { max_connections, ..options.clone() };
        let work = connect_with_retry(&some(work), shutdown).await?;
        let calls = connect_with_retry(&some(calls), shutdown).await?;
        Some(Self { work, calls, apart: connect_with_retry(&some(1), shutdown).await? })
    }
}

/// Of `max` connections, but the one apart, those for the work on shards, and those for calls. Of few, either has half.
fn divided(max: u32, shards: u16) -> (u32, u32) {
    let max = max.saturating_sub(1);
    let work = (u32::from(shards) + BESIDE_SHARDS).min(max.div_ceil(2)).max(1);
    (work, max.saturating_sub(work).max(1))
}

#[cfg(test)]
mod tests {
    use super::divided;

    #[test]
    fn calls_and_shards_have_their_own() {
        assert_eq!(divided(16, 4), (8, 7));
        assert_eq!(divided(100, 4), (8, 91));
        assert_eq!(divided(16, 64), (8, 7));
        assert_eq!(divided(4, 4), (2, 1));
    }
}
