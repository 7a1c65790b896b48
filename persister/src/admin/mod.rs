//! What an operator does with the database by a command, while persisters work on it: keys of the
//! server API, and what a user may ask for (a copy of everything, or to be erased).
//!
//! Results go to stdout, what is said about them to stderr.

mod backup;
mod export;
mod keys;
mod users;

use std::time::Duration;

use clap::Subcommand;
use natter_shared::{
    id::{IdError, UserId},
    rpc::ShardPosition,
};
use sea_orm::DbErr;
use uuid::Uuid;

use crate::{
    checkpoint,
    database::{Store, connect, is_unanswered, migrate},
    epochs,
    options::DatabaseOptions,
};

pub use self::backup::backup;

/// A year: a clock has no end of time for longer ones.
const MAX_TIMEOUT: u64 = 365 * 24 * 3600;

/// The commands, for a binary's command line.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Keys of the server API (/api/v1/server)
    #[command(subcommand)]
    Apikey(KeyCommand),
    /// What a user may ask for: a copy of everything, or to be erased
    #[command(subcommand)]
    User(UserCommand),
}

/// About keys.
#[derive(Debug, Clone, Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it, once: only its hash is kept
    Create {
        /// What it is for, to be told apart from others
        #[arg(long)]
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List all keys, the revoked ones too
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key, for good
    Revoke {
        /// Its id, as the list says
        id: Uuid,
    },
}

/// About users.
#[derive(Debug, Clone, Subcommand)]
pub enum UserCommand {
    /// Print all that is stored of a user, one JSON object a line
    Export {
        /// The user's id: the token's `sub`
        #[arg(value_parser = user_id)]
        id: UserId,
    },
    /// Erase a user: memberships end, connections close, texts and profile are emptied
    ///
    /// A running persister carries it out; this waits for it. Doing it again is harmless.
    Erase {
        /// The user's id: the token's `sub`
        #[arg(value_parser = user_id)]
        id: UserId,
        /// Only ask for it, and do not wait
        #[arg(long)]
        no_wait: bool,
        /// How many seconds to wait
        #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=MAX_TIMEOUT))]
        timeout: u64,
    },
}

fn user_id(text: &str) -> Result<UserId, IdError> {
    UserId::new(text)
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The database.
    #[error("the database (database.url): {0}")]
    Database(#[from] DbErr),
    /// The name of a key says nothing, or too much.
    #[error("a key's name has 1 to 100 characters and no control characters")]
    Name,
    /// Nobody has this key.
    #[error("there is no key {0}; `apikey list` has all")]
    NoKey(Uuid),
    /// Nobody has this id.
    #[error("there is no user {0:?}; the id is the token's `sub`, not the handle")]
    NoUser(String),
    /// Nobody carried it out in time.
    #[error("not erased within {} s; a running persister goes on with it, and the same command waits for it again", .0.as_secs())]
    NotErased(Duration),
    /// The result could not be written.
    #[error("stdout: {0}")]
    Output(#[from] std::io::Error),
    /// The result could not be put into words.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl AdminError {
    /// Whether the same again would fail the same, however long the database is waited for: it does not fit.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Database(error @ DbErr::Custom(_)) if !is_unanswered(error))
    }
}

/// Writes all that is stored of a user to `out`, one JSON object a line.
///
/// # Errors
/// What kept it from being done.
pub async fn export(user: &UserId, database: &DatabaseOptions, out: &mut impl std::io::Write) -> Result<(), AdminError> {
    export::export(&open(database).await?, user, out).await
}

/// How far the database has each shard's log; and those that it left for another epoch.
///
/// # Errors
/// What kept it from being read.
pub async fn applied(database: &DatabaseOptions) -> Result<Vec<ShardPosition>, AdminError> {
    let store = open(database).await?;
    let mut applied = checkpoint::positions(store.database()).await?;
    applied.extend(epochs::left(&store).await?);
    store.database().clone().close().await?;
    Ok(applied)
}

async fn open(database: &DatabaseOptions) -> Result<Store, AdminError> {
    // The default is for a service's many readers.
    let database = connect(&DatabaseOptions { max_connections: 2, ..database.clone() }).await?;
    migrate(&database).await?;
    Ok(Store::new(database))
}

/// Does what the command says on the database.
///
/// # Errors
/// What kept it from being done.
pub async fn run(command: Command, database: &DatabaseOptions) -> Result<(), AdminError> {
    let store = open(database).await?;
    match command {
        Command::Apikey(KeyCommand::Create { name, json }) => keys::create(&store, &name, json).await,
        Command::Apikey(KeyCommand::List { json }) => keys::list(&store, json).await,
        Command::Apikey(KeyCommand::Revoke { id }) => keys::revoke(&store, id).await,
        Command::User(UserCommand::Export { id }) => export::export(&store, &id, &mut std::io::BufWriter::new(std::io::stdout())).await,
        Command::User(UserCommand::Erase { id, no_wait, timeout }) => {
            let patience = (!no_wait).then(|| Duration::from_secs(timeout));
            users::erase(&store, &id, patience).await
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn nobody_waits_for_longer_than_a_clock_goes() {
        let erase = |seconds: &str| Cli::try_parse_from(["natter", "user", "erase", "ann", "--timeout", seconds]).map(|cli| cli.command);
        assert!(matches!(erase("31536000"), Ok(Command::User(UserCommand::Erase { timeout: 31_536_000, .. }))));
        assert!(erase("18446744073709551615").is_err());
    }
}
