//! The same traffic where much is stored, and where nothing is.

use super::{Against, Figure, Scenario, median, worst};

/// Groups.
pub(in super::super) const GROUPS: usize = 1_000_000;

/// Messages that are stored in them.
pub(in super::super) const MESSAGES: usize = 10_000_000;

/// Messages a second to any of the groups, beside what is measured.
pub(in super::super) const TRICKLE: u32 = 500;

/// What the generator is told first, then.
pub(in super::super) const ROOMS: &[&str] = &["rooms", "--n", "2000", "--rooms", "100", "--rate", "1000", "--seconds", "5"];
/// Of users of their own.
pub(in super::super) const PUBLISH: &[&str] =
    &["publish", "--n", "1000", "--groups", "1000", "--in-flight", "4", "--seconds", "5", "--first-user", "2000"];

const FIGURES: &[Figure] = &[
    median("messages stored before", "/stored", 0),
    median("stored and in SQL, messages/s", "/filled_per_s", 0),
    median("NATS then, MB", "/filled/nats/pss_mb", 0),
    median("NATS after a rest, MB", "/rested/nats/pss_mb", 0),
    median("PostgreSQL, MB on disk", "/database_mb", 0),
    median("rooms: p50, ms", "/rooms/p50_ms", 2),
    median("rooms: p99, ms", "/rooms/p99_ms", 2),
    median("rooms: gateway, µs CPU per delivery", "/rooms/costs/gateway/us_each", 2),
    median("rooms: persister, µs", "/rooms/costs/persister/us_each", 2),
    median("rooms: NATS, µs", "/rooms/costs/nats/us_each", 2),
    median("rooms: PostgreSQL, µs", "/rooms/costs/postgres/us_each", 2),
    median("publish: accepted/s", "/publish/accepted_per_s", 0),
    median("publish: reply p50, ms", "/publish/p50_ms", 2),
    median("publish: reply p99, ms", "/publish/p99_ms", 2),
    worst("rooms: lost (most)", "/rooms/lost"),
    worst("rooms: doubled (most)", "/rooms/duplicates"),
    worst("publish: refused (most)", "/publish/refused"),
    worst("publish: unanswered (most)", "/publish/unanswered"),
    worst("dead letters (most)", "/dead_letters"),
];

/// The scenario.
pub(super) const FULL: Scenario = Scenario {
    name: "full",
    about: "rooms and publish with 10,000,000 messages stored in 1,000,000 groups, 500 a second more to any of them (Zipf); NATS's default sync",
    load: &[],
    figures: FIGURES,
    against: Against::Less,
};
