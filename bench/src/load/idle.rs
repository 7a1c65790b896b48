//! Connections that do nothing: how fast they come, and what it costs that they are there.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Load, Target};
use crate::procs::{self, Cost};

/// After the last has come, before memory and idleness are measured.
const SETTLE: Duration = Duration::from_secs(2);

/// Connections that only stay.
#[derive(Debug, clap::Args)]
pub struct Idle {
    /// Whom it is for
    #[command(flatten)]
    pub target: Target,
    /// Connections
    #[arg(long, default_value_t = 10_000)]
    pub n: usize,
    /// Open groups that each of them joins
    #[arg(long, default_value_t = 1)]
    pub groups: usize,
    /// Members of a group
    #[arg(long, default_value_t = 20)]
    pub members: usize,
    /// Seconds for which they stay
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

/// What it cost.
#[derive(Debug, Serialize, Deserialize)]
pub struct IdleReport {
    /// Connections that came in.
    pub connected: usize,
    /// Connections that did not, or did not stay.
    pub failed: usize,
    /// Connects, with sign-in and joins, per second.
    pub connects_per_s: f64,
    /// From opening a connection to the answer to its last join, in ms: half are below.
    pub join_p50_ms: f64,
    /// Likewise, 99 of 100.
    pub join_p99_ms: f64,
    /// Memory (Pss) of all that was watched, for each connection.
    pub pss_bytes_each: f64,
    /// Cores that all that was watched took while nothing happened.
    pub idle_cores: f64,
    /// Of each that was watched, while they came in, for each connection.
    pub costs: BTreeMap<String, Cost>,
    /// Of each, cores while nothing happened.
    pub idle: BTreeMap<String, f64>,
    /// Why connections ended, the first ones.
    pub reasons: Vec<String>,
}

impl Idle {
    /// Runs it.
    pub fn run(&self) -> Result<IdleReport> {
        let mut load = Load::new(&self.target)?;
        let watched = &self.target.pid;
        let before = procs::look(watched);
        let took = load.open_all(self.n, self.n.div_ceil(self.members.max(1)), self.groups)?;
        let connected = load.ready;
        load.receive_for(SETTLE)?;
        let settled = procs::look(watched);
        load.receive_for(Duration::try_from_secs_f64(self.seconds)?)?;
        let after = procs::look(watched);

        let costs = procs::costs(watched, &before, &settled, connected as u64);
        let cores = |cost: Cost| cost.cpu_s / self.seconds;
        let idle: BTreeMap<_, _> = procs::costs(watched, &settled, &after, 1).into_iter().map(|(name, cost)| (name, cores(cost))).collect();
        let joined = load.tally.joined.quantiles();
        Ok(IdleReport {
            connected,
            failed: load.failed,
            connects_per_s: connected as f64 / took,
            join_p50_ms: joined.p50_ms,
            join_p99_ms: joined.p99_ms,
            pss_bytes_each: costs.values().map(|cost| cost.pss_bytes_each).sum(),
            idle_cores: idle.values().sum(),
            costs,
            idle,
            reasons: load.reasons(),
        })
    }
}
