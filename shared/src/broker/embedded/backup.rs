//! A copy of the log's file while it is in use.

use std::path::Path;

use sea_orm::ConnectionTrait;

use super::{
    EmbeddedError,
    file::{self, File},
};
use crate::{position::Position, subject::Shard};

/// Copies the log at `from` to `to`, a file that is empty or not there. Returns where each epoch of
/// each shard begins in the copy.
///
/// # Errors
/// Where either file cannot be read or written.
pub async fn backup(from: &Path, to: &Path) -> Result<Vec<(Shard, Position)>, EmbeddedError> {
    let source = file::connect(from, true, 1).await?;
    // One statement is one snapshot: what is committed when it begins is in the copy.
    let copied = source.execute_unprepared(&format!("VACUUM INTO '{}'", to.display().to_string().replace('\'', "''"))).await;
    source.close().await?;
    copied?;
    let copy = File::of(file::connect(to, true, 1).await?);
    let mut begins = Vec::new();
    for kept in copy.kept().await? {
        let (first, _) = copy.bounds(kept.shard, kept.epoch).await?;
        begins.push((kept.shard, Position::new(kept.epoch, first)));
    }
    copy.close().await;
    Ok(begins)
}
