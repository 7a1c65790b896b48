//! The persister's side of the process.

use std::sync::Arc;

use anyhow::Context;
use natter_persister::{DatabaseOptions, Options};
use natter_shared::{broker::Broker, config::Config, id::InstanceId, telemetry::metrics::Registry};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Waits for the database, brings it up to date, and works until stopped.
pub(crate) async fn run(config: Config, broker: Arc<dyn Broker>, registry: Registry, stop: CancellationToken) -> anyhow::Result<()> {
    let url = config.database.url.as_ref().context("database.url is not set")?.expose().to_owned();
    let options = Options {
        open_groups: config.groups.open,
        batch: config.persister.batch,
        lease_ttl: config.persister.lease_ttl,
        rpc_concurrency: config.persister.rpc_concurrency,
        database: DatabaseOptions { url, max_connections: config.database.max_connections, ..DatabaseOptions::default() },
        ..Options::default()
    };
    let Some(database) = natter_persister::connect_with_retry(&options.database, &stop).await else { return Ok(()) };
    natter_persister::migrate(&database).await.context("the schema could not be brought up to date")?;
    let metrics = registry.register(natter_persister::Metrics::register);
    // Whether it is ready the gateway finds out by asking it, as everywhere.
    let (ready, _) = watch::channel(false);
    natter_persister::run(broker, database, options, InstanceId::random(), stop, ready, metrics).await?;
    Ok(())
}
