//! Connections that sign in, join, close, and come again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Load, Target, connection::Phase};
use crate::{
    frame::CLOSE,
    procs::{self, Cost},
};

/// A close that is not answered within this is left.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// More failures than this are no measurement.
const FAILURES: usize = 1000;

/// Connections that come and go.
#[derive(Debug, clap::Args)]
pub struct Churn {
    /// Whom it is for
    #[command(flatten)]
    pub target: Target,
    /// Connections at a time
    #[arg(long, default_value_t = 100)]
    pub n: usize,
    /// Rooms that they are spread over
    #[arg(long, default_value_t = 5)]
    pub rooms: usize,
    /// Seconds
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ChurnReport {
    /// Connections that got in and left.
    pub cycles: u64,
    /// So many a second.
    pub cycles_per_s: f64,
    /// Connections that ended otherwise.
    pub failed: usize,
    /// From opening a connection to the answer to its join, in ms: half are below.
    pub join_p50_ms: f64,
    /// Likewise, 99 of 100.
    pub join_p99_ms: f64,
    /// The server's CPU, all of what was watched, for each cycle.
    pub server_us_each: f64,
    /// Of each that was watched.
    pub costs: BTreeMap<String, Cost>,
    /// Why connections failed, the first ones.
    pub reasons: Vec<String>,
}

impl Churn {
    /// Runs it.
    pub fn run(&self) -> Result<ChurnReport> {
        let mut load = Load::new(&self.target)?;
        let watched = &self.target.pid;
        let before = procs::look(watched);
        let begun = Instant::now();
        for index in 0..self.n {
            load.open(index, self.rooms.max(1), 1)?;
        }
        let mut cycles = 0;
        let mut looked = Instant::now();
        while begun.elapsed().as_secs_f64() < self.seconds && load.failed < FAILURES {
            load.poll(Duration::from_millis(20))?;
            for index in std::mem::take(&mut load.changed) {
                match load.connections.get(index).map(|connection| connection.phase) {
                    Some(Phase::Ready) => {
                        load.close(index);
                        cycles += 1;
                    }
                    Some(Phase::Gone) => load.open(index, self.rooms.max(1), 1)?,
                    _ => {}
                }
            }
            if looked.elapsed() > CLOSE_WITHIN {
                load.leave_those_who_closed();
                looked = Instant::now();
            }
        }
        let took = begun.elapsed().as_secs_f64();
        let costs = procs::costs(watched, &before, &procs::look(watched), cycles);
        let joined = load.tally.joined.quantiles();
        Ok(ChurnReport {
            cycles,
            cycles_per_s: cycles as f64 / took,
            failed: load.failed,
            join_p50_ms: joined.p50_ms,
            join_p99_ms: joined.p99_ms,
            server_us_each: costs.values().map(|cost| cost.us_each).sum(),
            costs,
            reasons: load.reasons(),
        })
    }
}

impl Load {
    /// Begins to close a connection that is ready.
    fn close(&mut self, index: usize) {
        let now = self.tally.now();
        let Some(connection) = self.connections.get_mut(index) else { return };
        self.ready -= 1;
        connection.phase = Phase::Closing;
        connection.opened = now;
        if let Err(error) = connection.send(CLOSE, &1000_u16.to_be_bytes()) {
            self.end(index, error.to_string());
        }
    }

    fn leave_those_who_closed(&mut self) {
        let longest_ago = self.tally.now().saturating_sub(CLOSE_WITHIN.as_nanos() as u64);
        let left: Vec<usize> = (0..self.connections.len())
            .filter(|&index| self.connections.get(index).is_some_and(|found| found.phase == Phase::Closing && found.opened < longest_ago))
            .collect();
        for index in left {
            self.end(index, String::new());
        }
    }
}
