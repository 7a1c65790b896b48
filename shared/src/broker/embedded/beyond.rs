//! What a log has that the database has not, looked at before another broker takes its place.

use std::path::Path;

use sea_orm::ConnectionTrait;

use super::{
    EmbeddedError,
    file::{self, File, TABLES},
};
use crate::{position::Position, subject::Shard};

/// How many events of users the log at `path` has beyond what is `applied` of each shard.
///
/// # Errors
/// Where the file cannot be read.
pub async fn count_beyond(path: &Path, applied: &[(Shard, Position)]) -> Result<u64, EmbeddedError> {
    let connection = file::connect(path, true, 1).await?;
    // Who was killed at the first start may not have come to it.
    connection.execute_unprepared(TABLES).await?;
    let file = File::of(connection);
    let mut beyond = 0;
    for kept in file.kept().await? {
        let applied = applied.iter().find(|(shard, _)| *shard == kept.shard).map_or(Position::START, |(_, at)| *at);
        // All of an epoch is applied before the shard goes on in the next one.
        if kept.epoch >= applied.epoch {
            let after = if kept.epoch == applied.epoch { applied.seq } else { 0 };
            beyond += file.count_after(kept.shard, kept.epoch, after).await?;
        }
    }
    file.close().await;
    Ok(beyond)
}
