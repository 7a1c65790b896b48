//! The broker: a durable, ordered log for each shard, and live delivery of what it has stored.
//!
//! What every implementation guarantees, and `conformance` in the tests checks for each:
//!
//! 1. **Stored first.** [`Broker::publish`] answers after the event is durable; only then is it
//!    delivered live. What was answered survives a crash of any process of ours.
//! 2. **One order.** Events of a shard have strictly rising positions; live delivery to a
//!    subscription keeps that order.
//! 3. **Once by id.** A second event with the id of one stored in the last 120 s is not stored and
//!    not delivered; its ack is that of the first, marked `duplicate`.
//! 4. **The previous position.** Each live event says the sequence of the event before it on its
//!    topic that is still stored (0: none), so a subscriber sees for itself that it missed one.
//! 5. **Live delivery may lose** (a slow subscriber, a lost connection), never reorder. After a
//!    loss it knows of, [`BrokerStatus::generation`] rises; and before anything is yielded that
//!    follows a lost connection, [`Broker::interruptions`] has risen.
//! 6. **Fence.** What is stored after the position that [`Broker::fence`] returns reaches every
//!    subscription made before the call.
//! 7. **Rewind shows.** A log that lost its tail or its store is never continued under the same
//!    epoch by the persister: the event at a remembered position is there with its id, or not.
//!
//! A send buffered while disconnected may be stored much later; so an event stored more than
//! [`VOID_AFTER`] after it was made is void for all readers ([`Stored::is_void`]).

mod control;
pub mod embedded;
pub mod nats;
mod unapplied;
mod window;

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

pub use self::{
    control::{Control, hear},
    unapplied::{LogSize, Meter, Unapplied},
};

use crate::{
    failpoint,
    id::EventId,
    position::{Epoch, Position},
    subject::{Shard, Shards, Topic},
    timestamp::Timestamp,
};

/// An event stored later than this after it was made does not count (ARCHITECTURE.md, guarantee 2).
pub const VOID_AFTER: Duration = Duration::from_secs(90);

/// How long a second event with the same id is refused.
pub const DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// An event to be stored.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// What it is about.
    pub topic: Topic,
    /// By which a second copy is known.
    pub id: EventId,
    /// When it was made, in the broker's time ([`Broker::now`]).
    pub made_at: Timestamp,
    /// The only epoch that it may be stored in; none takes the shard's current one.
    pub epoch: Option<Epoch>,
    /// The encoded [`crate::event::Event`].
    pub payload: Bytes,
}

/// The epoch that a shard is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentEpoch {
    /// Which.
    pub epoch: Epoch,
    /// What was sent before this may be stored in an earlier one, whose ids the broker does not remember:
    /// when this process learnt of the epoch, and [`AFTER_CHANGE`] later where it saw the change. None
    /// where there was no other before it.
    pub since: Option<Instant>,
}

/// By how much what two processes take for the broker's time may differ.
pub const CLOCKS_DIFFER: Duration = Duration::from_secs(2);

/// By how much the time that a sender says it sent at may lie ahead of the broker's.
pub const SENDERS_AHEAD: Duration = Duration::from_secs(15);

/// For so long after an epoch began, what is sent now may say of itself that it was sent later, though a first copy of it is in the
/// epoch before.
pub const AFTER_CHANGE: Duration = CLOCKS_DIFFER.saturating_add(SENDERS_AHEAD);

/// The broker's word that an event is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Where it stands.
    pub position: Position,
    /// It stood there already.
    pub duplicate: bool,
}

/// An event as stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What it is about.
    pub topic: Topic,
    /// Where it stands.
    pub position: Position,
    /// Sequence of the event before it on its topic, in the same epoch; 0 if none is stored.
    /// Known for live events only: readers of the log leave it 0.
    pub previous: u64,
    /// By which it is known.
    pub id: EventId,
    /// When it was made, in the broker's time.
    pub made_at: Timestamp,
    /// When it was stored, in the broker's time.
    pub stored_at: Timestamp,
    /// The encoded [`crate::event::Event`].
    pub payload: Bytes,
}

impl Stored {
    /// Stored so long after it was made that its sender has been told it failed.
    pub fn is_void(&self) -> bool {
        self.stored_at.since(self.made_at) > VOID_AFTER && !failpoint::hit("no-void")
    }
}

/// What a subscription yields.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// A stored event.
    Stored(Stored),
    /// An encoded [`crate::event::Ephemeral`].
    Ephemeral {
        /// What it is about.
        topic: Topic,
        /// Its bytes.
        payload: Bytes,
    },
}

/// What to be told of, live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Interest {
    /// One topic.
    Topic(Topic),
    /// The topics of all users of a shard.
    Users(Shard),
}

/// Live events of one [`Interest`], until dropped.
pub struct Subscription(Pin<Box<dyn Stream<Item = Delivery> + Send>>);

impl Subscription {
    /// Wraps a stream of deliveries; dropping it unsubscribes.
    pub fn new(stream: impl Stream<Item = Delivery> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// Waits for a delivery, then appends what else is ready, `max` in all. False at the end.
    pub async fn next_batch(&mut self, batch: &mut Vec<Delivery>, max: usize) -> bool {
        let Some(first) = self.0.next().await else { return false };
        batch.push(first);
        while batch.len() < max {
            match self.0.next().now_or_never() {
                Some(Some(next)) => batch.push(next),
                Some(None) | None => break,
            }
        }
        true
    }

    /// Appends what is ready, `max` at most, without waiting; false where nothing is.
    pub fn next_ready(&mut self, batch: &mut Vec<Delivery>, max: usize) -> bool {
        self.next_batch(batch, max).now_or_never().unwrap_or(false)
    }
}

/// How a shard's log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    /// Its incarnation.
    pub epoch: Epoch,
    /// The first sequence still stored; `last + 1` when empty.
    pub first: u64,
    /// The last sequence stored; 0 if there never was one.
    pub last: u64,
}

/// Which of some topics have news.
#[derive(Debug, Clone)]
pub struct Tails {
    /// The answer is complete up to here.
    pub upto: Position,
    /// Topics with an event after the asked position, and the sequence of their last one.
    pub changed: Vec<(Topic, u64)>,
}

/// The state of the connection to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerStatus {
    /// Connected now.
    pub connected: bool,
    /// Rises whenever live deliveries may have been lost: reconnect, slow consumer, new epoch.
    pub generation: u64,
    /// Rises whenever a log may have got another leader: the one before may have stored an event and
    /// died before it was delivered.
    pub elections: u64,
    /// Rises whenever a log's new leader makes itself known: what found none is worth another try now.
    pub leaders: u64,
}

/// Why the broker did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// Not now: not connected, no leader, timed out, the first copy in flight. The outcome of a
    /// publish is unknown; trying again with the same id is safe.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// More in flight than the window allows.
    #[error("too much is in flight to the broker")]
    Busy,
    /// The shard has no log yet: the persister has not created it.
    #[error("shard {0} has no log yet")]
    NoLog(Shard),
    /// The log went on in another epoch.
    #[error("shard {shard} is in epoch {current}")]
    Epoch {
        /// Which shard.
        shard: Shard,
        /// Its epoch now.
        current: Epoch,
    },
    /// What is asked for is no longer in the log.
    #[error("shard {shard} starts at {first}")]
    Evicted {
        /// Which shard.
        shard: Shard,
        /// The first position still there.
        first: Position,
    },
    /// Refused for good, for instance too large or not permitted.
    #[error("refused by the broker: {0}")]
    Refused(String),
    /// Nobody answers the call.
    #[error("no persister answers")]
    NoResponder,
}

impl BrokerError {
    /// Trying again later may work.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Evicted { .. })
    }
}

/// A call that arrived at a server of [`Broker::serve`].
pub struct Call {
    /// Its name: `rpc.<name>`.
    pub name: String,
    /// The request.
    pub payload: Bytes,
    /// Where the answer goes; dropped unanswered, the caller times out.
    pub respond: oneshot::Sender<Bytes>,
}

/// Calls as they arrive, until dropped.
pub type Calls = Pin<Box<dyn Stream<Item = Call> + Send>>;

/// Announcements as they arrive, until dropped.
pub type Controls = Pin<Box<dyn Stream<Item = Control> + Send>>;

/// Reads a shard's log in order, without gaps.
#[async_trait]
pub trait LogReader: Send {
    /// Waits for events, then returns what is there, `max` at most, in order. Returns an empty
    /// batch after `wait` without any.
    ///
    /// # Errors
    /// [`BrokerError::Evicted`] when the next event is no longer there, [`BrokerError::Epoch`]
    /// when the epoch has ended and all of it was returned, [`BrokerError::Unavailable`] after
    /// which the same reader may be asked again.
    async fn next_batch(&mut self, max: usize, wait: Duration) -> Result<Vec<Stored>, BrokerError>;
}

/// The broker. Its guarantees are those at the top of this module.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// How many shards the installation has.
    fn shards(&self) -> Shards;

    /// The connection, to watch.
    fn status(&self) -> watch::Receiver<BrokerStatus>;

    /// Whether a part of the broker was lost of late, so that what is asked may be lost on the way.
    fn is_unsettled(&self) -> bool {
        false
    }

    /// How often live delivery was interrupted: an atomic's read. Whoever finds it unchanged after a
    /// delivery knows that nothing before it was lost with a connection.
    fn interruptions(&self) -> u64;

    /// Events that were stored with others by one sync, since this process began.
    fn stored_together(&self) -> u64 {
        0
    }

    /// The broker's clock, as far as this process knows it: the clock of [`Stored::stored_at`].
    fn now(&self) -> Timestamp;

    /// The epoch that `shard` is in, as far as this process knows; [`BrokerError::NoLog`] if there is none.
    async fn epoch(&self, shard: Shard) -> Result<CurrentEpoch, BrokerError>;

    /// Stores an event in the shard of its topic, in the shard's current epoch; [`BrokerError::Epoch`] if
    /// that is not the event's.
    async fn publish(&self, event: Outgoing) -> Result<Ack, BrokerError>;

    /// Passes an encoded [`crate::event::Ephemeral`] on to who listens now.
    async fn publish_ephemeral(&self, topic: Topic, payload: Bytes) -> Result<(), BrokerError>;

    /// Starts live delivery. Complete only together with [`Broker::fence`].
    async fn subscribe(&self, interest: Interest) -> Result<Subscription, BrokerError>;

    /// A position `L` such that everything stored in `shard` after `L` reaches all subscriptions
    /// made by this process before the call.
    async fn fence(&self, shard: Shard) -> Result<Position, BrokerError>;

    /// How `shard`'s log stands, [`BrokerError::NoLog`] if there is none.
    async fn log_state(&self, shard: Shard) -> Result<LogState, BrokerError>;

    /// How much `shard`'s log holds, [`BrokerError::NoLog`] if there is none.
    async fn log_size(&self, shard: Shard) -> Result<LogSize, BrokerError>;

    /// The first sequence still stored of `shard`'s log in `epoch`; none if that is not there. One
    /// question at most, unlike [`Broker::log_state`].
    async fn first(&self, shard: Shard, epoch: Epoch) -> Result<Option<u64>, BrokerError> {
        let state = self.log_state(shard).await?;
        Ok((state.epoch == epoch).then_some(state.first))
    }

    /// The event at `position`, if it is there.
    async fn get(&self, shard: Shard, position: Position) -> Result<Option<Stored>, BrokerError>;

    /// The first event of `topic` after `after`, if there is one. Of the current epoch only.
    async fn next_of(&self, topic: Topic, after: Position) -> Result<Option<Stored>, BrokerError>;

    /// Which of `topics`, all of `shard`, have events after `after`. The answer is complete up to
    /// `at_least` or beyond, else [`BrokerError::Unavailable`] (a lagging replica).
    async fn tails(&self, shard: Shard, topics: &[Topic], after: Position, at_least: Position) -> Result<Tails, BrokerError>;

    /// Reads `shard` in order from after `after`; `after.epoch` names the epoch to read, current
    /// or retired.
    async fn read(&self, shard: Shard, after: Position) -> Result<Box<dyn LogReader>, BrokerError>;

    /// The epochs of `shard` that have ended and whose logs are still there, in order.
    async fn ended(&self, shard: Shard) -> Result<Vec<Epoch>, BrokerError>;

    /// Creates `shard`'s log as `epoch`, or ends the epoch it is in and goes on as `epoch`; then
    /// announces it. Only the persister calls this. Doing it twice is harmless.
    async fn open_epoch(&self, shard: Shard, epoch: Epoch) -> Result<(), BrokerError>;

    /// Sees to it that `shard`'s log is made as the guarantees need it, whoever made it. Only the persister calls this, each time
    /// before it works on the shard: once it is so, nothing is asked until the broker may be another.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] where an operator has to change it, and what; [`BrokerError::NoLog`] if there is none.
    async fn fit(&self, _shard: Shard) -> Result<(), BrokerError> {
        Ok(())
    }

    /// Announces to all services, this one included.
    async fn announce(&self, control: &Control) -> Result<(), BrokerError>;

    /// Listens to announcements.
    async fn controls(&self) -> Result<Controls, BrokerError>;

    /// Calls `rpc.<name>` of one of the persisters.
    async fn request(&self, name: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BrokerError>;

    /// Answers calls; several servers share them.
    async fn serve(&self) -> Result<Calls, BrokerError>;

    /// Says that what is applied up to `position`, safe from a loss of power, may be forgotten where the log is bounded by
    /// what is applied (the embedded log); nothing where retention is the server's.
    async fn applied(&self, shard: Shard, position: Position);
}
