//! Stores events: publishes into the shard's stream and waits for its ack.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{
    super::{Ack, BrokerError, Outgoing, window::Window},
    api::Failure,
    envelope,
    epochs::Epochs,
    exchange::{Exchange, ExchangeError},
};
use crate::{
    position::Position,
    subject::{self, Shard, Shards, Space},
};

/// "expected stream does not match": the shard has gone on in another epoch.
const WRONG_STREAM: u64 = 10060;
/// The first copy of this id is in flight.
const FIRST_COPY_IN_FLIGHT: u64 = 10158;
/// How long to leave the first copy before asking again.
const COPY_PAUSE: Duration = Duration::from_millis(50);

/// The publishing side.
pub(super) struct Publisher {
    pub(super) exchange: Exchange,
    pub(super) epochs: Arc<Epochs>,
    pub(super) shards: Shards,
    pub(super) window: Window,
    pub(super) timeout: Duration,
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
        if !self.exchange.is_connected() {
            // Else it would go out on reconnect, however late.
            return Err(BrokerError::Unavailable("not connected".to_owned()));
        }
        let shard = self.shards.of(event.topic);
        let deadline = Instant::now() + self.timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(ack) = self.attempt(shard, &event, left).await? {
                return Ok(ack);
            }
            if left <= COPY_PAUSE {
                return Err(BrokerError::Unavailable("the first copy is still in flight".to_owned()));
            }
            tokio::time::sleep(COPY_PAUSE).await;
        }
    }

    /// None: the first copy is in flight.
    async fn attempt(&self, shard: Shard, event: &Outgoing, left: Duration) -> Result<Option<Ack>, BrokerError> {
        let current = self.epochs.current(shard).await?;
        let headers = envelope::headers(event, Some(&current.header));
        let subject = subject::subject(Space::Event, shard, event.topic).into();
        let answer = match self.exchange.call(subject, Some(headers), event.payload.clone(), left).await {
            Ok(answer) => answer,
            Err(ExchangeError::NoResponders) => {
                // No stream takes the subject, or its leader is away.
                self.epochs.look_up(shard).await?;
                return Err(BrokerError::Unavailable("no leader answers".to_owned()));
            }
            Err(ExchangeError::Refused(reason)) => return Err(BrokerError::Refused(reason)),
            Err(error @ (ExchangeError::Disconnected | ExchangeError::TimedOut)) => {
                return Err(BrokerError::Unavailable(error.to_string()));
            }
        };
        let ack: PubAck<'_> = serde_json::from_slice(&answer.payload)
            .map_err(|error| BrokerError::Unavailable(format!("an ack that is not understood: {error}")))?;
        match ack {
            PubAck { error: Some(Failure { err_code: FIRST_COPY_IN_FLIGHT, .. }), .. } => Ok(None),
            PubAck { error: Some(Failure { err_code: WRONG_STREAM, .. }), .. } => {
                let now = self.epochs.look_up(shard).await?;
                Err(BrokerError::Epoch { shard, current: now.epoch })
            }
            PubAck { error: Some(Failure { code, description, .. }), .. } if (400..500).contains(&code) => {
                Err(BrokerError::Refused(description))
            }
            PubAck { error: Some(Failure { description, .. }), .. } => Err(BrokerError::Unavailable(description)),
            PubAck { stream: Some(stream), seq: Some(seq), duplicate, error: None } => {
                let (_, epoch) = subject::parse_stream_name(stream)
                    .ok_or_else(|| BrokerError::Refused(format!("stored in another's stream {stream}")))?;
                Ok(Some(Ack { position: Position::new(epoch, seq), duplicate }))
            }
            PubAck { .. } => Err(BrokerError::Unavailable("an ack without a position".to_owned())),
        }
    }
}
