//! What a stream says of what was published to it.

use serde::Deserialize;

use super::{super::Ack, api::Failure, link::Incoming};
use crate::{position::Position, subject};

/// "expected stream does not match": the shard has gone on in another epoch.
const WRONG_STREAM: u64 = 10060;
/// The first copy of this id is in flight.
const FIRST_COPY_IN_FLIGHT: u64 = 10158;
/// "atomic publish is disabled": of several copies, or made by an earlier release.
const NO_BATCHES: u64 = 10174;
/// "batch contains duplicate message id": something of it is stored, or twice in it.
const BATCH_WITH_COPY: u64 = 10201;
/// "resource limits exceeded for account": full, though the server says it as if it were our mistake.
const ACCOUNT_FULL: u64 = 10002;

/// Too many wait in the stream already: its disk stands still.
const TOO_MANY: u64 = 429;

#[derive(Deserialize)]
struct PubAck<'a> {
    #[serde(borrow)]
    stream: Option<&'a str>,
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    /// Of an atomic batch: how many it has. `seq` is that of the last.
    count: Option<u64>,
    error: Option<Failure>,
}

/// What the stream says of a publish.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is stored.
    Stored(Ack),
    /// An atomic batch is stored.
    StoredTogether {
        /// Of its last event; the others stand right before it.
        last: Position,
        /// How many there are.
        count: u64,
    },
    /// The first copy is on its way.
    InFlight,
    /// The stream takes no batches.
    NoBatches,
    /// Nothing of a batch is stored, for something of it was before.
    BatchWithCopy,
    /// The shard goes on in another one.
    OtherStream,
    /// Not stored, and never will be.
    Refused(String),
    /// Not stored, or not known: the server is full, or has no leader.
    NotNow(String),
}

impl Verdict {
    pub(super) fn read(answer: &Incoming<'_>) -> Self {
        Self::of(answer.payload)
    }

    fn of(payload: &[u8]) -> Self {
        match serde_json::from_slice::<PubAck<'_>>(payload) {
            Err(error) => Self::NotNow(format!("an ack that is not understood: {error}")),
            Ok(PubAck { error: Some(Failure { err_code: FIRST_COPY_IN_FLIGHT, .. }), .. }) => Self::InFlight,
            Ok(PubAck { error: Some(Failure { err_code: NO_BATCHES, .. }), .. }) => Self::NoBatches,
            Ok(PubAck { error: Some(Failure { err_code: BATCH_WITH_COPY, .. }), .. }) => Self::BatchWithCopy,
            Ok(PubAck { error: Some(Failure { err_code: WRONG_STREAM, .. }), .. }) => Self::OtherStream,
            Ok(PubAck { error: Some(Failure { code, err_code, description }), .. }) => {
                let is_ours = (400..500).contains(&code) && code != TOO_MANY && err_code != ACCOUNT_FULL;
                if is_ours { Self::Refused(description) } else { Self::NotNow(format!("{description} ({err_code})")) }
            }
            Ok(PubAck { stream: Some(stream), seq: Some(seq), duplicate, count, error: None }) => {
                match (subject::parse_stream_name(stream), count) {
                    (Some((_, epoch)), None) => Self::Stored(Ack { position: Position::new(epoch, seq), duplicate }),
                    (Some((_, epoch)), Some(count)) => Self::StoredTogether { last: Position::new(epoch, seq), count },
                    (None, _) => Self::Refused(format!("stored in another's stream {stream}")),
                }
            }
            Ok(PubAck { .. }) => Self::NotNow("an ack without a position".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{position::Epoch, subject::Shard};

    fn failure(code: u64, err_code: u64) -> Verdict {
        Verdict::of(format!(r#"{{"error":{{"code":{code},"err_code":{err_code},"description":"so"}},"stream":"S","seq":0}}"#).as_bytes())
    }

    #[test]
    fn an_ack_is_a_position_and_whether_it_was_there_already() {
        let stream = subject::stream_name(Shard(3), Epoch(7));
        let ack = |duplicate| Verdict::Stored(Ack { position: Position::new(Epoch(7), 12), duplicate });
        assert_eq!(Verdict::of(format!(r#"{{"stream":"{stream}","seq":12}}"#).as_bytes()), ack(false));
        assert_eq!(Verdict::of(format!(r#"{{"stream":"{stream}","seq":12,"duplicate":true,"domain":"x"}}"#).as_bytes()), ack(true));
        let together = Verdict::of(format!(r#"{{"stream":"{stream}","seq":12,"batch":"7","count":3}}"#).as_bytes());
        assert_eq!(together, Verdict::StoredTogether { last: Position::new(Epoch(7), 12), count: 3 });
        assert!(matches!(Verdict::of(br#"{"stream":"ORDERS","seq":12}"#), Verdict::Refused(_)));
        for odd in ["", "{}", "[]", r#"{"seq":"12"}"#] {
            assert!(matches!(Verdict::of(odd.as_bytes()), Verdict::NotNow(_)), "{odd}");
        }
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        assert_eq!(failure(409, 10158), Verdict::InFlight);
        assert_eq!(failure(400, 10060), Verdict::OtherStream);
        assert_eq!((failure(400, 10174), failure(400, 10201)), (Verdict::NoBatches, Verdict::BatchWithCopy));
        // Full: the account, the server, the disk, what waits for it. And no leader.
        for (code, err_code) in [(429, 10167), (400, 10002), (503, 10023), (500, 10047), (503, 10077), (503, 10008)] {
            assert!(matches!(failure(code, err_code), Verdict::NotNow(_)), "{err_code}");
        }
        // Larger than the server takes.
        assert!(matches!(failure(400, 10054), Verdict::Refused(_)));
    }
}
