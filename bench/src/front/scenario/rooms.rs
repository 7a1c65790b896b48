//! Many small rooms at a fixed rate.

use super::{Against, Scenario, TRAFFIC};

/// The scenario.
pub(super) const ROOMS: Scenario = Scenario {
    name: "rooms",
    about: "2,000 connections in 100 rooms of 20, 1,000 messages a second: 20,000 deliveries/s",
    load: &["rooms", "--n", "2000", "--rooms", "100", "--rate", "1000", "--seconds", "5"],
    figures: TRAFFIC,
    against: Against::Limit,
};
