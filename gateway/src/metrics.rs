//! What the gateway counts.

use std::sync::atomic::{AtomicU64, Ordering};

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

/// Why somebody was answered `busy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// The connection's own window is full (`limits.in_flight_sends`).
    Connection,
    /// The gateway's is (`nats.in_flight`).
    Gateway,
    /// Too much of the shard's log is not in SQL.
    Shard,
    /// It came behind one that has to be sent again.
    Order,
}

impl Busy {
    fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Gateway => "gateway",
            Self::Shard => "shard",
            Self::Order => "order",
        }
    }
}

/// Labels of a `busy`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BusyLabels {
    reason: &'static str,
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
    /// Resident memory of the process without mapped files, in bytes.
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
    /// Topics whose delivery was held back after an interruption.
    pub holds: Counter,
    /// Those of which no check came in time.
    pub hold_timeouts: Counter,
    /// Recoveries from SQL and stream.
    pub recoveries: Counter,
    refused: Family<LimitLabels, Counter>,
    /// Sessions ended because their users were blocked or their tokens revoked.
    pub revoked: Counter,
    /// Sessions that a fresh token extended.
    pub refreshed: Counter,
    /// Memberships that had to be looked up because what was known of them was too old.
    pub looked_up: Counter,
    closes: Family<CloseLabels, Counter>,
    busy: Family<BusyLabels, Counter>,
    unapplied: Family<ShardLabels, Gauge<f64, AtomicU64>>,
    /// Events that went into their streams with others.
    stored_together: Counter,
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
            holds: Counter::default(),
            hold_timeouts: Counter::default(),
            recoveries: Counter::default(),
            refused: Family::default(),
            revoked: Counter::default(),
            refreshed: Counter::default(),
            looked_up: Counter::default(),
            closes: Family::default(),
            busy: Family::default(),
            unapplied: Family::default(),
            stored_together: Counter::default(),
            canary: Family::new_with_constructor(canary_histogram),
            registry: registry.clone(),
        };
        // Each of them from the start on: what is not there yet cannot be alarmed on.
        for limit in Limit::ALL {
            drop(metrics.refused.get_or_create(&LimitLabels { limit: limit.key() }));
        }
        registry.register(|r| {
            r.register("natter_gateway_sockets", "TCP connections open, WebSockets among them", metrics.sockets.clone());
            r.register("natter_gateway_memory_bytes", "Resident memory of the process, without mapped files", metrics.memory.clone());
            r.register("natter_gateway_connections", "WebSocket connections open", metrics.connections.clone());
            r.register("natter_gateway_sessions", "Sessions signed in", metrics.sessions.clone());
            r.register("natter_gateway_groups", "Groups followed", metrics.groups.clone());
            r.register("natter_gateway_deliveries", "Frames written by delivery", metrics.deliveries.clone());
            r.register("natter_gateway_accepted", "Messages acknowledged to their senders", metrics.accepted.clone());
            r.register("natter_gateway_gaps", "Gaps found in live delivery", metrics.gaps.clone());
            r.register("natter_gateway_resets", "Resets told to clients", metrics.resets.clone());
            r.register("natter_gateway_holds", "Topics held back until a check after an interruption", metrics.holds.clone());
            r.register("natter_gateway_hold_timeouts", "Topics held back whose check did not come in time", metrics.hold_timeouts.clone());
            r.register("natter_gateway_recoveries", "Recoveries from SQL and stream", metrics.recoveries.clone());
            r.register("natter_gateway_refused", "Connections, frames and calls refused, by the limit (limits.…)", metrics.refused.clone());
            r.register("natter_gateway_revoked", "Sessions ended by a block or a revoked token", metrics.revoked.clone());
            r.register("natter_gateway_refreshed", "Sessions extended by a fresh token", metrics.refreshed.clone());
            r.register("natter_gateway_memberships_looked_up", "Memberships known too long ago, and looked up", metrics.looked_up.clone());
            r.register("natter_gateway_closes", "Closes begun here, by code", metrics.closes.clone());
            r.register("natter_gateway_busy", "Requests answered busy, by reason", metrics.busy.clone());
            let unapplied = "What is not in SQL, as a part of what the shard's log can hold";
            r.register("natter_gateway_unapplied_ratio", unapplied, metrics.unapplied.clone());
            r.register(
                "natter_gateway_stored_together",
                "Events stored with others by one sync, as they came faster than NATS syncs",
                metrics.stored_together.clone(),
            );
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

    /// Counts somebody told to come back.
    pub fn busy(&self, reason: Busy) {
        self.busy.get_or_create(&BusyLabels { reason: reason.as_str() }).inc();
    }

    /// Notes how much of a shard's log is not in SQL.
    pub fn unapplied(&self, shard: usize, ratio: f64) {
        let shard = u16::try_from(shard).unwrap_or(u16::MAX);
        self.unapplied.get_or_create(&ShardLabels { shard }).set(ratio);
    }

    /// Notes how many events have gone together so far.
    pub fn stored_together(&self, events: u64) {
        self.stored_together.inner().store(events, Ordering::Relaxed);
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_goes_together_is_told_as_it_stands() {
        let registry = Registry::new("natter-gateway");
        let metrics = Metrics::new(&registry);
        metrics.stored_together(7);
        metrics.stored_together(9);
        assert!(registry.encode().unwrap().lines().any(|line| line == "natter_gateway_stored_together_total 9"));
    }
}
