//! A persister that was away, and what it has to catch up with.

use super::{Against, Figure, Scenario, median, worst};

/// Messages that it missed.
pub(in super::super) const ROWS: u64 = 1_000_000;

const FIGURES: &[Figure] = &[
    median("rows/s", "/rows_per_s", 0),
    median("seconds", "/seconds", 1),
    median("persister, µs CPU per row", "/costs/persister/us_each", 2),
    median("NATS, µs", "/costs/nats/us_each", 2),
    median("PostgreSQL, µs", "/costs/postgres/us_each", 2),
    median("persister, MB", "/costs/persister/pss_mb", 1),
    worst("missing (most)", "/missing"),
    worst("dead letters (most)", "/dead_letters"),
];

/// The scenario.
pub(super) const CATCH_UP: Scenario = Scenario {
    name: "catch-up",
    about: "a persister starts when 1,000,000 messages of 1,000 groups are stored that SQL does not have",
    load: &[],
    figures: FIGURES,
    against: Against::Stores,
};
