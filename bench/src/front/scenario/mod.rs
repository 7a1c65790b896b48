//! What is measured: what the generator is told, and which of its figures are shown. One file each.

mod catch_up;
mod churn;
mod fanout;
mod fanout_max;
mod full;
mod herd;
mod idle;
mod publish;
mod rooms;
mod rooms_max;
mod scale_fanout;
mod scale_rooms;

pub(super) use self::{
    catch_up::ROWS,
    full::{GROUPS as FULL_GROUPS, MESSAGES as FULL_MESSAGES, PUBLISH as FULL_PUBLISH, ROOMS as FULL_ROOMS, TRICKLE},
    herd::{CLIENTS as HERD_CLIENTS, GROUPS as HERD_GROUPS, HERD, MEMBERS as HERD_MEMBERS},
    publish::{LANES, SECONDS as PUBLISH_SECONDS},
};

/// A scenario.
#[derive(Debug)]
pub struct Scenario {
    /// By which it is chosen.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    /// What the generator is told, beside whom it is for.
    pub load: &'static [&'static str],
    /// What is shown of its report.
    pub figures: &'static [Figure],
    /// What it is measured against.
    pub against: Against,
}

/// What stands beside Natter's figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// The bare loop.
    Limit,
    /// The bare loop, and the streams alone.
    Broker,
    /// Itself, with so many gateways.
    Gateways(&'static [usize]),
    /// Itself, over another database. The generator has no part in it.
    Stores,
    /// Itself, with so many gateways, where the memberships are there before anybody comes.
    Herd(&'static [usize]),
    /// Itself, with less in its streams, and with nothing stored.
    Less,
}

/// One figure of a report.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// What it is called in the table.
    pub label: &'static str,
    /// Where it stands in the report (RFC 6901).
    pub pointer: &'static str,
    /// Digits after the point.
    pub digits: usize,
    /// What is shown of several rounds.
    pub of: Of,
}

/// What is shown of several rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The one in the middle.
    Median,
    /// The greatest: what should be 0.
    Worst,
}

const fn median(label: &'static str, pointer: &'static str, digits: usize) -> Figure {
    Figure { label, pointer, digits, of: Of::Median }
}

const fn worst(label: &'static str, pointer: &'static str) -> Figure {
    Figure { label, pointer, digits: 0, of: Of::Worst }
}

/// Events that were stored but not in SQL yet when the generator had ended.
const NOT_IN_SQL: Figure = worst("not in SQL at the end (most)", "/not_in_sql");

/// What traffic is judged by.
const TRAFFIC: &[Figure] = &[
    median("deliveries/s", "/deliveries_per_s", 0),
    median("p50, ms", "/p50_ms", 2),
    median("p99, ms", "/p99_ms", 2),
    median("gateway, µs CPU per delivery", "/costs/gateway/us_each", 2),
    median("persister, µs", "/costs/persister/us_each", 2),
    median("NATS, µs", "/costs/nats/us_each", 2),
    median("PostgreSQL, µs", "/costs/postgres/us_each", 2),
    median("all of these, µs", "/server_us_each", 2),
    median("generator, µs", "/client_us_each", 2),
    worst("lost (most)", "/lost"),
    worst("doubled (most)", "/duplicates"),
    worst("out of order (most)", "/out_of_order"),
    worst("refused (most)", "/refused"),
    worst("closed (most)", "/closed"),
    NOT_IN_SQL,
];

/// Those that run where none is named, in this order.
pub const USUAL: [&Scenario; 11] = [
    &fanout::FANOUT,
    &rooms::ROOMS,
    &idle::IDLE,
    &churn::CHURN,
    &publish::PUBLISH,
    &catch_up::CATCH_UP,
    &herd::HERD,
    &scale_fanout::SCALE_FANOUT,
    &scale_rooms::SCALE_ROOMS,
    &fanout_max::FANOUT_MAX,
    &rooms_max::ROOMS_MAX,
];

/// Those that run only where they are named: one takes twenty minutes and 10 GB of disk and memory.
pub const LONG: [&Scenario; 1] = [&full::FULL];

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    USUAL.into_iter().chain(LONG)
}
