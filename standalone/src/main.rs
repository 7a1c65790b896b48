//! `natter`: gateway and persister in one process, with nothing to install.

mod admin;
mod backup;
mod folder;
mod holder;
mod key;
mod moved;
mod persister;
mod start;
mod welcome;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use natter_persister::admin as persister_admin;
use natter_shared::{
    ask_health::AskHealth,
    cli::{self, CONFIG_HELP, ConfigArgs},
    config::Role,
};

/// As in the gateway: less memory for each connection.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Natter in one process: real-time chat over WebSocket, with nothing to install.
///
/// Keeps its files in ./data (NATTER_DATA_DIR) and survives a kill -9 without losing what it has
/// accepted. With NATTER_NATS__URL it uses NATS instead of its built-in broker.
///
/// Examples:
///   natter
///   NATTER_HTTP__LISTEN=127.0.0.1:9000 NATTER_DATA_DIR=/srv/natter natter
///   natter --config natter.toml --check-config
///   natter apikey create --name shop
#[derive(Debug, Parser)]
#[command(name = "natter", version, verbatim_doc_comment, after_help = CONFIG_HELP)]
struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Work until stopped (the default)
    Run,
    #[command(flatten)]
    Admin(persister_admin::Command),
    /// Copy database, log and sign-in key into a new folder, while natter runs
    Backup {
        /// Where to; a new folder, or an empty one
        folder: PathBuf,
    },
    /// Ask the process on this machine whether it is alive; exit status 1 if not
    Health(AskHealth),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Health(ask)) = cli.command {
        return cli.config.ask_health(Role::Standalone, ask, |config| Some(config.http.listen));
    }
    let ended = match (cli.config.prepare(Role::Standalone), cli.command) {
        (Ok(config), None | Some(Command::Run | Command::Health(_))) => start::run(config).await,
        (Ok(config), Some(Command::Admin(command))) => admin::administer(&config, command).await,
        (Ok(config), Some(Command::Backup { folder })) => backup::backup(&config, &folder).await,
        (Err(status), _) => return status,
    };
    ended.unwrap_or_else(|error| cli::fail(error.as_ref()))
}
