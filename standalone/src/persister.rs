//! The persister's side of the process.

use std::{sync::Arc, time::Duration};

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

/// Of `gateway.drain_timeout`, what is left to it to end in when it gives up what is not applied.
const TO_END: Duration = Duration::from_secs(1);

/// Waits for the database and works until `stop`, and ends soon after `stopping`, which is cancelled when the process begins to.
pub(crate) async fn run(
    config: Config,
    broker: Arc<dyn Broker>,
    registry: Registry,
    holder: InstanceId,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    // Over NATS others may go on.
    let hurry = config.nats.url.is_none().then(CancellationToken::new);
    let options = Options { apply_all: hurry.clone(), ..Options::of(&config, database(&config)?) };
    let shards = broker.shards().count();
    let Some(connections) = Connections::open(&options.database, shards, &stop).await else { return Ok(()) };
    let metrics = registry.register(natter_persister::Metrics::register);
    let left = config.gateway.drain_timeout.saturating_sub(TO_END);
    let hurrying = async {
        stopping.cancelled().await;
        tokio::time::sleep(left).await;
        hurry.inspect(CancellationToken::cancel);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = natter_persister::run(broker, connections, options, holder, stop, ready, metrics) => Ok(ended?),
        () = hurrying => Ok(()),
    }
}
