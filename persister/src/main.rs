//! `natter-persister`: brings the events of the streams into SQL, and answers what gateways ask of it.

mod health;
mod nkey;
mod start;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use natter_persister::admin;
use natter_shared::{
    ask_health::AskHealth,
    cli::{self, CONFIG_HELP, ConfigArgs},
    config::Role,
};

/// Faster than glibc's where many small values come and go: rows, and what they are made from.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Natter's persister: brings the events of the streams into SQL, and answers what gateways ask.
///
/// It alone touches the database and makes the streams. Several may run. It waits for NATS and for
/// the database, in whatever order they come.
///
/// Examples:
///   NATTER_DATABASE__URL=postgres://natter@localhost/natter natter-persister
///   natter-persister --config natter.toml migrate
///   natter-persister --config natter.toml apikey create --name shop
///   natter-persister --config natter.toml --check-config
#[derive(Debug, Parser)]
#[command(name = "natter-persister", version, verbatim_doc_comment, after_help = CONFIG_HELP)]
struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Bring the database's schema up to date, then work until stopped (the default)
    Run,
    /// Bring the database's schema up to date, and exit
    Migrate,
    /// Make an identity for NATS: a seed to keep (nats.nkey_seed) and a public key for nats.conf
    Nkey,
    /// Ask the persister on this machine whether it is alive; exit status 1 if not
    Health(AskHealth),
    #[command(flatten)]
    Admin(admin::Command),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match cli.command.unwrap_or(Command::Run) {
        Command::Nkey => nkey::print(),
        Command::Health(ask) => return cli.config.ask_health(Role::Persister, ask, |config| config.persister.http_listen),
        Command::Run => match cli.config.prepare(Role::Persister) {
            Ok(config) => start::run(config).await,
            Err(status) => return status,
        },
        Command::Migrate => match cli.config.prepare(Role::Persister) {
            Ok(config) => start::migrate(&config).await,
            Err(status) => return status,
        },
        Command::Admin(command) => match cli.config.prepare(Role::Persister) {
            Ok(config) => start::administer(&config, command).await,
            Err(status) => return status,
        },
    };
    ended.unwrap_or_else(|error| cli::fail(error.as_ref()))
}
