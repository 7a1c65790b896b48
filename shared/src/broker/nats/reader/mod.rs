//! Reads a shard's stream in order: an ephemeral pull consumer without acks, made anew wherever it
//! is lost. Where none can be had for a while, the stream is read directly: to make a consumer takes the
//! cluster's own leader, and it may be put on the server whose copy has stood still. No sequence may be
//! skipped: nothing is ever deleted from the middle of a stream.

mod consumer;
mod without_consumer;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::{debug, warn};

use self::{consumer::Open, without_consumer::Direct};
use super::{
    super::{BrokerError, LogReader, Stored},
    api::{Api, ApiError},
    envelope::{self, Consumed},
    epochs::Epochs,
    subscribe::warn_of_foreign,
};
use crate::{
    position::Position,
    subject::{self, Shard},
};

/// An epoch has ended where its stream ends at the same event for so long after nothing can be added: what was taken in before may be
/// stored late, and right after an election a stream may look shorter than it is.
const ENDED_AFTER: Duration = Duration::from_secs(2);

/// Reads one epoch of one shard.
pub(super) struct NatsReader {
    api: Api,
    epochs: Arc<Epochs>,
    shard: Shard,
    stream: String,
    /// The last event returned.
    at: Position,
    open: Option<Open>,
    direct: Option<Direct>,
    ready: VecDeque<Consumed>,
    /// Since when it has been at the end of an epoch that seems to have ended, and over which connection.
    at_end: Option<(Instant, u64)>,
    /// The last batch was as large as one may be.
    is_behind: bool,
}

impl NatsReader {
    pub(super) fn new(api: Api, epochs: Arc<Epochs>, shard: Shard, after: Position) -> Self {
        let stream = subject::stream_name(shard, after.epoch);
        Self { api, epochs, shard, stream, at: after, open: None, direct: None, ready: VecDeque::new(), at_end: None, is_behind: false }
    }

    /// Waits for messages until `deadline`, and takes what has come.
    async fn fill(&mut self, max: usize, deadline: Instant) -> Result<(), BrokerError> {
        if !self.api.exchange.is_connected() {
            return Err(BrokerError::Unavailable("not connected".to_owned()));
        }
        let connects = self.api.exchange.connects();
        let is_direct = self.direct.as_ref().is_some_and(|direct| direct.goes_on(connects));
        if !is_direct && self.open.as_ref().is_none_or(|open| open.connects != connects) {
            self.reopen().await?;
        }
        let mut expected = self.ready.back().map_or(self.at.seq, |last| last.seq) + 1;
        let Some(open) = self.open.as_mut() else { return self.fill_directly(expected, max, deadline).await };
        let epoch = self.at.epoch;
        open.pull(&self.api, &self.stream, self.is_behind).await?;
        let mut follows = None;
        while self.ready.len() < max {
            let next = open.next(self.ready.is_empty(), deadline, &mut follows).await;
            let Some(message) = next else { break };
            let Some(message) = message else {
                self.open = None;
                return Err(BrokerError::Unavailable("connection closed".to_owned()));
            };
            open.heard = Instant::now();
            if let Some(status) = message.status {
                if !open.goes_on(status, &message) {
                    debug!(stream = self.stream, %status, description = message.description, "consumer_lost");
                    self.close();
                    return Ok(());
                }
                if self.ready.is_empty() {
                    open.pull(&self.api, &self.stream, self.is_behind).await?;
                }
                continue;
            }
            open.advanced();
            let Some(consumed) = envelope::consumed(message, |seq| Position::new(epoch, seq)) else {
                warn_of_foreign();
                continue;
            };
            if consumed.seq < expected {
                continue;
            }
            if consumed.seq > expected {
                // Lost on the way, or evicted: the new consumer finds out which.
                warn!(stream = self.stream, expected, seq = consumed.seq, "reader_skipped");
                self.close();
                return Ok(());
            }
            expected += 1;
            self.ready.push_back(consumed);
            if self.is_behind {
                open.pull(&self.api, &self.stream, true).await?;
            }
        }
        if open.is_silent() && self.ready.is_empty() {
            self.close();
        }
        Ok(())
    }

    /// Nothing came: is that because the epoch has ended?
    async fn check_end(&mut self) -> Result<(), BrokerError> {
        let Some(current) = self.epochs.known(self.shard) else { return Ok(()) };
        if current.epoch == self.at.epoch {
            return Ok(());
        }
        let last = match self.api.stream_info(&self.stream).await {
            Ok(info) => info.state.last(),
            Err(error) if error.is_no_stream() => 0,
            Err(error @ (ApiError::Exchange(_) | ApiError::Server { .. } | ApiError::Answer(_))) => {
                return Err(error.into());
            }
        };
        let connects = self.api.exchange.connects();
        self.at_end = (last <= self.at.seq).then(|| self.at_end.filter(|(_, of)| *of == connects).unwrap_or((Instant::now(), connects)));
        if self.at_end.is_some_and(|(since, _)| since.elapsed() >= ENDED_AFTER) {
            return Err(BrokerError::Epoch { shard: self.shard, current: current.epoch });
        }
        Ok(())
    }
}

#[async_trait]
impl LogReader for NatsReader {
    async fn next_batch(&mut self, max: usize, wait: Duration) -> Result<Vec<Stored>, BrokerError> {
        let deadline = Instant::now() + wait;
        loop {
            self.fill(max, deadline).await?;
            let taken = self.ready.len().min(max);
            self.is_behind = taken == max;
            if let Some(last) = self.ready.iter().take(taken).next_back() {
                self.at.seq = last.seq;
                self.at_end = None;
                let events: Vec<Stored> = self.ready.drain(..taken).filter_map(|consumed| consumed.event).collect();
                if !events.is_empty() {
                    return Ok(events);
                }
            }
            if Instant::now() >= deadline {
                self.check_end().await?;
                self.check_consumer().await;
                return Ok(Vec::new());
            }
        }
    }
}

impl Drop for NatsReader {
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_ok() {
            self.close();
        }
    }
}
