//! Connections that do nothing.

use super::{Against, Figure, Scenario, median, worst};

const FIGURES: &[Figure] = &[
    median("connected", "/connected", 0),
    median("connects/s", "/connects_per_s", 0),
    median("join p50, ms", "/join_p50_ms", 2),
    median("join p99, ms", "/join_p99_ms", 2),
    median("gateway, bytes (Pss) per connection", "/costs/gateway/pss_bytes_each", 0),
    median("gateway, MB", "/costs/gateway/pss_mb", 1),
    median("persister, MB", "/costs/persister/pss_mb", 1),
    median("NATS, MB", "/costs/nats/pss_mb", 1),
    median("PostgreSQL, MB", "/costs/postgres/pss_mb", 1),
    median("gateway, µs CPU per connect", "/costs/gateway/us_each", 1),
    median("persister, µs", "/costs/persister/us_each", 1),
    median("NATS, µs", "/costs/nats/us_each", 1),
    median("PostgreSQL, µs", "/costs/postgres/us_each", 1),
    median("gateway, cores while idle", "/idle/gateway", 4),
    median("all of these, cores while idle", "/idle_cores", 4),
    worst("failed (most)", "/failed"),
];

/// The scenario.
pub(super) const IDLE: Scenario = Scenario {
    name: "idle",
    about: "10,000 connections, each in 3 open groups of 20 members, that only stay",
    load: &["idle", "--n", "10000", "--groups", "3", "--seconds", "5"],
    figures: FIGURES,
    against: Against::Limit,
};
