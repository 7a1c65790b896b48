//! What waits to be written, and how much of what it is.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::Phase;

pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) messages: u32,
    /// Counted as missed, not against the limits.
    pub(super) missed: bool,
}

pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) backlog: VecDeque<Piece>,
    pub(super) bytes: usize,
    pub(super) messages: usize,
    /// Bytes of what was missed, those included that room was made for.
    pub(super) missed: usize,
    /// Part of the front piece is on the wire already.
    pub(super) begun: bool,
    /// Something waited at the last ping, and nothing was written since.
    pub(super) stalled: bool,
}

impl State {
    /// Nothing waits yet, and nothing may be written.
    pub(super) fn held() -> Self {
        Self { phase: Phase::Held, backlog: VecDeque::new(), bytes: 0, messages: 0, missed: 0, begun: false, stalled: false }
    }

    pub(super) fn push(&mut self, bytes: Bytes, messages: u32) {
        self.bytes += bytes.len();
        self.messages += messages as usize;
        self.backlog.push_back(Piece { bytes, messages, missed: false });
    }

    /// `written` bytes of the backlog are on the wire.
    pub(super) fn advance(&mut self, mut written: usize) {
        self.stalled &= written == 0;
        while let Some(front) = self.backlog.front_mut() {
            let of_front = written.min(front.bytes.len());
            *(if front.missed { &mut self.missed } else { &mut self.bytes }) -= of_front;
            written -= of_front;
            if of_front < front.bytes.len() {
                front.bytes.advance(of_front);
                self.begun |= of_front > 0;
                return;
            }
            if !front.missed {
                self.messages -= front.messages as usize;
            }
            self.backlog.pop_front();
            self.begun = false;
        }
    }
}
