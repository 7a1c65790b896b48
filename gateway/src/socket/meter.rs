//! What a client may send, counted from its bytes as they come: tungstenite hides fragments,
//! answers pings by itself, and tells of a message only once it is whole.
//!
//! It follows the frames' headers (RFC 6455 section 5.2) and nothing else; whether they make sense
//! is tungstenite's to judge.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use natter_shared::{config::Limits, frame::CloseCode};

use crate::{
    limit::Limit,
    rate::{Bucket, Rate},
};

/// The longest header of a frame.
const LONGEST_HEADER: usize = 14;

const FIN: u8 = 0x80;
const OPCODE: u8 = 0x0f;
const CONTINUATION: u8 = 0;
const FIRST_CONTROL: u8 = 8;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;

/// What every connection of the process may send.
#[derive(Debug)]
pub struct ReadLimits {
    frames: Rate,
    bytes: Rate,
    fragments: u32,
    assembly: Duration,
}

impl ReadLimits {
    /// Those of the config.
    pub fn new(limits: &Limits) -> Self {
        Self {
            frames: Rate::new(limits.frames_per_second.into(), limits.frames_burst.into()),
            bytes: Rate::new(limits.bytes_per_second as u64, limits.bytes_burst as u64),
            fragments: limits.fragments,
            assembly: limits.assembly_timeout,
        }
    }
}

/// A client has sent what it may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// A message that is too large, by what its frames say.
    #[error("a message is too large")]
    FrameBytes,
    /// Too many frames.
    #[error("frames come too fast")]
    FramesPerSecond,
    /// Too many bytes.
    #[error("bytes come too fast")]
    BytesPerSecond,
    /// A message in too many frames.
    #[error("a message has too many fragments")]
    Fragments,
    /// A message that does not come to its end.
    #[error("a message takes too long")]
    AssemblyTimeout,
}

impl Breach {
    /// Which limit.
    pub fn limit(self) -> Limit {
        match self {
            Self::FrameBytes => Limit::FrameBytes,
            Self::FramesPerSecond => Limit::FramesPerSecond,
            Self::BytesPerSecond => Limit::BytesPerSecond,
            Self::Fragments => Limit::Fragments,
            Self::AssemblyTimeout => Limit::AssemblyTimeout,
        }
    }

    /// What the connection is closed with.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::FrameBytes | Self::Fragments => CloseCode::TooBig,
            Self::FramesPerSecond | Self::BytesPerSecond => CloseCode::RateLimited,
            Self::AssemblyTimeout => CloseCode::HeartbeatLost,
        }
    }
}

/// A message that is not whole yet.
#[derive(Debug, Clone, Copy)]
struct Unfinished {
    since: Instant,
    frames: u32,
    bytes: u64,
    /// The frame that is coming in is its last.
    last: bool,
}

/// The counts of one connection. Every idle connection holds one, so it is kept small.
#[derive(Debug)]
pub(super) struct Meter {
    limits: Arc<ReadLimits>,
    frames: Bucket,
    bytes: Bucket,
    /// Bytes of one message.
    largest: usize,
    /// Of the frame that is coming in.
    payload_left: u64,
    message: Option<Unfinished>,
    header: [u8; LONGEST_HEADER],
    header_len: u8,
    breach: Option<Breach>,
}

impl Meter {
    pub(super) fn new(limits: Arc<ReadLimits>, largest: usize, now: Instant) -> Self {
        Self {
            limits,
            frames: Bucket::new(now),
            bytes: Bucket::new(now),
            largest,
            payload_left: 0,
            message: None,
            header: [0; LONGEST_HEADER],
            header_len: 0,
            breach: None,
        }
    }

    /// From the next message on, so many bytes of each.
    pub(super) fn set_largest(&mut self, bytes: usize) {
        self.largest = bytes;
    }

    /// What the connection has to end for.
    pub(super) fn breach(&self) -> Option<Breach> {
        self.breach
    }

    /// Counts what came; how much of it may be read. The rest, and all after it, is over a limit.
    pub(super) fn pass(&mut self, came: &[u8], now: Instant) -> usize {
        if self.breach.is_some() || came.is_empty() {
            return 0;
        }
        let taken = if self.bytes.take(&self.limits.bytes, u32::try_from(came.len()).unwrap_or(u32::MAX), now) {
            self.follow(came, now)
        } else {
            Err((0, Breach::BytesPerSecond))
        };
        match taken {
            Ok(()) => came.len(),
            Err((good, breach)) => {
                self.breach = Some(breach);
                good
            }
        }
    }

    /// Follows the frames; on a breach, what came before the one that broke it.
    fn follow(&mut self, came: &[u8], now: Instant) -> Result<(), (usize, Breach)> {
        let late = |message: &Unfinished| now.saturating_duration_since(message.since) > self.limits.assembly;
        if self.message.as_ref().is_some_and(late) {
            return Err((0, Breach::AssemblyTimeout));
        }
        let mut rest = came;
        while let Some((&byte, after)) = rest.split_first() {
            if self.payload_left > 0 {
                let skipped = rest.len().min(usize::try_from(self.payload_left).unwrap_or(usize::MAX));
                self.payload_left -= skipped as u64;
                rest = rest.get(skipped..).unwrap_or_default();
            } else {
                rest = after;
                if let Some(slot) = self.header.get_mut(usize::from(self.header_len)) {
                    *slot = byte;
                    self.header_len += 1;
                }
                if usize::from(self.header_len) < self.header_size() {
                    continue;
                }
                self.header_len = 0;
                // Without the header's last byte the frame is none.
                self.begin_frame(now).map_err(|breach| (came.len() - rest.len() - 1, breach))?;
            }
            if self.payload_left == 0 && self.message.is_some_and(|message| message.last) {
                self.message = None;
            }
        }
        Ok(())
    }

    /// How long the header is, as far as it has come.
    fn header_size(&self) -> usize {
        let [_, second, ..] = self.header;
        if self.header_len < 2 {
            return 2;
        }
        let length = match second & LENGTH {
            126 => 2,
            127 => 8,
            _short => 0,
        };
        2 + length + if second & MASKED == 0 { 0 } else { 4 }
    }

    fn begin_frame(&mut self, now: Instant) -> Result<(), Breach> {
        let [first, second, b2, b3, b4, b5, b6, b7, b8, b9, ..] = self.header;
        let length = match second & LENGTH {
            126 => u64::from(u16::from_be_bytes([b2, b3])),
            127 => u64::from_be_bytes([b2, b3, b4, b5, b6, b7, b8, b9]),
            short => u64::from(short),
        };
        if !self.frames.take(&self.limits.frames, 1, now) {
            return Err(Breach::FramesPerSecond);
        }
        let opcode = first & OPCODE;
        if opcode >= FIRST_CONTROL {
            self.payload_left = length;
            // In the midst of a message: that one goes on after it.
            return if length > self.largest as u64 { Err(Breach::FrameBytes) } else { Ok(()) };
        }
        let before = self.message.filter(|_| opcode == CONTINUATION);
        let before = before.unwrap_or(Unfinished { since: now, frames: 0, bytes: 0, last: false });
        let bytes = before.bytes.saturating_add(length);
        let message = Unfinished { frames: before.frames + 1, bytes, last: first & FIN != 0, ..before };
        self.payload_left = length;
        self.message = Some(message);
        if bytes > self.largest as u64 {
            return Err(Breach::FrameBytes);
        }
        if message.frames > self.limits.fragments { Err(Breach::Fragments) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
