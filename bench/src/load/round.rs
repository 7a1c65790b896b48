//! Some seconds of traffic at a rate, and what came of it. The loop is open: what is due is sent, whatever
//! has come back, and a message counts from when it was due.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Load,
    connection::{Phase, group_name},
};
use crate::{
    latency::Quantiles,
    mark::Mark,
    procs::{self, Cost},
    sequence::Sequence,
};

/// Messages that are sent before what has come is looked at.
const BURST: usize = 64;

/// How long what was sent may take to come, once nothing more is sent.
const DRAIN: Duration = Duration::from_secs(5);

/// Nothing having come for so long, nothing will.
const SILENCE: Duration = Duration::from_secs(1);

/// What came of a round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Messages a second, of all senders.
    pub rate: f64,
    /// Messages that were sent.
    pub sent: u64,
    /// Each of them that was not refused, for each member of its room.
    pub expected: u64,
    /// Of these, what came.
    pub delivered: u64,
    /// Of these, what did not.
    pub lost: u64,
    /// What came once more.
    pub duplicates: u64,
    /// What came after a later one of the same sender.
    pub out_of_order: u64,
    /// Messages that were answered with an error.
    pub refused: u64,
    /// Connections that ended.
    pub closed: u64,
    /// From the first message to the last delivery.
    pub seconds: f64,
    /// Deliveries in each of them.
    pub deliveries_per_s: f64,
    /// From when a message was due to its arrival.
    #[serde(flatten)]
    pub latency: Quantiles,
    /// How late the last message was sent: a generator that cannot keep up says so here.
    pub late_ms: f64,
    /// What was received, in MB a second.
    pub mb_per_s: f64,
    /// The generator's own CPU, for each delivery.
    pub client_us_each: f64,
    /// The server's CPU, all of what was watched, for each delivery.
    pub server_us_each: f64,
    /// Of each that was watched.
    pub costs: BTreeMap<String, Cost>,
}

impl Outcome {
    /// All of it came, nobody was closed, and in time.
    pub fn is_good(&self, max_p99_ms: f64) -> bool {
        let all = self.lost == 0 && self.closed == 0 && self.refused == 0 && self.delivered > 0;
        all && self.latency.p99_ms <= max_p99_ms
    }
}

/// What is sent in a round, from now on.
struct Sending {
    began: u64,
    /// Each with its place in its room and its number.
    senders: Vec<(usize, u32, u32)>,
    room_sizes: Vec<u64>,
    sent: u64,
    expected: u64,
}

impl Sending {
    /// What was refused comes to nobody.
    fn still_expected(&self, refused_in: &[usize]) -> u64 {
        let refused: u64 = refused_in.iter().filter_map(|&room| self.room_sizes.get(room)).sum();
        self.expected.saturating_sub(refused)
    }
}

impl Load {
    /// One round at `rate` messages a second, of the first `senders` connections in turn.
    pub(super) fn round(&mut self, rate: f64, time: Duration, senders: usize) -> Result<Outcome> {
        self.tally.next_round();
        let mut sending = self.prepare(senders);
        let (watched, failed, own) = (self.target.pid.clone(), self.failed, procs::own_cpu_s());
        let before = procs::look(&watched);
        sending.began = self.tally.now();
        let total = (rate * time.as_secs_f64()).round().max(1.0) as u64;
        let due = |sent: u64| (sent as f64 * 1e9 / rate) as u64;
        // Who cannot keep up does not go on for ever.
        let stop = sending.began + time.as_nanos() as u64 * 3 / 2;
        while sending.sent < total && self.tally.now() < stop {
            for _ in 0..BURST {
                let at = sending.began + due(sending.sent);
                if sending.sent == total || at > self.tally.now() {
                    break;
                }
                self.say(&mut sending, at);
            }
            let wait = (sending.began + due(sending.sent)).saturating_sub(self.tally.now());
            self.poll(Duration::from_nanos(wait).min(Duration::from_millis(100)))?;
        }
        let said = self.tally.now();
        let late = said.saturating_sub(sending.began + due(sending.sent));
        self.drain(&sending, said)?;
        let after = procs::look(&watched);

        let tally = &self.tally;
        let expected = sending.still_expected(&tally.refused_in);
        let seconds = (tally.last.max(said) - sending.began) as f64 / 1e9;
        let costs = procs::costs(&watched, &before, &after, tally.delivered);
        Ok(Outcome {
            rate,
            sent: sending.sent,
            expected,
            delivered: tally.delivered,
            lost: expected.saturating_sub(tally.delivered),
            duplicates: tally.duplicates,
            out_of_order: tally.out_of_order,
            refused: tally.refused_in.len() as u64,
            closed: (self.failed - failed) as u64,
            seconds,
            deliveries_per_s: tally.delivered as f64 / seconds,
            latency: tally.latency.quantiles(),
            late_ms: late as f64 / 1e6,
            mb_per_s: tally.bytes as f64 / 1e6 / seconds,
            client_us_each: (procs::own_cpu_s() - own) * 1e6 / tally.delivered.max(1) as f64,
            server_us_each: costs.values().map(|cost| cost.us_each).sum(),
            costs,
        })
    }

    fn prepare(&mut self, senders: usize) -> Sending {
        let mut sending = Sending { began: 0, senders: Vec::new(), room_sizes: Vec::new(), sent: 0, expected: 0 };
        for (index, connection) in self.connections.iter_mut().enumerate() {
            connection.sequences.fill(Sequence::default());
            if connection.phase != Phase::Ready {
                continue;
            }
            if sending.room_sizes.len() <= connection.room {
                sending.room_sizes.resize(connection.room + 1, 0);
            }
            let Some(size) = sending.room_sizes.get_mut(connection.room) else { continue };
            if sending.senders.len() < senders {
                sending.senders.push((index, *size as u32, 0));
            }
            *size += 1;
        }
        sending
    }

    /// The next sender says something.
    fn say(&mut self, sending: &mut Sending, due: u64) {
        let turn = sending.sent as usize % sending.senders.len().max(1);
        sending.sent += 1;
        let Some((index, place, number)) = sending.senders.get_mut(turn) else { return };
        *number += 1;
        let mark = Mark { round: self.tally.round, sender: *place, number: *number, due };
        let Some(room) = self.connections.get(*index).map(|connection| connection.room) else { return };
        if self.send(*index, &message(&group_name(room, 0), 3, &mark.body(self.target.bytes))) {
            sending.expected += sending.room_sizes.get(room).copied().unwrap_or_default();
        }
    }

    /// Receives what is still to come.
    fn drain(&mut self, sending: &Sending, said: u64) -> Result<()> {
        let nanoseconds = |time: Duration| time.as_nanos() as u64;
        while self.tally.delivered < sending.still_expected(&self.tally.refused_in) {
            let now = self.tally.now();
            if now > said + nanoseconds(DRAIN) || now > self.tally.last.max(said) + nanoseconds(SILENCE) {
                break;
            }
            self.poll(Duration::from_millis(20))?;
        }
        Ok(())
    }
}

/// A `send` frame.
pub(super) fn message(group: &str, id: u32, body: &str) -> String {
    let nonce = Uuid::now_v7();
    format!(r#"{{"type":"send","id":{id},"group":"{group}","nonce":"{nonce}","body":"{body}"}}"#)
}
