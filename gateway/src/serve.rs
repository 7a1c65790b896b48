//! The gateway's life: everything started, connections accepted, and on the way out clients told
//! to go elsewhere, in paced batches.

use std::sync::Arc;

use natter_shared::{broker::Broker, config::Config, id::InstanceId, lifecycle::Lifecycle, telemetry::metrics::Registry};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accept::{self, Server},
    app::{App, AppParts, StartError},
    drain, http,
    memory::Memory,
    metrics::Metrics,
    open_files,
    refusals::Refusals,
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

/// Serves until the lifecycle's soft token, then drains ([`crate::drain`]).
///
/// # Errors
/// Where the config's issuers or the team's own pages cannot be used.
pub async fn run(gateway: Gateway) -> Result<(), StartError> {
    let Gateway { listener, broker, mut config, instance, database, registry, lifecycle } = gateway;
    config.limits.connections = open_files::bound(config.limits.connections);
    let metrics = Arc::new(Metrics::new(&registry));
    let memory = Arc::new(Memory::new(config.limits.memory_bytes));
    // Delivery goes on until the last session has left.
    let stop = CancellationToken::new();
    let (of_app, until) = (lifecycle.clone(), stop.clone());
    let parts = AppParts { instance, broker, config, database, metrics, memory: Arc::clone(&memory), lifecycle: of_app, stop: until };
    let app = Arc::new(App::new(parts)?);
    watch(&app, memory, &lifecycle, &stop);
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

/// Starts what looks after the gateway until `stop`.
fn watch(app: &Arc<App>, memory: Arc<Memory>, lifecycle: &Lifecycle, stop: &CancellationToken) {
    app.auth.keep_keys(&app.tasks, stop);
    let (of_memory, watching) = (Arc::clone(&app.metrics), stop.clone());
    app.tasks.spawn(async move { memory.watch(of_memory, watching).await });
    let (watched, watching) = (Arc::clone(app), stop.clone());
    lifecycle.spawn_vital("health", async move {
        watched.health.watch(&*watched.broker, &watched.metrics, &watched.knowledge, watching).await;
    });
    let (keeper, keeping) = (Arc::clone(app), stop.clone());
    lifecycle.spawn_vital("standings", async move { keeper.keep_standings(keeping).await });
    let (teller, telling) = (Arc::clone(app), stop.clone());
    lifecycle.spawn_vital("time", async move { teller.tell_time(telling).await });
    let (watched, watching) = (Arc::clone(app), stop.clone());
    lifecycle.spawn_vital("intake", async move { watched.intake.watch(Arc::clone(&watched.broker), watching).await });
}
