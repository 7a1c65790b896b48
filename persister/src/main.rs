//! `natter-persister`: brings the events of the streams into SQL, and answers what gateways ask of it.

mod health;
mod start;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use natter_persister::admin;
use natter_shared::{
    cli::{self, CONFIG_HELP, ConfigArgs},
    config::Role,
};

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
    #[command(flatten)]
    Admin(admin::Command),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match (cli.config.prepare(Role::Persister), cli.command) {
        (Ok(config), None | Some(Command::Run)) => start::run(config).await,
        (Ok(config), Some(Command::Migrate)) => start::migrate(&config).await,
        (Ok(config), Some(Command::Admin(command))) => start::administer(&config, command).await,
        (Err(status), _) => return status,
    };
    ended.unwrap_or_else(|error| cli::fail(error.as_ref()))
}
