//! What tests of several parts stand on: a gateway that is made like any other, over a broker of the test's.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod fake_broker;

use std::{sync::Arc, time::Duration};

use natter_shared::{broker::Broker, config::Config, id::InstanceId, lifecycle::Lifecycle, telemetry::metrics::Registry};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::fake_broker::{API_KEY, FakeBroker, membership, profile};
use crate::{
    app::{App, AppParts},
    memory::Memory,
    metrics::Metrics,
    standings::Standings,
};

/// A gateway over `broker`, with nothing in front of it, that lets everybody in.
pub(crate) fn app(
    broker: Arc<dyn Broker>,
    mut config: Config,
    memory: &Arc<Memory>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Arc<App> {
    config.gateway.interest_linger = Duration::ZERO;
    let mut lifecycle = Lifecycle::new();
    (lifecycle.tasks, lifecycle.hard) = (tasks.clone(), stop.clone());
    let parts = AppParts {
        instance: InstanceId::random(),
        broker,
        config,
        database: None,
        metrics: Arc::new(Metrics::new(&Registry::new("test"))),
        memory: Arc::clone(memory),
        lifecycle,
        stop: stop.clone(),
    };
    Arc::new(App { standings: Standings::of_nobody(), ..App::new(parts).unwrap() })
}
