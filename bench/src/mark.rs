//! By what a message is told again, wherever it stands in a frame, without reading the frame as JSON:
//! `~`, then in hexadecimal digits the round, the sender's place in its room, the message's number and
//! when it was due, then `~`. A frame of ours has no other `~`.

use std::fmt::Write as _;

use memchr::memchr;

/// Digits of each field.
const ROUND: usize = 2;
const SENDER: usize = 5;
const NUMBER: usize = 8;
const DUE: usize = 14;

/// Bytes of a mark; a body has at least as many.
pub const LENGTH: usize = 2 + ROUND + SENDER + NUMBER + DUE;

/// What a mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Of several rounds on the same connections, which: what comes late counts for none.
    pub round: u8,
    /// The sender's place in its room.
    pub sender: u32,
    /// Counted from 1 for each sender.
    pub number: u32,
    /// When it should have been sent, in nanoseconds since the generator's start.
    pub due: u64,
}

impl Mark {
    /// A message's text of `bytes` bytes with this mark.
    pub fn body(self, bytes: usize) -> String {
        let mut out = String::with_capacity(bytes);
        // Writing to a String cannot fail.
        let _ = write!(out, "~{:02x}{:05x}{:08x}{:014x}~", self.round, self.sender & 0xf_ffff, self.number, self.due & 0xff_ffff_ffff_ffff);
        out.extend(std::iter::repeat_n('x', bytes.saturating_sub(LENGTH)));
        out
    }

    /// The mark in a frame, if it has one.
    pub fn find(frame: &[u8]) -> Option<Self> {
        let digits = frame.get(memchr(b'~', frame)? + 1..)?.first_chunk::<{ LENGTH - 1 }>()?;
        let (digits, end) = digits.split_at(LENGTH - 2);
        let (round, digits) = digits.split_at(ROUND);
        let (sender, digits) = digits.split_at(SENDER);
        let (number, due) = digits.split_at(NUMBER);
        let mark = Self { round: hex(round)? as u8, sender: hex(sender)? as u32, number: hex(number)? as u32, due: hex(due)? };
        (end == b"~").then_some(mark)
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, &digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_in_any_envelope_and_not_where_it_is_cut() {
        let mark = Mark { round: 0xab, sender: 0x0f_00ba, number: 7, due: 0x12_3456_789a_bcde };
        let body = mark.body(128);
        assert_eq!(body.len(), 128);
        let frame = format!(r#"{{"type":"message","body":"{body}","position":"1.2"}}"#);
        assert_eq!(Mark::find(frame.as_bytes()), Some(mark));
        assert_eq!(Mark::find(&body.as_bytes()[..LENGTH - 1]), None);
        assert_eq!(Mark::find(br#"{"type":"ping"}"#), None);
        assert_eq!(Mark::find(body.replace("ab", "xy").as_bytes()), None);
    }
}
