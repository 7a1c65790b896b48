//! What all connections have received in a round.

use std::time::Instant;

use anyhow::Result;

use crate::{
    latency::Latency,
    mark::Mark,
    sequence::{Arrival, Sequence},
};

/// Refusals that are kept.
const REFUSALS: usize = 3;

/// Counts of one round; what another round's messages bring is not in them.
pub(super) struct Tally {
    started: Instant,
    pub(super) round: u8,
    /// Each message once for each receiver.
    pub(super) delivered: u64,
    pub(super) duplicates: u64,
    pub(super) out_of_order: u64,
    /// The room of each message that was answered with an error.
    pub(super) refused_in: Vec<usize>,
    /// Messages whose reply came.
    pub(super) accepted: u64,
    pub(super) bytes: u64,
    /// When the last delivery, or reply, came.
    pub(super) last: u64,
    /// From the time a message was due to its arrival.
    pub(super) latency: Latency,
    /// From sending to the reply.
    pub(super) replied: Latency,
    /// From opening a connection to the answer to its join.
    pub(super) joined: Latency,
    /// From coming back to having what was missed.
    pub(super) caught_up: Latency,
    /// Connections that have.
    pub(super) back: usize,
    pub(super) refusals: Vec<String>,
}

impl Tally {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            started: Instant::now(),
            round: 0,
            delivered: 0,
            duplicates: 0,
            out_of_order: 0,
            refused_in: Vec::new(),
            accepted: 0,
            bytes: 0,
            last: 0,
            latency: Latency::new()?,
            replied: Latency::new()?,
            joined: Latency::new()?,
            caught_up: Latency::new()?,
            back: 0,
            refusals: Vec::new(),
        })
    }

    /// Nanoseconds since the start.
    pub(super) fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Begins the next round.
    pub(super) fn next_round(&mut self) {
        self.round = self.round.wrapping_add(1);
        (self.delivered, self.duplicates, self.out_of_order) = (0, 0, 0);
        (self.accepted, self.bytes, self.last) = (0, 0, 0);
        self.refused_in.clear();
        self.latency.clear();
        self.replied.clear();
    }

    /// A message came; `sequences` is what its receiver has, by sender. Whether it is of this round, and came for the
    /// first time.
    pub(super) fn deliver(&mut self, mark: Mark, sequences: &mut Vec<Sequence>, now: u64) -> bool {
        if mark.round != self.round {
            return false;
        }
        let sender = mark.sender as usize;
        if sequences.len() <= sender {
            sequences.resize(sender + 1, Sequence::default());
        }
        let Some(sequence) = sequences.get_mut(sender) else { return false };
        match sequence.take(mark.number) {
            Arrival::Duplicate => {
                self.duplicates += 1;
                return false;
            }
            Arrival::OutOfOrder => self.out_of_order += 1,
            Arrival::InOrder => {}
        }
        self.delivered += 1;
        self.last = now;
        self.latency.add(now.saturating_sub(mark.due));
        true
    }

    /// A message to this room was refused.
    pub(super) fn refuse(&mut self, room: usize, frame: &[u8]) {
        self.refused_in.push(room);
        if self.refusals.len() < REFUSALS {
            self.refusals.push(String::from_utf8_lossy(frame).into_owned());
        }
    }
}
