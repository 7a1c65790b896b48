//! `natter`: gateway and persister in one process, with nothing to install.

mod folder;
mod key;
mod persister;
mod start;
mod welcome;

use std::process::ExitCode;

use clap::Parser;
use natter_shared::{
    cli::{self, CONFIG_HELP, ConfigArgs},
    config::Role,
};

/// Natter in one process: real-time chat over WebSocket, with nothing to install.
///
/// Keeps its files in ./data (NATTER_DATA_DIR) and survives a kill -9 without losing what it has
/// accepted. With NATTER_NATS__URL it uses NATS instead of its built-in broker.
///
/// Examples:
///   natter
///   NATTER_HTTP__LISTEN=127.0.0.1:9000 NATTER_DATA_DIR=/srv/natter natter
///   natter --config natter.toml --check-config
#[derive(Debug, Parser)]
#[command(name = "natter", version, verbatim_doc_comment, after_help = CONFIG_HELP)]
struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let config = match Cli::parse().config.prepare(Role::Standalone) {
        Ok(config) => config,
        Err(status) => return status,
    };
    match start::run(config).await {
        Ok(status) => status,
        Err(error) => cli::fail(error.as_ref()),
    }
}
