//! Everybody loses the connection, and comes back.

use super::{Against, Figure, Scenario, median, worst};

/// Clients.
pub(in super::super) const CLIENTS: usize = 10_000;

/// Groups of each.
pub(in super::super) const GROUPS: usize = 20;

/// Members of a group.
pub(in super::super) const MEMBERS: usize = 20;

const FIGURES: &[Figure] = &[
    median("back, with all they missed", "/back", 0),
    median("seconds until all were", "/all_back_s", 2),
    median("p50, ms", "/back_p50_ms", 0),
    median("p99, ms", "/back_p99_ms", 0),
    median("messages missed", "/expected", 0),
    median("gateways, µs CPU per client", "/costs/gateway/us_each", 1),
    median("persister, µs", "/costs/persister/us_each", 1),
    median("NATS, µs", "/costs/nats/us_each", 1),
    median("PostgreSQL, µs", "/costs/postgres/us_each", 1),
    worst("turned away, and again (most)", "/again"),
    worst("groups not told in full (most)", "/unrecovered"),
    worst("lost (most)", "/lost"),
    worst("doubled (most)", "/duplicates"),
    worst("out of order (most)", "/out_of_order"),
];

/// The scenario.
pub(in super::super) const HERD: Scenario = Scenario {
    name: "herd",
    about: "10,000 clients in 20 groups of 20 each are lost and come back at once; 1 group of 100 has gone on by 10 messages",
    load: &["herd", "--n", "10000", "--groups", "20", "--members", "20", "--one-of", "100", "--messages", "10"],
    figures: FIGURES,
    against: Against::Herd(&[1, 2]),
};
