//! One large room at a fixed rate.

use super::{Against, Scenario, TRAFFIC};

/// The scenario.
pub(super) const FANOUT: Scenario = Scenario {
    name: "fanout",
    about: "1,000 members of one room, 20 messages a second: 20,000 deliveries/s",
    load: &["fanout", "--n", "1000", "--rate", "20", "--seconds", "5"],
    figures: TRAFFIC,
    against: Against::Limit,
};
