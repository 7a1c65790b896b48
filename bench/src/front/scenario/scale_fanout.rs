//! One large room over several gateways.

use super::{Against, Scenario, TRAFFIC};

/// The scenario.
pub(super) const SCALE_FANOUT: Scenario = Scenario {
    name: "scale-fanout",
    about: "1,000 members of one room, spread over 1 to 4 gateways, 20 messages a second: 20,000 deliveries/s",
    load: &["fanout", "--n", "1000", "--rate", "20", "--seconds", "5"],
    figures: TRAFFIC,
    against: Against::Gateways(&[1, 2, 3, 4]),
};
