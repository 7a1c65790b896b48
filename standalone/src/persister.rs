//! The persister's side of the process.

use std::sync::Arc;

use anyhow::Context;
use natter_persister::{Connections, DatabaseOptions, Options};
use natter_shared::{broker::Broker, config::Config, id::InstanceId, telemetry::metrics::Registry};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The database, as the config says.
pub(crate) fn database(config: &Config) -> anyhow::Result<DatabaseOptions> {
    let url = config.database.url.as_ref().context("database.url is not set")?.expose().to_owned();
    Ok(DatabaseOptions { url, max_connections: config.database.max_connections, ..DatabaseOptions::default() })
}

/// Waits for the database and works until stopped.
pub(crate) async fn run(
    config: Config,
    broker: Arc<dyn Broker>,
    registry: Registry,
    holder: InstanceId,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // Over NATS others may go on.
    let options = Options { apply_all: config.nats.url.is_none(), ..Options::of(&config, database(&config)?) };
    let shards = broker.shards().count();
    let Some(connections) = Connections::open(&options.database, shards, &stop).await else { return Ok(()) };
    let metrics = registry.register(natter_persister::Metrics::register);
    natter_persister::run(broker, connections, options, holder, stop, ready, metrics).await?;
    Ok(())
}
