//! Messages as fast as they are accepted, and what the streams alone take.

use super::{Against, Figure, NOT_IN_SQL, Scenario, median, worst};

/// Groups, with one connection each: so many messages are on their way to the streams at most, for those
/// of one connection to one group go one after another.
pub(in super::super) const LANES: usize = 1000;

/// How long it takes.
pub(in super::super) const SECONDS: u64 = 5;

const FIGURES: &[Figure] = &[
    median("accepted/s", "/accepted_per_s", 0),
    median("reply p50, ms", "/p50_ms", 2),
    median("reply p99, ms", "/p99_ms", 2),
    median("gateway, µs CPU per message", "/costs/gateway/us_each", 1),
    median("persister, µs", "/costs/persister/us_each", 1),
    median("NATS, µs", "/costs/nats/us_each", 1),
    median("PostgreSQL, µs", "/costs/postgres/us_each", 1),
    worst("refused (most)", "/refused"),
    worst("unanswered (most)", "/unanswered"),
    NOT_IN_SQL,
];

/// The scenario.
pub(super) const PUBLISH: Scenario = Scenario {
    name: "publish",
    about: "1,000 connections, each with a group of its own and 4 messages that wait for their replies",
    load: &["publish", "--n", "1000", "--groups", "1000", "--in-flight", "4", "--seconds", "5"],
    figures: FIGURES,
    against: Against::Broker,
};
