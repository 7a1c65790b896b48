//! How much many small rooms take.

use super::{Against, Scenario, TRAFFIC};

/// The scenario.
pub(super) const ROOMS_MAX: Scenario = Scenario {
    name: "rooms-max",
    about: "2,000 connections in 100 rooms of 20, the highest rate with nothing lost and p99 within 250 ms",
    load: &["rooms", "--n", "2000", "--rooms", "100", "--rate", "500", "--seconds", "3", "--search", "--max-p99-ms", "250"],
    figures: TRAFFIC,
    against: Against::Limit,
};
