//! Reads single events and tails from a shard's stream: direct gets, written by hand.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subject};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};

use super::{
    super::{BrokerError, LogSize, LogState, Stored, Tails},
    NatsBroker,
    api::Api,
    envelope::{self, Consumed},
    exchange::{Exchange, ExchangeError},
};
use crate::{
    position::{Epoch, Position},
    subject::{self, Shard, Space, Topic},
};

/// How long the next part of an answer of several messages may take: it comes in milliseconds or, from a
/// server that is gone, never, and delivery may be waiting for it.
const NEXT_WITHIN: Duration = Duration::from_millis(1500);

/// How long the first try to read one event may take; each further one takes twice as long. In a
/// cluster any server is asked, and one that has just fallen silent is asked on for some seconds.
const ONE_WITHIN: Duration = Duration::from_millis(600);

/// How often a copy is asked that is behind what is known to be stored. Each time any of the stream's
/// servers is; one of them may stay behind for minutes.
const COPIES: usize = 5;

/// Between two of them.
const NEXT_COPY: Duration = Duration::from_millis(20);

/// Bytes that are read at once.
const READ_BYTES: u64 = 8 << 20;

/// Topics asked for at once, beside our canary; the server holds the stream's lock meanwhile.
const TOPICS_AT_ONCE: usize = 99;
/// The end of an answer of several messages (ADR-31).
const END_OF_BATCH: u16 = 204;

fn unavailable(error: impl std::fmt::Display) -> BrokerError {
    BrokerError::Unavailable(error.to_string())
}

fn direct_get(stream: &str) -> Subject {
    format!("$JS.API.DIRECT.GET.{stream}").into()
}

impl NatsBroker {
    pub(super) async fn log_state_now(&self, shard: Shard) -> Result<LogState, BrokerError> {
        let current = self.epochs.look_up_now(shard).await?;
        let state = match self.api.stream_info(&current.stream).await {
            Ok(info) => info.state,
            Err(error) if error.is_no_stream() => return Err(BrokerError::NoLog(shard)),
            Err(error) => return Err(error.into()),
        };
        Ok(LogState { epoch: current.epoch, first: state.first(), last: state.last() })
    }

    pub(super) async fn log_size_now(&self, shard: Shard) -> Result<LogSize, BrokerError> {
        let current = self.epochs.current(shard).await?;
        let info = match self.api.stream_info(&current.stream).await {
            Ok(info) => info,
            Err(error) if error.is_no_stream() => return Err(BrokerError::NoLog(shard)),
            Err(error) => return Err(error.into()),
        };
        // What the server evicts by, whatever our config says by now. Unlimited is -1 there, or 0.
        let limit = |field: &str| info.config.get(field).and_then(serde_json::Value::as_u64).filter(|limit| *limit > 0);
        Ok(LogSize {
            state: LogState { epoch: current.epoch, first: info.state.first(), last: info.state.last() },
            first_at: info.state.first_at(),
            bytes: info.state.bytes(),
            max_bytes: limit("max_bytes").unwrap_or(u64::MAX),
            max_age: limit("max_age").map(Duration::from_nanos),
        })
    }

    pub(super) async fn first_now(&self, shard: Shard, epoch: Epoch) -> Result<Option<u64>, BrokerError> {
        match self.api.stream_info(&subject::stream_name(shard, epoch)).await {
            Ok(info) => Ok(Some(info.state.first())),
            Err(error) if error.is_no_stream() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn get_now(&self, shard: Shard, position: Position) -> Result<Option<Stored>, BrokerError> {
        if position.seq == 0 {
            return Ok(None);
        }
        let stream = subject::stream_name(shard, position.epoch);
        for _ in 0..COPIES {
            match self.get_one(&stream, &json!({ "seq": position.seq })).await {
                Ok(Some(stored)) => return Ok(Some(stored)),
                Ok(None) | Err(ExchangeError::NoResponders) => {}
                Err(error) => return Err(unavailable(error)),
            }
            // A replica that lags has it not yet, a leader that is away does not answer: only the
            // stream's own state makes it certain, and a rewind is concluded from this.
            match self.api.stream_info(&stream).await {
                Ok(info) if (info.state.first()..=info.state.last()).contains(&position.seq) => tokio::time::sleep(NEXT_COPY).await,
                Ok(_) => return Ok(None),
                Err(error) if error.is_no_stream() => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Err(unavailable("a replica lags"))
    }

    pub(super) async fn next_of_now(&self, topic: Topic, after: Position) -> Result<Option<Stored>, BrokerError> {
        let shard = self.shards.of(topic);
        let mut current = self.epochs.current(shard).await?;
        if after.epoch > current.epoch {
            current = self.epochs.look_up(shard).await?;
        }
        if after.epoch > current.epoch {
            return Err(BrokerError::Epoch { shard, current: current.epoch });
        }
        let from = if after.epoch == current.epoch { after.seq + 1 } else { 1 };
        let request = json!({ "seq": from, "next_by_subj": subject::subject(Space::Event, shard, topic) });
        match self.get_one(&current.stream, &request).await {
            Ok(found) => Ok(found),
            Err(ExchangeError::NoResponders) => Err(self.other_epoch(shard).await),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// The stream did not answer as the epoch that was known.
    async fn other_epoch(&self, shard: Shard) -> BrokerError {
        match self.epochs.look_up(shard).await {
            Ok(_) => unavailable("no leader answers"),
            Err(error) => error,
        }
    }

    async fn get_one(&self, stream: &str, request: &Value) -> Result<Option<Stored>, ExchangeError> {
        let payload = Bytes::from(request.to_string());
        let (exchange, mut left, mut within) = (&self.api.exchange, self.options.request_timeout, ONE_WITHIN);
        let answer = loop {
            let patience = within.min(left);
            left -= patience;
            match exchange.call(direct_get(stream), None, payload.clone(), patience).await {
                Err(ExchangeError::TimedOut) if !left.is_zero() => within *= 2,
                answer => break answer?,
            }
        };
        match answer.status {
            None => {
                envelope::direct(answer).map(Some).ok_or_else(|| ExchangeError::Refused("a stored message that is not ours".to_owned()))
            }
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => Err(ExchangeError::Refused(format!("direct get: {status}"))),
        }
    }

    pub(super) async fn tails_now(
        &self,
        shard: Shard,
        topics: &[Topic],
        after: Position,
        at_least: Position,
    ) -> Result<Tails, BrokerError> {
        let current = self.epochs.current(shard).await?;
        if at_least.epoch != current.epoch {
            // Either we are behind or the caller is.
            let now = self.epochs.look_up(shard).await?;
            if now.epoch != at_least.epoch {
                return Err(BrokerError::Epoch { shard, current: now.epoch });
            }
        }
        let stream = subject::stream_name(shard, at_least.epoch);
        let after = if after.epoch == at_least.epoch { after.seq } else { 0 };
        let mut changed = Vec::new();
        let mut upto = u64::MAX;
        for batch in topics.chunks(TOPICS_AT_ONCE) {
            let mut copies = 0;
            // Complete only as far as the batch that was answered from the oldest state.
            upto = loop {
                let (end, of_batch) = self.tails_of(shard, &stream, batch, after).await?;
                if end >= at_least.seq {
                    changed.extend(of_batch);
                    break upto.min(end);
                }
                copies += 1;
                if copies == COPIES {
                    return Err(unavailable("a replica lags"));
                }
                tokio::time::sleep(NEXT_COPY).await;
            };
        }
        let upto = if topics.is_empty() { at_least.seq } else { upto };
        Ok(Tails { upto: Position::new(at_least.epoch, upto), changed })
    }

    /// Asks for one batch of topics; returns up to where the answer is complete, and what changed.
    async fn tails_of(&self, shard: Shard, stream: &str, topics: &[Topic], after: u64) -> Result<(u64, Vec<(Topic, u64)>), BrokerError> {
        // An answer without any result does not say how far it is true. With our own canary, which
        // is in every log that we fence, there always is a result.
        let own = Topic::Canary(self.instance);
        let asked = topics.iter().copied().chain([own]);
        let subjects: Vec<String> = asked.map(|topic| subject::subject(Space::Event, shard, topic)).collect();
        let request = json!({ "multi_last": subjects, "seq": after + 1 });
        let mut changed = Vec::new();
        let end = get_several(&self.api.exchange, stream, &request, NEXT_WITHIN, |message| {
            changed.extend(envelope::tail(&message).filter(|(topic, seq)| *seq > after && *topic != own));
        })
        .await?;
        let upto = match end.status {
            Some(StatusCode::NO_RESPONDERS) => return Err(self.other_epoch(shard).await),
            // Not even our canary: a replica that knows nothing yet, or nobody ever fenced.
            Some(StatusCode::NOT_FOUND) => envelope::upto(&end).unwrap_or_default(),
            Some(status) if status.as_u16() == END_OF_BATCH => {
                envelope::upto(&end).ok_or_else(|| unavailable("an answer without its end"))?
            }
            status => return Err(unavailable(format!("tails: {status:?}"))),
        };
        Ok((upto, changed))
    }
}

/// Reads what `stream` has from the sequence `from` on, at most so many events: what the server has of it
/// that happens to be asked, which may be none.
pub(super) async fn read(api: &Api, stream: &str, from: u64, most: usize) -> Result<Vec<Consumed>, BrokerError> {
    let request = json!({ "seq": from, "batch": most, "max_bytes": READ_BYTES });
    let mut read = Vec::new();
    let end = get_several(&api.exchange, stream, &request, ONE_WITHIN, |message| read.extend(envelope::read(message))).await?;
    match end.status {
        Some(StatusCode::NOT_FOUND) => Ok(read),
        Some(status) if status.as_u16() == END_OF_BATCH => Ok(read),
        Some(StatusCode::NO_RESPONDERS) => Err(unavailable("no server of the stream answers")),
        status => Err(unavailable(format!("direct get: {status:?}"))),
    }
}

/// A direct get of several messages, each `within` this time; returns what ended the answer.
async fn get_several(
    exchange: &Exchange,
    stream: &str,
    request: &Value,
    within: Duration,
    mut take: impl FnMut(Message),
) -> Result<Message, BrokerError> {
    if !exchange.is_connected() {
        return Err(unavailable("not connected"));
    }
    let connects = exchange.connects();
    let (client, inbox) = (exchange.client(), exchange.client().new_inbox());
    let mut answers = client.subscribe(inbox.clone()).await.map_err(unavailable)?;
    client.publish_with_reply(direct_get(stream), inbox, Bytes::from(request.to_string())).await.map_err(unavailable)?;
    loop {
        let message = tokio::time::timeout(within, answers.next()).await;
        let message = message.map_err(|_| unavailable("timed out"))?.ok_or_else(|| unavailable("connection closed"))?;
        if message.status.is_some() {
            // Over a new connection the rest of an answer may come, without its middle.
            return if exchange.connects() == connects { Ok(message) } else { Err(unavailable("the connection was lost meanwhile")) };
        }
        take(message);
    }
}
