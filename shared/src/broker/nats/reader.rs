//! Reads a shard's stream in order: an ephemeral pull consumer without acks, made anew wherever it
//! is lost. Where none can be had for a while, the stream is read directly: to make a consumer takes the
//! cluster's own leader, and it may be put on the server whose copy has stood still. No sequence may be
//! skipped: nothing is ever deleted from the middle of a stream.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_nats::{HeaderName, Message, StatusCode, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    task::coop::unconstrained,
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, warn};

use super::{
    super::{BrokerError, LogReader, Stored},
    api::{Api, ApiError},
    direct,
    envelope::{self, Consumed},
    epochs::Epochs,
    exchange::ExchangeError,
    subscribe::warn_of_foreign,
};
use crate::{
    position::Position,
    subject::{self, Shard},
};

/// Events asked for by one pull. Who is behind pulls again at half of it, so that the server never waits for us; who is not
/// asks for what there is, or comes next, each time anew: the server wakes, writes and is read once for many events that way.
const PULL: u64 = 4096;
/// Bytes one pull may bring.
const PULL_BYTES: u64 = 8 << 20;
/// What there is follows on its first event at once; so long it is waited for until the server says that this was all.
const FOLLOWS_WITHIN: Duration = Duration::from_millis(20);
/// How long the server keeps a pull open.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// Without events the server says at least this often that the pull is alive.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// A consumer that has brought nothing for so long is compared with its stream, twice: it may be on a server
/// whose copy does not advance, which goes on to say that it is alive.
const COMPARE: Duration = Duration::from_secs(2);
/// So soon once more where it was behind.
const COMPARE_AGAIN: Duration = Duration::from_millis(500);
/// How long the stream is read directly before a consumer is tried again.
const DIRECTLY: Duration = Duration::from_secs(5);
/// How long it may take to make a consumer before the stream is read directly: who could make one may be away.
const MADE_WITHIN: Duration = Duration::from_secs(1);
/// Direct reads that may fail one after the other: any server is asked, and one may be cut off.
const DIRECT_TRIES: u32 = 5;
/// Events that are read directly at once.
const DIRECT_EVENTS: usize = 512;
/// Between two direct reads where the first brought nothing.
const DIRECT_PAUSE: Duration = Duration::from_millis(50);
/// An epoch has ended where its stream ends at the same event for so long after nothing can be added: what was taken in before may be
/// stored late, and right after an election a stream may look shorter than it is.
const ENDED_AFTER: Duration = Duration::from_secs(2);
/// How long the server keeps a consumer that nobody pulls from.
const INACTIVE: Duration = Duration::from_mins(1);
/// How much of a pull the server did not use when it ended it; without it the consumer is gone.
const UNUSED: HeaderName = HeaderName::from_static("Nats-Pending-Messages");
/// An idle heartbeat.
const IDLE: u16 = 100;
/// That was all there is.
const NO_MORE: u16 = 404;

/// A consumer that is being pulled from.
struct Open {
    name: String,
    messages: Subscriber,
    inbox: String,
    /// What the open pulls may still bring.
    pending: u64,
    /// The last one was for what there is.
    of_what_there_is: bool,
    heard: Instant,
    /// The last event came then, or the last comparison.
    moved: Instant,
    /// The stream's end at a comparison since the last event.
    end: Option<u64>,
    /// The connection it was made on: a new one means a server that may not know the consumer.
    connects: u64,
}

/// How long it is read without a consumer.
struct Direct {
    until: Instant,
    /// The connection that it began on: over a new one it is first looked at whether the stream is what it was.
    connects: u64,
    /// Reads that failed since one did not.
    failed: u32,
}

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

    /// Makes the consumer, after a look at whether the stream has what comes next.
    pub(super) async fn reopen(&mut self) -> Result<(), BrokerError> {
        self.close();
        // Before the look: what is found over one connection may be no more over the next.
        let connects = self.api.exchange.connects();
        let state = match self.api.stream_info(&self.stream).await {
            Ok(info) => info.state,
            Err(error) if error.is_no_stream() => {
                let current = self.epochs.look_up_now(self.shard).await?;
                return Err(BrokerError::Epoch { shard: self.shard, current: current.epoch });
            }
            Err(error) => return Err(error.into()),
        };
        let next = self.at.seq + 1;
        // Older than the stream, or newer than it ever was: it has been rewound.
        if next < state.first() || next > state.last() + 1 {
            let first = Position::new(self.at.epoch, state.first());
            return Err(BrokerError::Evicted { shard: self.shard, first });
        }
        let client = self.api.exchange.client();
        let inbox = client.new_inbox();
        let name = inbox.rsplit('.').next().unwrap_or_default().to_owned();
        let messages = client.subscribe(inbox.clone()).await.map_err(|error| BrokerError::Unavailable(error.to_string()))?;
        let request = json!({
            "stream_name": self.stream,
            "action": "create",
            "config": {
                "name": name,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": next,
                "ack_policy": "none",
                "replay_policy": "instant",
                "max_deliver": -1,
                "inactive_threshold": nanos(INACTIVE),
                "mem_storage": true,
                "num_replicas": 1,
            },
        });
        let call = format!("CONSUMER.CREATE.{}.{name}", self.stream);
        let made = timeout(MADE_WITHIN, self.api.call::<Value>(&call, &request)).await;
        let made = made.unwrap_or_else(|_| Err(ExchangeError::TimedOut.into()));
        if let Err(error) = made.map_err(BrokerError::from) {
            if !error.is_retryable() {
                return Err(error);
            }
            warn!(stream = self.stream, %error, "read_without_consumer");
            self.read_directly(connects);
            return Ok(());
        }
        self.direct = None;
        let now = Instant::now();
        self.open = Some(Open { name, messages, inbox, pending: 0, of_what_there_is: false, heard: now, moved: now, end: None, connects });
        Ok(())
    }

    /// The server forgets the consumer when nobody pulls; no need to wait for its answer here.
    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            let (api, stream) = (self.api.clone(), self.stream.clone());
            tokio::spawn(async move {
                let call = format!("CONSUMER.DELETE.{stream}.{}", open.name);
                if let Err(error) = api.call::<Value>(&call, &Value::Null).await {
                    debug!(stream, %error, "consumer_not_deleted");
                }
            });
        }
    }

    /// Waits for messages until `deadline`, and takes what has come.
    async fn fill(&mut self, max: usize, deadline: Instant) -> Result<(), BrokerError> {
        if !self.api.exchange.is_connected() {
            return Err(BrokerError::Unavailable("not connected".to_owned()));
        }
        let connects = self.api.exchange.connects();
        let is_direct = self.direct.as_ref().is_some_and(|direct| direct.connects == connects && direct.until > Instant::now());
        if !is_direct && self.open.as_ref().is_none_or(|open| open.connects != connects) {
            self.reopen().await?;
        }
        let mut expected = self.ready.back().map_or(self.at.seq, |last| last.seq) + 1;
        let Some(open) = self.open.as_mut() else { return self.fill_directly(expected, max, deadline).await };
        let epoch = self.at.epoch;
        open.pull(&self.api, &self.stream, self.is_behind).await?;
        let mut wake = deadline.min(open.heard + HEARTBEAT * 3);
        let mut follows = None;
        while self.ready.len() < max {
            let next = if self.ready.is_empty() {
                timeout_at(wake, open.messages.next()).await.ok()
            } else {
                // Without the runtime's budget, by which there seem to be no more than 127.
                let next = unconstrained(open.messages.next());
                if open.of_what_there_is && open.pending > 0 {
                    timeout_at(*follows.get_or_insert_with(|| Instant::now() + FOLLOWS_WITHIN), next).await.ok()
                } else {
                    next.now_or_never()
                }
            };
            let Some(message) = next else { break };
            let Some(message) = message else {
                self.open = None;
                return Err(BrokerError::Unavailable("connection closed".to_owned()));
            };
            open.heard = Instant::now();
            wake = deadline.min(open.heard + HEARTBEAT * 3);
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
            (open.moved, open.end) = (open.heard, None);
            open.pending = open.pending.saturating_sub(1);
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
        let silent = open.heard.elapsed() >= HEARTBEAT * 3;
        if silent && self.ready.is_empty() {
            self.close();
        }
        Ok(())
    }

    fn read_directly(&mut self, connects: u64) {
        self.direct = Some(Direct { until: Instant::now() + DIRECTLY, connects, failed: 0 });
    }

    /// The same without a consumer.
    async fn fill_directly(&mut self, from: u64, max: usize, deadline: Instant) -> Result<(), BrokerError> {
        let most = max.saturating_sub(self.ready.len()).min(DIRECT_EVENTS);
        let Some(direct) = self.direct.as_mut().filter(|_| most > 0) else { return Ok(()) };
        let read = match direct::read(&self.api, &self.stream, from, most).await {
            Err(error @ BrokerError::Unavailable(_)) => {
                direct.failed += 1;
                if direct.failed == DIRECT_TRIES {
                    return Err(error);
                }
                Vec::new()
            }
            read => {
                direct.failed = 0;
                read?
            }
        };
        if self.api.exchange.connects() != direct.connects {
            // Of another store, perhaps.
            return Ok(());
        }
        // What is missing in between was lost on the way, or evicted: the next read, or consumer, finds out.
        let expected = (from..).zip(read).take_while(|(seq, consumed)| *seq == consumed.seq);
        self.ready.extend(expected.map(|(_, consumed)| consumed));
        if self.ready.is_empty() {
            tokio::time::sleep_until(deadline.min(Instant::now() + DIRECT_PAUSE)).await;
        }
        Ok(())
    }

    /// Nothing came: is that because the consumer does not see what the stream has? Then another one may.
    async fn check_consumer(&mut self) {
        let patience = |open: &Open| if open.end.is_some_and(|end| end > self.at.seq) { COMPARE_AGAIN } else { COMPARE };
        let Some(open) = self.open.as_mut().filter(|open| open.moved.elapsed() >= patience(open)) else { return };
        open.moved = Instant::now();
        let Ok(info) = self.api.stream_info(&self.stream).await else { return };
        let end = info.state.last();
        if open.end.replace(end).is_some_and(|before| before > self.at.seq) {
            warn!(stream = self.stream, at = self.at.seq, end, "reader_stalled");
            let connects = open.connects;
            self.close();
            self.read_directly(connects);
        }
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

impl Open {
    /// Keeps enough asked for.
    async fn pull(&mut self, api: &Api, stream: &str, is_behind: bool) -> Result<(), BrokerError> {
        // The end of one for what there is must not be taken for that of another.
        let goes_ahead = is_behind && !self.of_what_there_is;
        if self.pending > if goes_ahead { PULL / 2 } else { 0 } {
            return Ok(());
        }
        if self.pending == 0 {
            // While nothing was asked for, nothing was to be heard.
            self.heard = Instant::now();
        }
        // With an expiry it waits for the first event all the same.
        self.of_what_there_is = !is_behind;
        let request = json!({
            "no_wait": self.of_what_there_is,
            "batch": PULL,
            "max_bytes": PULL_BYTES,
            "expires": nanos(PULL_EXPIRES),
            "idle_heartbeat": nanos(HEARTBEAT),
        });
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", self.name);
        let client = api.exchange.client();
        client
            .publish_with_reply(subject, self.inbox.clone(), Bytes::from(request.to_string()))
            .await
            .map_err(|error| BrokerError::Unavailable(error.to_string()))?;
        self.pending += PULL;
        Ok(())
    }

    /// A status ends a pull, or says that there is none any more.
    fn goes_on(&mut self, status: StatusCode, message: &Message) -> bool {
        match status.as_u16() {
            IDLE => return true,
            NO_MORE if self.of_what_there_is => {
                self.pending = 0;
                return true;
            }
            _ => {}
        }
        let unused = message.headers.as_ref().and_then(|headers| headers.get(UNUSED));
        let unused = unused.and_then(|unused| unused.as_str().parse::<u64>().ok());
        let ended = message.description.as_deref().is_some_and(|text| {
            let text = text.to_ascii_lowercase();
            text.contains("deleted") || text.contains("leadership") || text.contains("shutdown")
        });
        match unused {
            Some(unused) if !ended => {
                self.pending = self.pending.saturating_sub(unused);
                true
            }
            Some(_) | None => false,
        }
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

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for NatsReader {
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_ok() {
            self.close();
        }
    }
}
