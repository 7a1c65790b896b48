//! The gateway's life: everything started, connections accepted, and on the way out clients told
//! to go elsewhere, in paced batches.

use std::{sync::Arc, time::Duration};

use dashmap::DashMap;
use natter_shared::{
    broker::Broker,
    config::Config,
    frame::{CloseCode, DrainingFrame, ServerFrame},
    id::InstanceId,
    lifecycle::Lifecycle,
    telemetry::metrics::Registry,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    accept::{self, REFUSALS, Server},
    admission::Admission,
    app::{App, Connections},
    auth::{Authenticator, AuthenticatorError},
    delivery::Hub,
    health::Health,
    http::{
        self,
        team_pages::{PagesError, TeamPages},
    },
    memory::Memory,
    metrics::Metrics,
    publish::Intake,
    session::Protocol,
    socket::{ReadLimits, wire},
};

/// Between two batches of clients told to leave.
const DRAIN_STEP: Duration = Duration::from_millis(100);

/// Clients told to leave come back after a random part of this, elsewhere.
const RETRY_WITHIN_MS: u64 = 5_000;

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

/// Serves until the lifecycle's soft token, then drains.
///
/// # Errors
/// Where the config's issuers or the team's own pages cannot be used.
pub async fn run(gateway: Gateway) -> Result<(), StartError> {
    let Gateway { listener, broker, config, instance, registry, lifecycle } = gateway;
    let auth = Authenticator::from_config(&config.auth)?;
    let pages = TeamPages::of_config(&config.http)?;
    let metrics = Arc::new(Metrics::new(&registry));
    let memory = Arc::new(Memory::new(config.limits.memory_bytes));
    // Delivery goes on until the last session has left.
    let stop = CancellationToken::new();
    let tasks = lifecycle.tasks.clone();
    auth.keep_keys(&tasks, &stop);
    let linger = config.gateway.interest_linger;
    let hub = Hub::start(Arc::clone(&broker), &config.limits, linger, Arc::clone(&metrics), &tasks, &stop);
    let intake = Intake::new(broker.shards(), Arc::clone(&metrics));
    let app = Arc::new(App {
        instance,
        broker,
        intake,
        auth,
        pages,
        hub,
        sessions: DashMap::new(),
        connections: Connections::default(),
        admission: Admission::new(&config.limits, Arc::clone(&memory), Arc::clone(&metrics)),
        read_limits: Arc::new(ReadLimits::new(&config.limits)),
        metrics,
        health: Health::default(),
        tasks: tasks.clone(),
        hard: lifecycle.hard.clone(),
        config,
    });
    let (of_memory, watching) = (Arc::clone(&app.metrics), stop.clone());
    tasks.spawn(async move { memory.watch(of_memory, watching).await });
    let watched = Arc::clone(&app);
    let watching = stop.clone();
    tasks.spawn(async move { watched.health.watch(Arc::clone(&watched.broker), Arc::clone(&watched.metrics), watching).await });
    let (watched, watching) = (Arc::clone(&app), stop.clone());
    tasks.spawn(async move { watched.intake.watch(Arc::clone(&watched.broker), watching).await });
    let server = Server {
        router: http::router(Arc::clone(&app)),
        app: Arc::clone(&app),
        refusals: Arc::new(Semaphore::new(REFUSALS)),
        tasks,
        soft: lifecycle.soft.clone(),
        hard: lifecycle.hard.clone(),
    };
    accept::accept(&listener, &server).await;
    drop(listener);
    tokio::select! {
        () = drain(&app) => {}
        () = lifecycle.hard.cancelled() => {}
    }
    stop.cancel();
    Ok(())
}

/// Tells every session to leave, so many a second, and waits until they have.
async fn drain(app: &App) {
    app.health.drain();
    let batch = (app.config.gateway.drain_rate as usize).div_ceil(10).max(1);
    loop {
        let sessions: Vec<_> = app.sessions.iter().take(batch).map(|entry| Arc::clone(entry.value())).collect();
        if sessions.is_empty() {
            return;
        }
        tracing::info!(sessions = app.sessions.len(), "draining_sessions");
        for session in sessions {
            if session.protocol == Protocol::V1 {
                let retry_after_ms = rand::random_range(0..RETRY_WITHIN_MS);
                session.outlet.push(&wire::json(&ServerFrame::Draining(DrainingFrame { retry_after_ms })), 1);
            }
            session.outlet.close(CloseCode::Restart);
            // Its loop ends by itself; it is not told twice.
            app.sessions.remove(&session.id);
        }
        tokio::time::sleep(DRAIN_STEP).await;
    }
}
