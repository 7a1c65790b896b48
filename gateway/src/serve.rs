//! The gateway's life: everything started, connections accepted, and on the way out clients told
//! to go elsewhere, in paced batches.

use std::sync::Arc;

use dashmap::DashMap;
use natter_shared::{broker::Broker, config::Config, id::InstanceId, lifecycle::Lifecycle, telemetry::metrics::Registry};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accept::{self, Server},
    admission::Admission,
    app::App,
    auth::{Authenticator, AuthenticatorError},
    connections::Connections,
    delivery::Hub,
    drain,
    health::Health,
    http::{
        self,
        team_pages::{PagesError, TeamPages},
    },
    knowledge::Knowledge,
    memory::Memory,
    metrics::Metrics,
    open_files,
    publish::Intake,
    rates::Rates,
    refusals::Refusals,
    session::{FirstJoins, SignIns, Together},
    socket::ReadLimits,
    standings::Standings,
};

/// What a gateway is made of.
pub struct Gateway {
    /// Bound already.
    pub listener: TcpListener,
    /// Everything behind it.
    pub broker: Arc<dyn Broker>,
    /// As validated.
    pub config: Config,
    /// This process.
    pub instance: InstanceId,
    /// Whether the persister of the same process is ready, its database among other things: what one elsewhere says by its own
    /// `/readyz`.
    pub database: Option<watch::Receiver<bool>>,
    /// Where its metrics go.
    pub registry: Registry,
    /// When it ends.
    pub lifecycle: Lifecycle,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The config's issuers cannot be used.
    #[error(transparent)]
    Authenticator(#[from] AuthenticatorError),
    /// The team's own pages cannot be used.
    #[error(transparent)]
    Pages(#[from] PagesError),
}

/// Serves until the lifecycle's soft token, then drains ([`crate::drain`]).
///
/// # Errors
/// Where the config's issuers or the team's own pages cannot be used.
pub async fn run(gateway: Gateway) -> Result<(), StartError> {
    let Gateway { listener, broker, mut config, instance, database, registry, lifecycle } = gateway;
    config.limits.connections = open_files::bound(config.limits.connections);
    let auth = Authenticator::from_config(&config.auth)?;
    let pages = TeamPages::of_config(&config.http)?;
    let metrics = Arc::new(Metrics::new(&registry));
    let memory = Arc::new(Memory::new(config.limits.memory_bytes));
    // Delivery goes on until the last session has left.
    let stop = CancellationToken::new();
    let tasks = lifecycle.tasks.clone();
    auth.keep_keys(&tasks, &stop);
    let linger = config.gateway.interest_linger;
    let knowledge = Arc::new(Knowledge::new(broker.shards()));
    let hub = Hub::start(Arc::clone(&broker), &config.limits, linger, Arc::clone(&metrics), Arc::clone(&knowledge), &tasks, &stop);
    let intake = Intake::new(broker.shards(), Arc::clone(&metrics));
    let sign_ins = SignIns::new(Arc::clone(&broker), tasks.clone(), config.limits.sign_ins);
    let joins = Together::new(Arc::clone(&broker), tasks.clone(), config.limits.sign_ins);
    let first_joins = FirstJoins::new(&broker, &tasks, config.limits.sign_ins);
    let app = Arc::new(App {
        instance,
        broker,
        intake,
        auth,
        rates: Rates::new(&config.limits),
        pages,
        hub,
        sessions: DashMap::new(),
        connections: Connections::new(&config.limits),
        sign_ins,
        joins,
        first_joins,
        admission: Admission::new(&config.limits, Arc::clone(&memory), Arc::clone(&metrics)),
        read_limits: Arc::new(ReadLimits::new(&config.limits)),
        metrics,
        health: Health::default(),
        database,
        knowledge,
        standings: Standings::default(),
        tasks: tasks.clone(),
        closing: CancellationToken::new(),
        hard: lifecycle.hard.clone(),
        config,
    });
    let (of_memory, watching) = (Arc::clone(&app.metrics), stop.clone());
    tasks.spawn(async move { memory.watch(of_memory, watching).await });
    let (watched, watching) = (Arc::clone(&app), stop.clone());
    tasks.spawn(async move { watched.health.watch(&*watched.broker, &watched.metrics, &watched.knowledge, watching).await });
    let (keeper, keeping) = (Arc::clone(&app), stop.clone());
    tasks.spawn(async move { keeper.keep_standings(keeping).await });
    let (watched, watching) = (Arc::clone(&app), stop.clone());
    tasks.spawn(async move { watched.intake.watch(Arc::clone(&watched.broker), watching).await });
    let connections = TaskTracker::new();
    let server = Server {
        router: http::router(Arc::clone(&app)),
        app: Arc::clone(&app),
        refusals: Refusals::default(),
        tasks: connections.clone(),
        soft: app.closing.clone(),
        hard: lifecycle.hard.clone(),
    };
    tokio::select! {
        () = accept::accept(&listener, &server) => {}
        () = drain::announce(&app, &lifecycle) => {}
    }
    drop(listener);
    tokio::select! {
        () = async {
            drain::drain(&app).await;
            // Requests under way still need what is behind.
            connections.close();
            connections.wait().await;
        } => {}
        () = lifecycle.hard.cancelled() => {}
    }
    stop.cancel();
    Ok(())
}
