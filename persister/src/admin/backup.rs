//! A copy of an SQLite database while persisters work on it.

use std::path::Path;

use natter_shared::{config::database_url, rpc::ShardPosition};
use sea_orm::ConnectionTrait;

use super::{AdminError, open};
use crate::{checkpoint, database::connect, options::DatabaseOptions};

/// Epochs left out after a restore, at most: what the original opens after the copy is made must
/// not be opened by the copy as well. A number at random, since two may restore the same copy.
const EPOCHS_LEFT_OUT: std::ops::Range<u32> = 1000..1_000_000;

/// Copies the SQLite database to `to`, a file that is empty or not there. Returns up to where the
/// copy has applied the log of each shard.
///
/// Whoever starts with the copy goes on in new epochs: clients may have seen later positions.
///
/// # Errors
/// What kept it from being done.
pub async fn backup(database: &DatabaseOptions, to: &Path) -> Result<Vec<ShardPosition>, AdminError> {
    let source = open(database).await?;
    // SQLite takes `file:…` for a URL.
    let to = &std::path::absolute(to)?;
    let quoted = to.display().to_string().replace('\'', "''");
    // One statement is one snapshot.
    source.database().execute_unprepared(&format!("VACUUM INTO '{quoted}'")).await?;
    source.database().clone().close().await?;
    let copy = connect(&DatabaseOptions { url: database_url::of_sqlite_file(to), max_connections: 1, ..database.clone() }).await?;
    let left_out = rand::random_range(EPOCHS_LEFT_OUT);
    copy.execute_unprepared("UPDATE applied SET restored = TRUE; DELETE FROM leases;").await?;
    copy.execute_unprepared(&format!(
        "INSERT INTO epochs (epoch, shard, opened_at) SELECT max(epoch) + {left_out}, -1, 0 FROM epochs HAVING max(epoch) IS NOT NULL"
    ))
    .await?;
    let applied = checkpoint::positions(&copy).await?;
    copy.close().await?;
    Ok(applied)
}
