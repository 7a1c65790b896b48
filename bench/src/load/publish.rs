//! Messages as fast as they are accepted: so many on each connection wait for their replies, and each
//! reply lets the next one go.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{
    Load, Target,
    connection::{Phase, group_name},
    round::message,
};
use crate::{
    latency::Quantiles,
    mark::Mark,
    procs::{self, Cost},
};

/// How long the last replies may take.
const DRAIN: Duration = Duration::from_secs(5);

/// Messages as fast as they are accepted.
#[derive(Debug, clap::Args)]
pub struct Publish {
    /// Whom it is for
    #[command(flatten)]
    pub target: Target,
    /// Connections; more than one to a group receive each other's messages
    #[arg(long, default_value_t = 64)]
    pub n: usize,
    /// Open groups that they are spread over
    #[arg(long, default_value_t = 64)]
    pub groups: usize,
    /// Messages of a connection that wait for their replies; Natter stores those of one connection to
    /// one group one after another
    #[arg(long, default_value_t = 8)]
    pub in_flight: usize,
    /// Seconds
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct PublishReport {
    /// Connections that sent.
    pub connected: usize,
    /// Messages that were accepted.
    pub accepted: u64,
    /// So many a second.
    pub accepted_per_s: f64,
    /// Messages that were answered with an error.
    pub refused: u64,
    /// Messages that were not answered.
    pub unanswered: u64,
    /// From sending a message to its reply, in ms.
    #[serde(flatten)]
    pub replied: Quantiles,
    /// The server's CPU, all of what was watched, for each message.
    pub server_us_each: f64,
    /// Of each that was watched.
    pub costs: BTreeMap<String, Cost>,
    /// Why messages were refused and connections ended, the first of each.
    pub reasons: Vec<String>,
}

impl Publish {
    /// Runs it.
    pub fn run(&self) -> Result<PublishReport> {
        let mut load = Load::new(&self.target)?;
        load.open_all(self.n, self.groups.clamp(1, self.n), 1)?;
        load.receive_for(Duration::from_secs(1))?;
        let connected = load.ready;
        let watched = &self.target.pid;
        load.tally.next_round();
        let before = procs::look(watched);
        let begun = Instant::now();
        while begun.elapsed().as_secs_f64() < self.seconds {
            for index in 0..load.connections.len() {
                load.fill(index, self.in_flight);
            }
            load.poll(Duration::from_millis(20))?;
        }
        let (took, accepted) = (begun.elapsed().as_secs_f64(), load.tally.accepted);
        let costs = procs::costs(watched, &before, &procs::look(watched), accepted);
        let until = Instant::now() + DRAIN;
        while load.unanswered() > 0 && Instant::now() < until {
            load.poll(Duration::from_millis(20))?;
        }
        Ok(PublishReport {
            connected,
            accepted,
            accepted_per_s: accepted as f64 / took,
            refused: load.tally.refused_in.len() as u64,
            unanswered: load.unanswered(),
            replied: load.tally.replied.quantiles(),
            server_us_each: costs.values().map(|cost| cost.us_each).sum(),
            costs,
            reasons: load.reasons(),
        })
    }
}

impl Load {
    /// Sends until so many of a connection wait for their replies.
    fn fill(&mut self, index: usize, in_flight: usize) {
        let (now, bytes, round) = (self.tally.now(), self.target.bytes, self.tally.round);
        while let Some(connection) = self.connections.get_mut(index).filter(|connection| connection.phase == Phase::Ready) {
            if connection.in_flight.len() >= in_flight {
                return;
            }
            connection.in_flight.push_back(now);
            // What comes back is not counted here.
            let mark = Mark { round: round.wrapping_add(1), sender: 0, number: 1, due: now };
            let text = message(&group_name(connection.room, 0), 3, &mark.body(bytes));
            self.send(index, &text);
        }
    }

    fn unanswered(&self) -> u64 {
        self.connections.iter().map(|connection| connection.in_flight.len() as u64).sum()
    }
}
