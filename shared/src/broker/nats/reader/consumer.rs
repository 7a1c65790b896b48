//! An ephemeral pull consumer of a stream: made, pulled from, and looked at where it brings nothing.

use std::time::Duration;

use async_nats::{HeaderName, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    task::coop::unconstrained,
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, warn};

use super::{
    super::{super::BrokerError, api::Api, exchange::ExchangeError},
    NatsReader,
};
use crate::position::Position;

/// Events asked for by one pull. Who is behind pulls again at half of it, so that the server never waits for us; who is not
/// asks for what there is, or comes next, each time anew: the server wakes, writes and is read once for many events that way.
const PULL: u64 = 4096;
/// Bytes one pull may bring.
const PULL_BYTES: u64 = 8 << 20;
/// How long the server keeps a pull open.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// What there is follows on its first event at once; so long it is waited for until the server says that this was all.
const FOLLOWS_WITHIN: Duration = Duration::from_millis(20);
/// A consumer that has brought nothing for so long is compared with its stream, twice: it may be on a server
/// whose copy does not advance, which goes on to say that it is alive.
const COMPARE: Duration = Duration::from_secs(2);
/// So soon once more where it was behind.
const COMPARE_AGAIN: Duration = Duration::from_millis(500);
/// How long it may take to make a consumer before the stream is read directly: who could make one may be away.
const MADE_WITHIN: Duration = Duration::from_secs(1);
/// How long the server keeps a consumer that nobody pulls from.
const INACTIVE: Duration = Duration::from_mins(1);
/// How much of a pull the server did not use when it ended it; without it the consumer is gone.
const UNUSED: HeaderName = HeaderName::from_static("Nats-Pending-Messages");
/// An idle heartbeat.
const IDLE: u16 = 100;
/// That was all there is.
const NO_MORE: u16 = 404;
/// Without events the server says at least this often that the pull is alive.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// A consumer that was not heard of for so long is lost: three of these.
const SILENT: Duration = HEARTBEAT.saturating_mul(3);

/// A consumer that is being pulled from.
pub(super) struct Open {
    name: String,
    messages: Subscriber,
    inbox: String,
    /// What the open pulls may still bring.
    pending: u64,
    /// The last one was for what there is.
    of_what_there_is: bool,
    pub(super) heard: Instant,
    /// The last event came then, or the last comparison.
    moved: Instant,
    /// The stream's end at a comparison since the last event.
    end: Option<u64>,
    /// The connection it was made on: a new one means a server that may not know the consumer.
    pub(super) connects: u64,
}

impl NatsReader {
    /// Makes the consumer, after a look at whether the stream has what comes next.
    pub(in super::super) async fn reopen(&mut self) -> Result<(), BrokerError> {
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
    pub(super) fn close(&mut self) {
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

    /// Nothing came: is that because the consumer does not see what the stream has? Then another one may.
    pub(super) async fn check_consumer(&mut self) {
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
}

impl Open {
    /// Keeps enough asked for.
    pub(super) async fn pull(&mut self, api: &Api, stream: &str, is_behind: bool) -> Result<(), BrokerError> {
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

    /// The next message, waited for until `deadline` where it is the first of a batch; None where there is none, or no more. `follows`: until
    /// when the others are waited for.
    pub(super) async fn next(&mut self, is_first: bool, deadline: Instant, follows: &mut Option<Instant>) -> Option<Option<Message>> {
        if is_first {
            return timeout_at(deadline.min(self.heard + SILENT), self.messages.next()).await.ok();
        }
        // Without the runtime's budget, by which there seem to be no more than 127.
        let next = unconstrained(self.messages.next());
        if self.of_what_there_is && self.pending > 0 {
            timeout_at(*follows.get_or_insert_with(|| Instant::now() + FOLLOWS_WITHIN), next).await.ok()
        } else {
            next.now_or_never()
        }
    }

    /// Nothing was heard for so long that the server has forgotten it.
    pub(super) fn is_silent(&self) -> bool {
        self.heard.elapsed() >= SILENT
    }

    /// An event has come.
    pub(super) fn advanced(&mut self) {
        (self.moved, self.end) = (self.heard, None);
        self.pending = self.pending.saturating_sub(1);
    }

    /// A status ends a pull, or says that there is none any more.
    pub(super) fn goes_on(&mut self, status: StatusCode, message: &Message) -> bool {
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

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
