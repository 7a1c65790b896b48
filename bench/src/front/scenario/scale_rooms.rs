//! Many small rooms over several gateways.

use super::{Against, Scenario, TRAFFIC};

/// The scenario.
pub(super) const SCALE_ROOMS: Scenario = Scenario {
    name: "scale-rooms",
    about: "2,000 connections in 100 rooms of 20, each room spread over 1 to 4 gateways, 1,000 messages a second",
    load: &["rooms", "--n", "2000", "--rooms", "100", "--rate", "1000", "--seconds", "5"],
    figures: TRAFFIC,
    against: Against::Gateways(&[1, 2, 3, 4]),
};
