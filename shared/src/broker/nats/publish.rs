//! Stores events: publishes into the shard's stream and waits for its ack.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::time::Instant;

use super::{
    super::{Ack, BrokerError, Outgoing, window::Window},
    api::{Api, Failure},
    clock::Clock,
    connect::Health,
    envelope::Labels,
    epochs::Epochs,
    exchange::ExchangeError,
    fence::Fence,
    link::{Incoming, Publication, Requests},
    stuck::Stuck,
};
use crate::{
    position::{Epoch, Position},
    subject::{self, Shard, Shards, Space},
};

/// "expected stream does not match": the shard has gone on in another epoch.
const WRONG_STREAM: u64 = 10060;
/// The first copy of this id is in flight.
const FIRST_COPY_IN_FLIGHT: u64 = 10158;
/// "resource limits exceeded for account": full, though the server says it as if it were our mistake.
const ACCOUNT_FULL: u64 = 10002;
/// How long to leave the first copy before asking again.
const COPY_PAUSE: Duration = Duration::from_millis(50);
/// After so long it is found out whether the first copy is lost.
const LONG_IN_FLIGHT: Duration = Duration::from_millis(300);
/// How long a publish that was out when a new leader made itself known may take for its ack: it may have gone to the one
/// before, which is dead or cut off and never answers.
const ELECTED: Duration = Duration::from_millis(200);

/// The publishing side.
pub(super) struct Publisher {
    pub(super) requests: Requests<Verdict>,
    pub(super) epochs: Arc<Epochs>,
    pub(super) clock: Arc<Clock>,
    pub(super) health: Arc<Health>,
    pub(super) shards: Shards,
    pub(super) window: Window,
    pub(super) stuck: Stuck,
    pub(super) fences: Arc<Vec<Fence>>,
    /// What a leader is asked by.
    pub(super) api: Api,
    pub(super) timeout: Duration,
}

/// What a leader has said of a first copy.
struct InFlight {
    since: Instant,
    /// Which it was: how often there was another one, and of which epoch.
    leader: (u64, Option<Epoch>),
    /// Something is stored that was sent later. If it still says so, the copy is lost.
    is_lost: bool,
}

#[derive(Deserialize)]
struct PubAck<'a> {
    #[serde(borrow)]
    stream: Option<&'a str>,
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<Failure>,
}

impl Publisher {
    pub(super) async fn publish(&self, event: Outgoing) -> Result<Ack, BrokerError> {
        let _room = self.window.enter(event.payload.len())?;
        if !self.requests.is_connected() {
            // Else it would go out on reconnect, however late.
            return Err(BrokerError::Unavailable("not connected".to_owned()));
        }
        if !self.clock.is_sure() {
            // Else it might be void by its stamp, though acknowledged.
            return Err(BrokerError::Unavailable("the broker's time is not known".to_owned()));
        }
        let shard = self.shards.of(event.topic);
        let deadline = Instant::now() + self.timeout;
        let mut status = self.health.watch();
        let mut in_flight: Option<InFlight> = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let overtaken = async {
                Health::new_leader(&mut status).await;
                tokio::time::sleep(ELECTED).await;
            };
            let answer = tokio::select! {
                answer = self.attempt(shard, &event, left) => Some(answer?),
                () = overtaken => None,
            };
            match answer {
                Some(Some(ack)) => return Ok(ack),
                Some(None) => self.doubt(shard, &mut in_flight, deadline).await,
                None => {}
            }
            tracing::debug!(%shard, event = %event.id, "publish_without_ack");
            if left <= COPY_PAUSE {
                return Err(BrokerError::Unavailable("the first copy is still in flight".to_owned()));
            }
            tokio::time::sleep(COPY_PAUSE).await;
        }
    }

    /// The leader says that the first copy is in flight: after a while it is found out whether that is lost, and what
    /// holds it is asked to hand over. A leader stores in the order in which it proposes, so a canary that was
    /// sent later and is stored has overtaken what is not.
    async fn doubt(&self, shard: Shard, in_flight: &mut Option<InFlight>, deadline: Instant) {
        let leader = (self.health.watch().borrow().leaders, self.epochs.known(shard).map(|current| current.epoch));
        match in_flight {
            Some(known) if known.leader == leader && known.is_lost => {
                if let Some(current) = self.epochs.known(shard) {
                    self.stuck.ask_to_step_down(shard, &current.stream, leader.0, &self.api, &self.health);
                }
            }
            Some(known) if known.leader == leader && known.since.elapsed() > LONG_IN_FLIGHT => {
                if let Some(fence) = self.fences.get(usize::from(shard.0)) {
                    known.is_lost = matches!(tokio::time::timeout_at(deadline, fence.wait()).await, Ok(Ok(_)));
                }
            }
            Some(known) if known.leader == leader => {}
            Some(_) | None => *in_flight = Some(InFlight { since: Instant::now(), leader, is_lost: false }),
        }
    }

    /// None: the first copy is in flight.
    async fn attempt(&self, shard: Shard, event: &Outgoing, left: Duration) -> Result<Option<Ack>, BrokerError> {
        let current = self.epochs.current(shard).await?;
        if event.epoch.is_some_and(|only| only != current.epoch) {
            return Err(BrokerError::Epoch { shard, current: current.epoch });
        }
        let subject = subject::subject(Space::Event, shard, event.topic);
        let labels = Labels::of(event);
        let headers = labels.headers_for(&current.stream);
        let publication = Publication { subject: &subject, reply: None, headers: &headers, payload: &event.payload };
        let verdict = match self.requests.call(publication, left).await {
            Ok(verdict) => verdict,
            Err(ExchangeError::NoResponders) => {
                // No stream takes the subject, or its leader is away. Who could tell may be away too.
                self.epochs.look_up_soon(shard);
                return Err(BrokerError::Unavailable("no leader answers".to_owned()));
            }
            Err(ExchangeError::Refused(reason)) => return Err(BrokerError::Refused(reason)),
            Err(ExchangeError::Full) => return Err(BrokerError::Busy),
            Err(error @ (ExchangeError::Disconnected | ExchangeError::TimedOut)) => {
                return Err(BrokerError::Unavailable(error.to_string()));
            }
        };
        match verdict {
            Verdict::Stored(ack) => Ok(Some(ack)),
            Verdict::InFlight => Ok(None),
            Verdict::OtherStream => {
                let now = self.epochs.look_up(shard).await?;
                Err(BrokerError::Epoch { shard, current: now.epoch })
            }
            Verdict::Refused(reason) => Err(BrokerError::Refused(reason)),
            Verdict::NotNow(reason) => Err(BrokerError::Unavailable(reason)),
        }
    }
}

/// What the stream says of a publish.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is stored.
    Stored(Ack),
    /// The first copy is on its way.
    InFlight,
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
            Ok(PubAck { error: Some(Failure { err_code: WRONG_STREAM, .. }), .. }) => Self::OtherStream,
            Ok(PubAck { error: Some(Failure { code, err_code, description }), .. }) => {
                let is_ours = (400..500).contains(&code) && err_code != ACCOUNT_FULL;
                if is_ours { Self::Refused(description) } else { Self::NotNow(format!("{description} ({err_code})")) }
            }
            Ok(PubAck { stream: Some(stream), seq: Some(seq), duplicate, error: None }) => match subject::parse_stream_name(stream) {
                Some((_, epoch)) => Self::Stored(Ack { position: Position::new(epoch, seq), duplicate }),
                None => Self::Refused(format!("stored in another's stream {stream}")),
            },
            Ok(PubAck { .. }) => Self::NotNow("an ack without a position".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u64, err_code: u64) -> Verdict {
        Verdict::of(format!(r#"{{"error":{{"code":{code},"err_code":{err_code},"description":"so"}},"stream":"S","seq":0}}"#).as_bytes())
    }

    #[test]
    fn an_ack_is_a_position_and_whether_it_was_there_already() {
        let stream = subject::stream_name(Shard(3), Epoch(7));
        let ack = |duplicate| Verdict::Stored(Ack { position: Position::new(Epoch(7), 12), duplicate });
        assert_eq!(Verdict::of(format!(r#"{{"stream":"{stream}","seq":12}}"#).as_bytes()), ack(false));
        assert_eq!(Verdict::of(format!(r#"{{"stream":"{stream}","seq":12,"duplicate":true,"domain":"x"}}"#).as_bytes()), ack(true));
        assert!(matches!(Verdict::of(br#"{"stream":"ORDERS","seq":12}"#), Verdict::Refused(_)));
        for odd in ["", "{}", "[]", r#"{"seq":"12"}"#] {
            assert!(matches!(Verdict::of(odd.as_bytes()), Verdict::NotNow(_)), "{odd}");
        }
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        assert_eq!(failure(409, 10158), Verdict::InFlight);
        assert_eq!(failure(400, 10060), Verdict::OtherStream);
        // Full: the account, the server, the disk. And no leader.
        for (code, err_code) in [(400, 10002), (503, 10023), (500, 10047), (503, 10077), (503, 10008)] {
            assert!(matches!(failure(code, err_code), Verdict::NotNow(_)), "{err_code}");
        }
        // Larger than the server takes.
        assert!(matches!(failure(400, 10054), Verdict::Refused(_)));
    }
}
