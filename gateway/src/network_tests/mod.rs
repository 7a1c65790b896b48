//! The gateway's edge over real sockets, with nothing behind it: what stands between the network
//! and a session. The judges of the WebSocket protocol talk to an echo.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod autobahn;
mod closing;
mod framing;
mod http_limits;
mod raw;
mod socket_limits;
mod utf8;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use natter_shared::config::{Config, Secret};
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    accept::{self, Server},
    app::App,
    http::{self, upgrade},
    memory::Memory,
    refusals::Refusals,
    testing::{self, FakeBroker},
};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway on loopback that ends with this value.
pub(crate) struct Edge {
    addr: SocketAddr,
    pub(crate) app: Arc<App>,
    pub(crate) broker: Arc<FakeBroker>,
    memory: Arc<Memory>,
    _ends: DropGuard,
}

impl Edge {
    pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.auth.secret = Some(Secret::new("0123456789abcdef0123456789abcdef"));
        config.limits.memory_bytes = 1 << 60;
        change(&mut config);
        let memory = Arc::new(Memory::new(config.limits.memory_bytes));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let broker = Arc::new(FakeBroker::default());
        let app = testing::app(Arc::clone(&broker) as _, config, &memory, &tasks, &stop);
        let router = http::router(Arc::clone(&app)).merge(upgrade::echo_routes(Arc::clone(&app)));
        let refusals = Refusals::default();
        let server = Server { app: Arc::clone(&app), router, refusals, tasks, soft: stop.clone(), hard: stop.clone() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { accept::accept(&listener, &server).await });
        Self { addr, app, broker, memory, _ends: stop.drop_guard() }
    }

    /// How often a limit has refused.
    pub(crate) fn refused(&self, limit: &str) -> u64 {
        self.metric(&format!("natter_gateway_refused_total{{limit=\"{limit}\"}}"))
    }

    fn metric(&self, name: &str) -> u64 {
        let metrics = self.app.metrics.encode();
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
    }
}
