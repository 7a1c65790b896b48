//! What a log has that the database has not, looked at before another broker takes its place.

use std::path::Path;

use sea_orm::ConnectionTrait;

use super::{
    EmbeddedError,
    file::{self, File, TABLES},
};
use crate::{position::Position, subject::Shard};

/// How many events of users the log at `path` has beyond what is `applied` of each shard: up to where in its current epoch, and in those
/// that it left, since another broker may have taken it on.
///
/// # Errors
/// Where the file cannot be read.
pub async fn count_beyond(path: &Path, applied: &[(Shard, Position)]) -> Result<u64, EmbeddedError> {
    let connection = file::connect(path, true, 1).await?;
    // Who was killed at the first start may not have come to it.
    connection.execute_unprepared(TABLES).await?;
    let file = File::of(connection);
    let mut beyond = 0;
    let all = file.kept().await?;
    for kept in &all {
        let applied = || applied.iter().filter(|(shard, _)| *shard == kept.shard).map(|(_, at)| *at);
        let current = applied().map(|at| at.epoch).max().unwrap_or(Position::START.epoch);
        // All of an epoch is applied, or rescued into the next one of this log, before the shard goes on in that.
        let is_left = all.iter().any(|next| next.shard == kept.shard && next.epoch > kept.epoch && next.epoch <= current);
        if !is_left {
            let after = applied().filter(|at| at.epoch == kept.epoch).map(|at| at.seq).max().unwrap_or_default();
            beyond += file.count_after(kept.shard, kept.epoch, after).await?;
        }
    }
    file.close().await;
    Ok(beyond)
}
