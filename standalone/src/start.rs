//! The whole of Natter in one process: first what can fail for reasons a person has to mend (address,
//! folder, key, log), then the persister and the gateway as tasks over one broker.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use natter_gateway::Gateway;
use natter_shared::{
    broker::{
        Broker,
        embedded::EmbeddedBroker,
        nats::{NatsBroker, Role},
    },
    config::{Config, DATABASE_FILE},
    id::InstanceId,
    lifecycle::{Lifecycle, Signals},
    listen,
    telemetry::metrics::Registry,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{folder::DataFolder, holder, key, moved, persister, welcome};

/// The log of the built-in broker in the data folder.
pub(crate) const LOG_FILE: &str = "events.db";

/// Runs until stopped.
pub(crate) async fn run(mut config: Config) -> anyhow::Result<ExitCode> {
    // Before all that takes time: of a container's first process the system ends none that does not listen for it.
    let mut signals = Signals::listen().context("SIGTERM and SIGINT")?;
    let listener = listen::bind(config.http.listen, "NATTER_HTTP__LISTEN").await?;
    let listening = listener.local_addr()?;
    let folder = DataFolder::open(&config.data_dir)?;
    if config.auth.secret.is_none() {
        config.auth.secret = Some(key::load_or_make(&folder)?);
    }
    if config.has_own_database() {
        folder.private_file(DATABASE_FILE)?;
    }
    let instance = InstanceId::random();
    let brokers = tokio::select! {
        opened = Brokers::open(&config, &folder, instance) => opened?,
        Some(signal) = signals.received.recv() => {
            tracing::info!(signal, "stopped_at_start");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let registry = Registry::new("natter");
    let lifecycle = Lifecycle::new();

    if let Some(log) = brokers.log {
        let stopping = lifecycle.soft.clone();
        lifecycle.spawn_vital("log", async move {
            stopping.run_until_cancelled(log.ended()).await;
        });
    }

    // The persister goes on until the gateway's last session has left: what that sends is answered.
    let drained = CancellationToken::new();
    let holder = if config.nats.url.is_some() { InstanceId::random() } else { holder::load_or_make(&folder)? };
    let (ready, database) = watch::channel(false);
    let stopping = lifecycle.soft.clone();
    let persister = persister::run(config.clone(), brokers.persister, registry.clone(), holder, ready, drained.clone(), stopping);
    lifecycle.spawn_critical("persister", persister);

    // It works as well where nobody can read it.
    let _ = writeln!(io::stdout(), "{}", welcome::text(&config, listening, &folder.path().display().to_string()));
    let drain = config.gateway.drain_timeout;
    let gateway = natter_gateway::run(Gateway {
        listener,
        broker: brokers.gateway,
        config,
        instance,
        database: Some(database),
        registry,
        lifecycle: lifecycle.clone(),
    });
    lifecycle.spawn_critical("gateway", async move {
        let ended = gateway.await;
        drained.cancel();
        ended
    });
    Ok(lifecycle.run_until(&mut signals.received, drain).await)
}

/// The two sides' brokers: the same one where it is built in.
struct Brokers {
    gateway: Arc<dyn Broker>,
    persister: Arc<dyn Broker>,
    /// The one that is built in.
    log: Option<Arc<EmbeddedBroker>>,
}

impl Brokers {
    async fn open(config: &Config, folder: &DataFolder, instance: InstanceId) -> anyhow::Result<Self> {
        if config.nats.url.is_some() {
            moved::check(config, folder).await?;
            let gateway = NatsBroker::connect(config.nats_options(), Role::Gateway, instance).await?;
            let persister = NatsBroker::connect(config.nats_options(), Role::Persister, InstanceId::random()).await?;
            return Ok(Self { gateway, persister, log: None });
        }
        let path = folder.private_file(LOG_FILE)?;
        let opened = EmbeddedBroker::open(&path, config.embedded_options()).await;
        let broker = opened.with_context(|| format!("the log {}", path.display()))?;
        Ok(Self { gateway: broker.clone(), persister: broker.clone(), log: Some(broker) })
    }
}
