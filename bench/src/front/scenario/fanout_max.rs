//! How much one large room takes.

use super::{Against, Scenario, TRAFFIC};

/// The scenario.
pub(super) const FANOUT_MAX: Scenario = Scenario {
    name: "fanout-max",
    about: "1,000 members of one room, the highest rate with nothing lost and p99 within 250 ms",
    load: &["fanout", "--n", "1000", "--rate", "25", "--seconds", "3", "--search", "--max-p99-ms", "250"],
    figures: TRAFFIC,
    against: Against::Limit,
};
