//! From a config to a running persister.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use natter_persister::{Connections, DatabaseOptions, Options, admin};
use natter_shared::{
    broker::{
        Broker,
        nats::{NatsBroker, Role},
    },
    config::Config,
    id::InstanceId,
    lifecycle::Lifecycle,
    listen,
    telemetry::metrics::Registry,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::health::{self, Missing};

/// Brings the schema up to date.
pub(crate) async fn migrate(config: &Config) -> anyhow::Result<ExitCode> {
    let database = natter_persister::connect(&database_options(config)?).await.context("database.url cannot be connected to")?;
    natter_persister::migrate(&database).await.context("the schema could not be brought up to date")?;
    println!("The database's schema is up to date.");
    Ok(ExitCode::SUCCESS)
}

/// Does what an operator's command says.
pub(crate) async fn administer(config: &Config, command: admin::Command) -> anyhow::Result<ExitCode> {
    admin::run(command, &database_options(config)?).await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs until stopped.
pub(crate) async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let lifecycle = Lifecycle::new();
    let registry = Registry::new("natter-persister");
    let instance = InstanceId::random();
    let listener = match config.persister.http_listen {
        Some(address) => Some(listen::bind(address, "NATTER_PERSISTER__HTTP_LISTEN").await?),
        None => None,
    };
    let broker: Arc<dyn Broker> = NatsBroker::connect(config.nats_options(), Role::Persister, instance).await?;
    let (ready, is_ready) = watch::channel(false);
    if let Some(listener) = listener {
        tracing::info!(address = %listener.local_addr()?, "health_listening");
        let missing = missing(Arc::clone(&broker), is_ready);
        lifecycle.spawn_critical("health", health::serve(listener, registry.clone(), missing, lifecycle.soft.clone()));
    }
    let drain = config.gateway.drain_timeout;
    lifecycle.spawn_critical("persister", persist(config, broker, instance, registry, ready, lifecycle.soft.clone()));
    Ok(lifecycle.run_until_stopped(drain).await)
}

/// Waits for the database, brings it up to date, and works.
async fn persist(
    config: Config,
    broker: Arc<dyn Broker>,
    instance: InstanceId,
    registry: Registry,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let options = Options::of(&config, database_options(&config)?);
    let shards = broker.shards().count();
    let Some(connections) = Connections::open(&options.database, shards, &stop).await else { return Ok(()) };
    let metrics = registry.register(natter_persister::Metrics::register);
    natter_persister::run(broker, connections, options, instance, stop, ready, metrics).await?;
    Ok(())
}

fn missing(broker: Arc<dyn Broker>, is_ready: watch::Receiver<bool>) -> Missing {
    Arc::new(move || match (broker.status().borrow().connected, *is_ready.borrow()) {
        (false, _) => vec!["broker"],
        // Its own word: the database answers, and each shard has its log.
        (true, false) => vec!["persister"],
        (true, true) => Vec::new(),
    })
}

fn database_options(config: &Config) -> anyhow::Result<DatabaseOptions> {
    let url = config.database.url.as_ref().context("database.url is not set")?.expose().to_owned();
    Ok(DatabaseOptions { url, max_connections: config.database.max_connections, ..DatabaseOptions::default() })
}
