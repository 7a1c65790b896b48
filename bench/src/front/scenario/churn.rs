//! Connections that come and go.

use super::{Against, Figure, Scenario, median, worst};

const FIGURES: &[Figure] = &[
    median("sign-ins/s", "/cycles_per_s", 0),
    median("join p50, ms", "/join_p50_ms", 2),
    median("join p99, ms", "/join_p99_ms", 2),
    median("gateway, µs CPU per sign-in", "/costs/gateway/us_each", 1),
    median("persister, µs", "/costs/persister/us_each", 1),
    median("NATS, µs", "/costs/nats/us_each", 1),
    median("PostgreSQL, µs", "/costs/postgres/us_each", 1),
    median("all of these, µs", "/server_us_each", 1),
    worst("failed (most)", "/failed"),
];

/// The scenario.
pub(super) const CHURN: Scenario = Scenario {
    name: "churn",
    about: "100 connections at a time sign in, join a room, close and come again",
    load: &["churn", "--n", "100", "--seconds", "5"],
    figures: FIGURES,
    against: Against::Limit,
};
