//! Messages in one room, or in many.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Load, Outcome, Search, Target};

/// Before the first round, so that what is made at the first use is there.
const WARM_UP: Duration = Duration::from_millis(500);
/// Messages a second of that.
const WARM_UP_RATE: f64 = 20.0;

/// One room with all connections in it.
#[derive(Debug, clap::Args)]
pub struct Fanout {
    /// Whom it is for
    #[command(flatten)]
    pub target: Target,
    /// Connections
    #[arg(long, default_value_t = 1000)]
    pub n: usize,
    /// How many of them send
    #[arg(long, default_value_t = 4)]
    pub senders: usize,
    /// Messages a second, of all senders together
    #[arg(long, default_value_t = 20.0)]
    pub rate: f64,
    /// Seconds of a round
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Whether to look for the maximum
    #[command(flatten)]
    pub search: Search,
}

/// Many rooms, everybody a sender.
#[derive(Debug, clap::Args)]
pub struct Rooms {
    /// Whom it is for
    #[command(flatten)]
    pub target: Target,
    /// Connections
    #[arg(long, default_value_t = 2000)]
    pub n: usize,
    /// Rooms that they are spread over
    #[arg(long, default_value_t = 100)]
    pub rooms: usize,
    /// Messages a second, of all senders together
    #[arg(long, default_value_t = 1000.0)]
    pub rate: f64,
    /// Seconds of a round
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Whether to look for the maximum
    #[command(flatten)]
    pub search: Search,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct TrafficReport {
    /// Connections that took part.
    pub connected: usize,
    /// How many were opened a second.
    pub connects_per_s: f64,
    /// Rounds that a search took; 1 without.
    pub rounds: usize,
    /// The round, or the best of them.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Why connections ended and messages were refused, the first of each.
    pub reasons: Vec<String>,
}

impl Fanout {
    /// Runs it.
    pub fn run(&self) -> Result<TrafficReport> {
        traffic(&self.target, (self.n, 1, self.senders), self.rate, self.seconds, self.search)
    }
}

impl Rooms {
    /// Runs it.
    pub fn run(&self) -> Result<TrafficReport> {
        traffic(&self.target, (self.n, self.rooms.max(1), self.n), self.rate, self.seconds, self.search)
    }
}

fn traffic(
    target: &Target,
    (count, rooms, senders): (usize, usize, usize),
    rate: f64,
    seconds: f64,
    search: Search,
) -> Result<TrafficReport> {
    let mut load = Load::new(target)?;
    let took = load.open_all(count, rooms, 1)?;
    load.receive_for(Duration::from_secs(1))?;
    load.round(rate.min(WARM_UP_RATE), WARM_UP, senders)?;
    let time = Duration::try_from_secs_f64(seconds)?;
    let (outcome, rounds) =
        if search.search { load.search(rate, time, senders, search.max_p99_ms)? } else { (load.round(rate, time, senders)?, 1) };
    Ok(TrafficReport { connected: load.ready, connects_per_s: load.ready as f64 / took, rounds, outcome, reasons: load.reasons() })
}
