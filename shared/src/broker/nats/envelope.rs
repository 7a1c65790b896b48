//! What travels beside a payload: our headers and the server's, and how they make a [`Stored`].

use async_nats::{HeaderMap, HeaderName, Message, header::HeaderValue};
use bytes::Bytes;
use uuid::Uuid;

use super::{
    super::{Delivery, Outgoing, Stored},
    link::Incoming,
};
use crate::{
    id::EventId,
    position::Position,
    subject::{self, Space, Topic},
    timestamp::Timestamp,
};

const MSG_ID: HeaderName = HeaderName::from_static("Nats-Msg-Id");
const EXPECTED_STREAM: HeaderName = HeaderName::from_static("Nats-Expected-Stream");
const STREAM: HeaderName = HeaderName::from_static("Nats-Stream");
const SUBJECT: HeaderName = HeaderName::from_static("Nats-Subject");
const SEQUENCE: HeaderName = HeaderName::from_static("Nats-Sequence");
const LAST_SEQUENCE: HeaderName = HeaderName::from_static("Nats-Last-Sequence");
const TIME_STAMP: HeaderName = HeaderName::from_static("Nats-Time-Stamp");
const UPTO_SEQUENCE: HeaderName = HeaderName::from_static("Nats-UpTo-Sequence");
/// Of an atomic batch (NATS ADR-50): which, where in it, and that it is whole.
const BATCH_ID: HeaderName = HeaderName::from_static("Nats-Batch-Id");
const BATCH_SEQUENCE: HeaderName = HeaderName::from_static("Nats-Batch-Sequence");
const BATCH_COMMIT: HeaderName = HeaderName::from_static("Nats-Batch-Commit");
/// When the event was made: milliseconds since the Unix epoch, in the broker's time.
const MADE_AT: HeaderName = HeaderName::from_static("Natter-At");

/// What the headers of an event to be stored say.
pub(super) struct Labels {
    id: String,
    made_at: String,
}

impl Labels {
    pub(super) fn of(event: &Outgoing) -> Self {
        Self { id: event.id.0.simple().to_string(), made_at: event.made_at.0.to_string() }
    }

    pub(super) fn headers(&self) -> [(HeaderName, &str); 2] {
        [(MSG_ID, &self.id), (MADE_AT, &self.made_at)]
    }

    /// Those by which any other stream refuses it.
    pub(super) fn headers_for<'a>(&'a self, stream: &'a str) -> [(HeaderName, &'a str); 3] {
        let [id, made_at] = self.headers();
        [id, made_at, (EXPECTED_STREAM, stream)]
    }
}

/// Where an event stands in an atomic batch.
pub(super) struct Place<'a> {
    batch: &'a str,
    /// From 1.
    number: String,
    is_last: bool,
}

impl<'a> Place<'a> {
    /// The event with so many before it, of `count`.
    pub(super) fn new(batch: &'a str, before: usize, count: usize) -> Self {
        Self { batch, number: (before + 1).to_string(), is_last: before + 1 == count }
    }

    pub(super) fn headers(&self) -> impl Iterator<Item = (HeaderName, &str)> {
        let commit = self.is_last.then_some((BATCH_COMMIT, "1"));
        [(BATCH_ID, self.batch), (BATCH_SEQUENCE, &*self.number)].into_iter().chain(commit)
    }
}

/// Where headers are, however they came.
trait Fields {
    fn text(&self, name: HeaderName) -> Option<&str>;

    fn number(&self, name: HeaderName) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// The id of an event; one of another publisher without an id gets none.
    fn id(&self) -> Option<EventId> {
        Uuid::try_parse(self.text(MSG_ID)?).ok().map(EventId)
    }
}

impl Fields for HeaderMap {
    fn text(&self, name: HeaderName) -> Option<&str> {
        self.get(name).map(HeaderValue::as_str)
    }
}

impl Fields for Incoming<'_> {
    fn text(&self, name: HeaderName) -> Option<&str> {
        self.header(name.as_ref())
    }
}

/// A live message: republished by the stream, or ephemeral when it has no sequence.
pub(super) fn delivery(message: &Incoming<'_>) -> Option<Delivery> {
    let (space, _, topic) = subject::parse(message.subject)?;
    if space != Space::Live {
        return None;
    }
    // Copied: it must not keep all that was read with it.
    let payload = || Bytes::copy_from_slice(message.payload);
    let Some(seq) = message.number(SEQUENCE) else {
        return Some(Delivery::Ephemeral { topic, payload: payload() });
    };
    let (_, epoch) = subject::parse_stream_name(message.text(STREAM)?)?;
    let stored_at = time_stamp(message.text(TIME_STAMP)?)?;
    Some(Delivery::Stored(Stored {
        topic,
        position: Position::new(epoch, seq),
        previous: message.number(LAST_SEQUENCE).unwrap_or_default(),
        id: message.id()?,
        made_at: message.number(MADE_AT).map_or(stored_at, Timestamp),
        stored_at,
        payload: payload(),
    }))
}

/// An answer to a direct get.
pub(super) fn direct(message: Message) -> Option<Stored> {
    let headers = message.headers.as_ref()?;
    let (_, epoch) = subject::parse_stream_name(headers.text(STREAM)?)?;
    let (_, _, topic) = subject::parse(headers.text(SUBJECT)?)?;
    let stored_at = time_stamp(headers.text(TIME_STAMP)?)?;
    Some(Stored {
        topic,
        position: Position::new(epoch, headers.number(SEQUENCE)?),
        previous: 0,
        id: headers.id()?,
        made_at: headers.number(MADE_AT).map_or(stored_at, Timestamp),
        stored_at,
        payload: message.payload,
    })
}

/// One of several messages of an answer to a direct get; none where it does not say its place.
pub(super) fn read(message: Message) -> Option<Consumed> {
    let seq = message.headers.as_ref()?.number(SEQUENCE)?;
    Some(Consumed { seq, event: direct(message) })
}

/// One of the last events of some topics: topic and sequence.
pub(super) fn tail(message: &Message) -> Option<(Topic, u64)> {
    let headers = message.headers.as_ref()?;
    let (_, _, topic) = subject::parse(headers.text(SUBJECT)?)?;
    Some((topic, headers.number(SEQUENCE)?))
}

/// Up to where an answer about tails is complete.
pub(super) fn upto(message: &Message) -> Option<u64> {
    message.headers.as_ref()?.number(UPTO_SEQUENCE)
}

/// A message of a log that is read in order.
pub(super) struct Consumed {
    pub(super) seq: u64,
    /// None where the message is not one of ours.
    pub(super) event: Option<Stored>,
}

/// A message of a consumer, whose place is in its reply subject:
/// `$JS.ACK[.<domain>.<account>].<stream>.<consumer>.<delivered>.<seq>.<consumer seq>.<ns>.<pending>`.
pub(super) fn consumed(message: Message, position_of: impl Fn(u64) -> Position) -> Option<Consumed> {
    let reply = message.reply.as_ref()?.strip_prefix("$JS.ACK.")?;
    // From the right, as the form with domain and account may have a random token at its end.
    let fields = reply.split('.').count();
    let skip = if fields >= 9 { 4 } else { 2 };
    let mut tokens = reply.split('.').skip(skip + 1);
    let seq = tokens.next()?.parse().ok()?;
    let nanos: u64 = tokens.nth(1)?.parse().ok()?;
    let stored_at = Timestamp(nanos / 1_000_000);
    let event = (|| {
        let headers = message.headers.as_ref()?;
        let (_, _, topic) = subject::parse(&message.subject)?;
        Some(Stored {
            topic,
            position: position_of(seq),
            previous: 0,
            id: headers.id()?,
            made_at: headers.number(MADE_AT).map_or(stored_at, Timestamp),
            stored_at,
            payload: message.payload,
        })
    })();
    Some(Consumed { seq, event })
}

/// A canary of one process that came back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Canary {
    pub(super) id: EventId,
    pub(super) position: Position,
    /// Microseconds since the Unix epoch, by the server's clock.
    pub(super) stored_at_micros: i64,
}

pub(super) fn canary(message: &Incoming<'_>) -> Option<Canary> {
    let (_, epoch) = subject::parse_stream_name(message.text(STREAM)?)?;
    let stored_at_micros = time_stamp_micros(message.text(TIME_STAMP)?)?;
    Some(Canary { id: message.id()?, position: Position::new(epoch, message.number(SEQUENCE)?), stored_at_micros })
}

pub(super) fn time_stamp(text: &str) -> Option<Timestamp> {
    u64::try_from(time_stamp_micros(text)? / 1000).ok().map(Timestamp)
}

/// The server's RFC 3339 in UTC, `2026-11-22T08:56:55.123456789Z`, without a general parser: it is
/// read once for every live event.
fn time_stamp_micros(text: &str) -> Option<i64> {
    let digits = |from: usize, to: usize| {
        text.as_bytes().get(from..to)?.iter().try_fold(0i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
    };
    let fits = text.len() >= 20 && text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T');
    if !fits {
        return None;
    }
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let fraction = text.len() - 1;
    let micros = if fraction > 20 {
        let shown = (fraction - 20).min(6);
        let power = 10i64.checked_pow(u32::try_from(6 - shown).ok()?)?;
        digits(20, 20 + shown)? * power
    } else {
        0
    };
    // Days from the civil date (Howard Hinnant's algorithm), March first.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + micros)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_server_s_times_are_read_as_written(millis in 0u64..4_102_444_800_000) {
            let at = Timestamp(millis);
            prop_assert_eq!(time_stamp(&at.to_string()), Some(at));
        }

        #[test]
        fn any_text_is_no_panic(text in "\\PC{0,40}") {
            let _ = time_stamp(&text);
        }
    }

    #[test]
    fn fractions_have_any_length() {
        let whole = time_stamp_micros("2026-11-22T08:56:55Z").unwrap();
        assert_eq!(time_stamp_micros("2026-11-22T08:56:55.1Z"), Some(whole + 100_000));
        assert_eq!(time_stamp_micros("2026-11-22T08:56:55.123456789Z"), Some(whole + 123_456));
        assert_eq!(time_stamp_micros("2026-11-22T08:56:55+01:00"), None);
        assert_eq!(time_stamp_micros("2026-13-22T08:56:55Z"), None);
    }
}
