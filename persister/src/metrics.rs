//! What the persister measures of itself.

use std::{sync::Arc, time::Duration};

use natter_shared::{broker::Unapplied, position::Position, subject::Shard};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ShardLabel {
    shard: u16,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NameLabel {
    name: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// How the reasons of dead letters begin, before a colon.
const REASONS: [&str; 7] = ["undecodable", "wrong_topic", "unknown_group", "nonce_reused", "nul_character", "taken", REFUSED];

/// The database does not take it.
const REFUSED: &str = "refused";

/// What the persister measures; cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    applied: Family<ShardLabel, Gauge>,
    epoch: Family<ShardLabel, Gauge>,
    lag: Family<ShardLabel, Gauge>,
    unapplied: Family<ShardLabel, Gauge>,
    batch: Histogram,
    commit: Histogram,
    rows: Family<KindLabel, Counter>,
    retired: Family<KindLabel, Counter>,
    dead_letters: Family<ReasonLabel, Counter>,
    rewinds: Counter,
    retries: Counter,
    calls: Family<NameLabel, Counter>,
    call_errors: Family<NameLabel, Counter>,
    call_seconds: Histogram,
}

impl Metrics {
    /// Adds the persister's metrics to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("natter_persister");
        let inner = Inner {
            applied: Family::default(),
            epoch: Family::default(),
            lag: Family::default(),
            unapplied: Family::default(),
            batch: Histogram::new(exponential_buckets(1.0, 4.0, 7)),
            commit: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
            rows: Family::default(),
            retired: Family::default(),
            dead_letters: Family::default(),
            rewinds: Counter::default(),
            retries: Counter::default(),
            calls: Family::default(),
            call_errors: Family::default(),
            call_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
        };
        registry.register("applied_seq", "Sequence projected into SQL", inner.applied.clone());
        registry.register("applied_epoch", "Epoch projected into SQL", inner.epoch.clone());
        registry.register("lag_milliseconds", "Age of the last event projected, when it was", inner.lag.clone());
        registry.register("unapplied_bytes", "Bytes of the log that are not in SQL yet", inner.unapplied.clone());
        registry.register("batch_events", "Events in a batch", inner.batch.clone());
        registry.register("commit_seconds", "Time to plan and commit a batch", inner.commit.clone());
        registry.register("rows", "Rows written, by kind", inner.rows.clone());
        registry.register("retired_rows", "Rows deleted by retention, by kind", inner.retired.clone());
        registry.register("dead_letters", "Events that could not be applied, by reason", inner.dead_letters.clone());
        // Each is there from the start: what begins at 1 never grew.
        for reason in REASONS {
            drop(inner.dead_letters.get_or_create(&ReasonLabel { reason }));
        }
        registry.register("rewinds", "Logs found rewound", inner.rewinds.clone());
        registry.register("retries", "Batches tried again because the database or broker was away", inner.retries.clone());
        registry.register("rpc", "Calls answered, by name", inner.calls.clone());
        registry.register("rpc_errors", "Calls answered with an error, by name", inner.call_errors.clone());
        registry.register("rpc_seconds", "Time to answer a call", inner.call_seconds.clone());
        Self(Arc::new(inner))
    }

    pub(crate) fn applied(&self, shard: Shard, position: Position) {
        let label = ShardLabel { shard: shard.0 };
        self.0.applied.get_or_create(&label).set(position.seq as i64);
        self.0.epoch.get_or_create(&label).set(i64::from(position.epoch.0));
    }

    /// The shard is worked on elsewhere: what was measured of it here is old.
    pub(crate) fn left(&self, shard: Shard) {
        let label = ShardLabel { shard: shard.0 };
        for gauge in [&self.0.applied, &self.0.epoch, &self.0.lag, &self.0.unapplied] {
            gauge.remove(&label);
        }
    }

    pub(crate) fn unapplied(&self, shard: Shard, unapplied: Unapplied) {
        self.0.unapplied.get_or_create(&ShardLabel { shard: shard.0 }).set(i64::try_from(unapplied.bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn batch(&self, shard: Shard, events: usize, took: Duration, lag: Duration) {
        self.0.batch.observe(events as f64);
        self.0.commit.observe(took.as_secs_f64());
        self.0.lag.get_or_create(&ShardLabel { shard: shard.0 }).set(lag.as_millis() as i64);
    }

    pub(crate) fn rows(&self, kind: &'static str, rows: usize) {
        if rows > 0 {
            self.0.rows.get_or_create(&KindLabel { kind }).inc_by(rows as u64);
        }
    }

    pub(crate) fn retired(&self, kind: &'static str, rows: u64) {
        self.0.retired.get_or_create(&KindLabel { kind }).inc_by(rows);
    }

    /// Counts a dead letter. Returns the reason it is counted under.
    pub(crate) fn dead_letter(&self, reason: &str) -> &'static str {
        let begins = |known: &&str| reason.split(':').next() == Some(known);
        let reason = REASONS.into_iter().find(begins).unwrap_or(REFUSED);
        self.0.dead_letters.get_or_create(&ReasonLabel { reason }).inc();
        reason
    }

    pub(crate) fn rewound(&self) {
        self.0.rewinds.inc();
    }

    pub(crate) fn retried(&self) {
        self.0.retries.inc();
    }

    pub(crate) fn call(&self, name: &'static str, took: Duration, failed: bool) {
        let label = NameLabel { name: name.to_owned() };
        self.0.calls.get_or_create(&label).inc();
        self.0.call_seconds.observe(took.as_secs_f64());
        if failed {
            self.0.call_errors.get_or_create(&label).inc();
        }
    }
}
