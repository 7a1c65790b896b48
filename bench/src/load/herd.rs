//! Connections that are lost at once and come back at once, each with the positions of its groups, of which a few
//! have gone on meanwhile.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    Load, Target,
    connection::{Phase, group_name},
    round::message,
};
use crate::{
    mark::Mark,
    procs::{self, Cost},
};

/// How long all may take to come back.
const BACK_WITHIN: Duration = Duration::from_mins(2);

/// How long the messages may take that are missed.
const SAID_WITHIN: Duration = Duration::from_secs(30);

/// Who is not let in tries again after so long.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Connections that are begun before what has come is looked at.
const BURST: usize = 64;

/// Connections that are lost at once and come back at once.
#[derive(Debug, clap::Args)]
pub struct Herd {
    /// Whom it is for
    #[command(flatten)]
    pub target: Target,
    /// Connections
    #[arg(long, default_value_t = 10_000)]
    pub n: usize,
    /// Open groups of each, joined where it is not a member yet
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=200))]
    pub groups: u8,
    /// Members of a group
    #[arg(long, default_value_t = 20)]
    pub members: usize,
    /// One of so many groups goes on while they are away
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub one_of: u32,
    /// By so many messages
    #[arg(long, default_value_t = 10)]
    pub messages: u32,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct HerdReport {
    /// Connections that were lost.
    pub lost_connections: usize,
    /// Of these, who were signed in again and had all that they had missed.
    pub back: usize,
    /// Attempts that were turned away, or failed, and were made again.
    pub again: usize,
    /// Seconds until the last of them was back.
    pub all_back_s: f64,
    /// The same, for half of them, in ms.
    pub back_p50_ms: f64,
    /// The same, for 99 of 100.
    pub back_p99_ms: f64,
    /// Groups that one of them was not told in full.
    pub unrecovered: usize,
    /// Messages that were missed, each for each member.
    pub expected: u64,
    /// Of these, what did not come.
    pub lost: u64,
    /// What came once more.
    pub duplicates: u64,
    /// What came after a later one of the same sender.
    pub out_of_order: u64,
    /// The server's CPU for each that came back, all of what was watched.
    pub server_us_each: f64,
    /// Of each that was watched.
    pub costs: BTreeMap<String, Cost>,
    /// Why connections failed, the first ones.
    pub reasons: Vec<String>,
}

impl Herd {
    /// Runs it.
    pub fn run(&self) -> Result<HerdReport> {
        let (rooms, groups) = (self.n.div_ceil(self.members.max(1)), usize::from(self.groups));
        let mut load = Load::new(&self.target)?;
        load.resumes = true;
        load.open_all(self.n, rooms, groups)?;
        ensure!(load.ready == self.n, "{} of {} got in: {:?}", load.ready, self.n, load.reasons);
        load.receive_for(Duration::from_secs(1))?;

        let behind = self.behind(rooms);
        load.tally.next_round();
        for index in 0..self.n {
            // The first member of a room stays, to speak.
            if !behind.contains_key(&index) {
                load.lose(index);
            }
        }
        let said = self.speak(&mut load, &behind)?;
        for index in behind.keys() {
            load.lose(*index);
        }
        load.receive_for(Duration::from_secs(1))?;

        let before = procs::look(&self.target.pid);
        let (delivered, began) = (load.tally.delivered, load.tally.now());
        let mut expected = 0;
        for index in 0..self.n {
            // Who spoke has missed nothing.
            let missed = if index < rooms { 0 } else { said.get(&(index % rooms)).copied().unwrap_or_default() };
            expected += missed;
            if let Some(resume) = load.connections.get_mut(index).and_then(|connection| connection.resume.as_mut()) {
                resume.comes_back(missed);
            }
        }
        let again = load.all_come_back(self.n, rooms, groups, began)?;
        let all_back_s = (load.tally.now() - began) as f64 / 1e9;
        let costs = procs::costs(&self.target.pid, &before, &procs::look(&self.target.pid), load.tally.back as u64);
        // What comes twice may come late.
        load.receive_for(Duration::from_secs(1))?;
        let caught_up = load.tally.caught_up.quantiles();
        Ok(HerdReport {
            lost_connections: self.n,
            back: load.tally.back,
            again,
            all_back_s,
            back_p50_ms: caught_up.p50_ms,
            back_p99_ms: caught_up.p99_ms,
            unrecovered: load.connections.iter().filter_map(|connection| Some(connection.resume.as_ref()?.unrecovered)).sum(),
            expected,
            lost: expected.saturating_sub(load.tally.delivered - delivered),
            duplicates: load.tally.duplicates,
            out_of_order: load.tally.out_of_order,
            server_us_each: costs.values().map(|cost| cost.us_each).sum(),
            costs,
            reasons: load.reasons(),
        })
    }

    /// The groups that go on: which of each room's, by room, and so by its first member's connection.
    fn behind(&self, rooms: usize) -> BTreeMap<usize, Vec<usize>> {
        let groups = usize::from(self.groups);
        let mut behind: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for number in (0..rooms * groups).step_by(self.one_of as usize) {
            behind.entry(number / groups).or_default().push(number % groups);
        }
        behind
    }

    /// What is missed is said, and accepted; how much of it by room.
    fn speak(&self, load: &mut Load, behind: &BTreeMap<usize, Vec<usize>>) -> Result<BTreeMap<usize, u64>> {
        let mut said = BTreeMap::new();
        for number in 1..=self.messages {
            for (&room, groups) in behind {
                for &group in groups {
                    let mark = Mark { round: load.tally.round, sender: group as u32, number, due: load.tally.now() };
                    load.send(room, &message(&group_name(room, group), 3, &mark.body(self.target.bytes)));
                    *said.entry(room).or_default() += 1;
                }
            }
            load.poll(Duration::ZERO)?;
        }
        let (total, begun) = (said.values().sum::<u64>(), Instant::now());
        while load.tally.accepted < total || load.tally.delivered < total {
            ensure!(begun.elapsed() < SAID_WITHIN, "{} of {total} accepted: {:?}", load.tally.accepted, load.reasons());
            load.poll(Duration::from_millis(20))?;
        }
        Ok(said)
    }
}

impl Load {
    /// Loses a connection, without a word.
    fn lose(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index).filter(|connection| connection.phase == Phase::Ready) {
            self.ready -= 1;
            connection.phase = Phase::Closing;
            self.end(index, String::new());
        }
    }

    /// Opens all `count` connections at once, and those that fail again, until all have what they missed or it is time;
    /// how often one was opened again. Each counts from `began`.
    fn all_come_back(&mut self, count: usize, rooms: usize, groups: usize, began: u64) -> Result<usize> {
        self.changed.clear();
        let (until, mut looked, mut failed, mut again) = (Instant::now() + BACK_WITHIN, Instant::now(), Vec::new(), 0);
        for index in 0..count {
            self.come_back(index, rooms, groups, began)?;
            if index % BURST == 0 {
                self.poll(Duration::ZERO)?;
            }
        }
        while self.tally.back < count && Instant::now() < until {
            self.poll(Duration::from_millis(20))?;
            let changed = std::mem::take(&mut self.changed);
            failed.extend(changed.into_iter().filter(|&index| self.connections.get(index).is_some_and(|one| one.phase == Phase::Gone)));
            if looked.elapsed() > AGAIN_AFTER {
                looked = Instant::now();
                // One that was let in and lost at once is there twice.
                failed.sort_unstable();
                failed.dedup();
                again += failed.len();
                for index in failed.drain(..) {
                    self.come_back(index, rooms, groups, began)?;
                }
            }
        }
        Ok(again)
    }

    fn come_back(&mut self, index: usize, rooms: usize, groups: usize, began: u64) -> Result<()> {
        self.open(index, rooms, groups)?;
        if let Some(connection) = self.connections.get_mut(index) {
            connection.opened = began;
        }
        Ok(())
    }
}
