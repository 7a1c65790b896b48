//! The persister's side of the process.

use std::sync::Arc;

use anyhow::Context;
use natter_persister::{DatabaseOptions, Options};
use natter_shared::{broker::Broker, config::Config, id::InstanceId, telemetry::metrics::Registry};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::folder::DataFolder;

/// As whom the persister holds its leases. Over the built-in broker a folder has one persister at a
/// time, its lock sees to that: the next one is the same, and need not wait for the lease of one that
/// was killed.
pub(crate) fn holder(config: &Config, folder: &DataFolder) -> InstanceId {
    if config.nats.url.is_some() {
        return InstanceId::random();
    }
    let path = folder.path().canonicalize().unwrap_or_else(|_| folder.path().to_owned());
    InstanceId(Uuid::new_v5(&Uuid::NAMESPACE_URL, path.as_os_str().as_encoded_bytes()))
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
    let url = config.database.url.as_ref().context("database.url is not set")?.expose().to_owned();
    let database = DatabaseOptions { url, max_connections: config.database.max_connections, ..DatabaseOptions::default() };
    let options = Options::of(&config, database);
    let Some(database) = natter_persister::connect_with_retry(&options.database, &stop).await else { return Ok(()) };
    let metrics = registry.register(natter_persister::Metrics::register);
    natter_persister::run(broker, database, options, holder, stop, ready, metrics).await?;
    Ok(())
}
