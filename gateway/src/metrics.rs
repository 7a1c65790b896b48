//! What the gateway counts.

use natter_shared::{frame::CloseCode, telemetry::metrics::Registry};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::limit::Limit;

/// Labels of a close.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloseLabels {
    code: u16,
}

/// Labels of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ShardLabels {
    shard: u16,
}

/// Labels of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabels {
    limit: &'static str,
}

fn canary_histogram() -> Histogram {
    Histogram::new([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0])
}

/// The gateway's metrics.
pub struct Metrics {
    registry: Registry,
    /// TCP connections open, WebSockets among them.
    pub sockets: Gauge,
    /// WebSocket connections open.
    pub connections: Gauge,
    /// Resident memory of the process, in bytes.
    pub memory: Gauge,
    /// Sessions signed in.
    pub sessions: Gauge,
    /// Groups followed.
    pub groups: Gauge,
    /// Frames written to sockets by delivery.
    pub deliveries: Counter,
    /// Messages acknowledged to their senders.
    pub accepted: Counter,
    /// Gaps found in live delivery.
    pub gaps: Counter,
    /// Times a client had to be told to load anew.
    pub resets: Counter,
    /// Recoveries from SQL and stream.
    pub recoveries: Counter,
    refused: Family<LimitLabels, Counter>,
    closes: Family<CloseLabels, Counter>,
    /// From a canary's publish to its arrival, in seconds.
    pub canary: Family<ShardLabels, Histogram>,
}

impl Metrics {
    /// Registers all of them.
    pub fn new(registry: &Registry) -> Self {
        let metrics = Self {
            sockets: Gauge::default(),
            connections: Gauge::default(),
            memory: Gauge::default(),
            sessions: Gauge::default(),
            groups: Gauge::default(),
            deliveries: Counter::default(),
            accepted: Counter::default(),
            gaps: Counter::default(),
            resets: Counter::default(),
            recoveries: Counter::default(),
            refused: Family::default(),
            closes: Family::default(),
            canary: Family::new_with_constructor(canary_histogram),
            registry: registry.clone(),
        };
        // Each of them from the start on: what is not there yet cannot be alarmed on.
        for limit in Limit::ALL {
            drop(metrics.refused.get_or_create(&LimitLabels { limit: limit.key() }));
        }
        registry.register(|r| {
            r.register("natter_gateway_sockets", "TCP connections open, WebSockets among them", metrics.sockets.clone());
            r.register("natter_gateway_memory_bytes", "Resident memory of the process", metrics.memory.clone());
            r.register("natter_gateway_connections", "WebSocket connections open", metrics.connections.clone());
            r.register("natter_gateway_sessions", "Sessions signed in", metrics.sessions.clone());
            r.register("natter_gateway_groups", "Groups followed", metrics.groups.clone());
            r.register("natter_gateway_deliveries", "Frames written by delivery", metrics.deliveries.clone());
            r.register("natter_gateway_accepted", "Messages acknowledged to their senders", metrics.accepted.clone());
            r.register("natter_gateway_gaps", "Gaps found in live delivery", metrics.gaps.clone());
            r.register("natter_gateway_resets", "Resets told to clients", metrics.resets.clone());
            r.register("natter_gateway_recoveries", "Recoveries from SQL and stream", metrics.recoveries.clone());
            r.register("natter_gateway_refused", "Connections, frames and calls refused, by the limit (limits.…)", metrics.refused.clone());
            r.register("natter_gateway_closes", "Closes begun here, by code", metrics.closes.clone());
            r.register("natter_gateway_canary_seconds", "From a canary's publish to its arrival", metrics.canary.clone());
        });
        metrics
    }

    /// Counts a close that we began.
    pub fn closed(&self, code: CloseCode) {
        if let Some(limit) = Limit::of_close(code) {
            self.refused(limit);
        }
        self.closes.get_or_create(&CloseLabels { code: code.number() }).inc();
    }

    /// Counts what a limit refused.
    pub fn refused(&self, limit: Limit) {
        self.refused.get_or_create(&LimitLabels { limit: limit.key() }).inc();
    }

    /// Notes how long a canary took.
    pub fn canary(&self, shard: u16, seconds: f64) {
        self.canary.get_or_create(&ShardLabels { shard }).observe(seconds);
    }

    /// In the OpenMetrics text format.
    pub fn encode(&self) -> String {
        self.registry.encode().unwrap_or_default()
    }
}
