//! What can go wrong, and the one distinction that matters to the projector: is the data at fault,
//! or is it something that passes?

use natter_shared::{broker::BrokerError, frame::ErrorCode, position::Epoch, rpc::RpcError};
use sea_orm::{DbErr, RuntimeErr, SqlErr};

/// Why the persister could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error("database: {0}")]
    Database(#[from] DbErr),
    /// The broker.
    #[error("broker: {0}")]
    Broker(#[from] BrokerError),
    /// The database was installed with another number of shards; that number is fixed.
    #[error("the database was installed with {installed} shards, the configuration says {configured}")]
    Shards {
        /// As the database has it.
        installed: i64,
        /// As configured.
        configured: u16,
    },
    /// The database has another encoding than UTF-8.
    #[error(
        "the database's encoding is {0}, which does not hold all that is said: it has to be UTF8. Make another one \
         (createdb --encoding=UTF8 --template=template0), and take over what is in this one by pg_dump and pg_restore"
    )]
    Encoding(String),
    /// A log has been used, and the database knows nothing of it.
    #[error(
        "the log of shard {shard} has been used (epoch {epoch}, up to {last}), and the database (database.url) knows nothing of it: it is an \
         empty one, or another installation's. Name the database that was used with this log, or put a dump of it back: \
         docs/operations.md, \"Another database\". To go on without what is in that database, start once with \
         NATTER_PERSISTER__WITHOUT_HISTORY=true"
    )]
    NoHistory {
        /// Whose log.
        shard: u16,
        /// What it is in.
        epoch: Epoch,
        /// Its last event.
        last: u64,
    },
    /// A task of the persister ended that should not have.
    #[error("a task died: {0}")]
    Task(String),
}

/// SQLSTATE classes that blame the data: 22 (data exception), 23 (integrity constraint).
const DATA_CLASSES: [&str; 2] = ["22", "23"];

/// SQLite primary result codes that blame the data: TOOBIG, CONSTRAINT, MISMATCH.
const DATA_CODES: [i32; 3] = [18, 19, 20];

/// SQLSTATE 40001: what a statement meant to change was changed by another since it began.
const SERIALIZATION_FAILURE: &str = "40001";

/// Whether another transaction came first, which a database at READ COMMITTED would have waited for.
pub(crate) fn is_overtaken(error: &DbErr) -> bool {
    code(error).is_some_and(|code| code == SERIALIZATION_FAILURE)
}

fn code(error: &DbErr) -> Option<String> {
    let (DbErr::Exec(RuntimeErr::SqlxError(inner)) | DbErr::Query(RuntimeErr::SqlxError(inner))) = error else {
        return None;
    };
    Some(inner.as_database_error()?.code()?.into_owned())
}

/// Whether the rows themselves are what the database refuses. Everything unknown is taken for
/// something that passes: retrying for ever loses nothing, a dead letter might.
pub(crate) fn is_data(error: &DbErr) -> bool {
    if let Some(sql) = error.sql_err() {
        return matches!(sql, SqlErr::UniqueConstraintViolation(_) | SqlErr::ForeignKeyConstraintViolation(_));
    }
    let Some(code) = code(error) else { return false };
    // A SQLSTATE has five characters; SQLite's codes are decimal numbers of at most four.
    match code.parse::<i32>() {
        Ok(number) if code.len() < 5 => DATA_CODES.contains(&(number & 0xff)),
        Ok(_) | Err(_) => DATA_CLASSES.iter().any(|class| code.starts_with(class)),
    }
}

/// A unique key is taken.
pub(crate) fn is_taken(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
}

/// What a caller is told when the database did not answer: try again.
pub(crate) fn unavailable(error: &DbErr) -> RpcError {
    tracing::warn!(%error, "database_unavailable");
    RpcError::new(ErrorCode::Unavailable, "the database is unavailable")
}

/// Absent, or not for this user to know of: both look alike.
pub(crate) fn not_found() -> RpcError {
    RpcError::new(ErrorCode::NotFound, "not found")
}
