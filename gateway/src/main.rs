//! `natter-gateway`: browsers in front, NATS behind. Any number of them, each serves any user.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use natter_gateway::Gateway;
use natter_shared::{
    ask_health::AskHealth,
    broker::nats::{NatsBroker, Role as Service},
    cli::{self, CONFIG_HELP, ConfigArgs},
    config::{Config, Role},
    id::InstanceId,
    lifecycle::Lifecycle,
    listen,
    telemetry::metrics::Registry,
};

/// Keeps sizes apart, so that what lasts lies close together: glibc's leaves holes between, which make 1 KB for each connection.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Natter's gateway: HTTP and WebSocket in front, NATS behind.
///
/// It keeps nothing: any gateway serves any user. All of them share NATTER_AUTH__SECRET. It waits
/// for NATS and for a persister, in whatever order they come; /readyz says what is missing.
///
/// Examples:
///   NATTER_NATS__URL=nats://n1:4222 NATTER_AUTH__SECRET_FILE=secret natter-gateway
///   natter-gateway --config natter.toml --check-config
#[derive(Debug, Parser)]
#[command(name = "natter-gateway", version, verbatim_doc_comment, after_help = CONFIG_HELP)]
struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Ask the gateway on this machine whether it is alive; exit status 1 if not
    Health(AskHealth),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Health(ask)) = cli.command {
        return cli.config.ask_health(Role::Gateway, ask, |config| Some(config.http.listen));
    }
    match cli.config.prepare(Role::Gateway) {
        Ok(config) => run(config).await.unwrap_or_else(|error| cli::fail(error.as_ref())),
        Err(status) => status,
    }
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let listener = listen::bind(config.http.listen, "NATTER_HTTP__LISTEN").await?;
    let (instance, lifecycle) = (InstanceId::random(), Lifecycle::new());
    let broker = NatsBroker::connect(config.nats_options(), Service::Gateway, instance).await?;
    let (drain, registry) = (config.gateway.drain_timeout, Registry::new("natter-gateway"));
    let gateway =
        natter_gateway::run(Gateway { listener, broker, config, instance, database: None, registry, lifecycle: lifecycle.clone() });
    lifecycle.spawn_critical("gateway", gateway);
    Ok(lifecycle.run_until_stopped(drain).await)
}
