//! A connection to NATS of our own, for the two that are hot: what delivers live, and what publishes.
//!
//! A gateway follows a subject for each of its groups, and of the client library one subscription alone keeps 5.9 KB;
//! here it is an entry of a table and a queue that has room for what waits. An answer to a request goes to who waits for it as it
//! is read, without tasks between. Messages are decoded in the order in which they came; so a canary's return shows
//! that all before it lie in their queues.

mod dial;
mod follow;
mod pump;
mod request;
mod wire;

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::HeaderName;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub(super) use self::{follow::Follower, request::Requests, wire::Incoming};
use super::{
    super::BrokerError,
    NatsError,
    connect::{self, Health},
    exchange::ExchangeError,
    options::{NatsOptions, Role},
};

/// The connection, and who follows what over it.
#[derive(Clone)]
pub(super) struct Link(Arc<Shared>);

struct Shared {
    /// Which it is.
    name: &'static str,
    core: Mutex<Core>,
    /// Woken when there is something to write.
    pump: AtomicWaker,
    connects: AtomicU64,
    /// Of one subscription.
    capacity: usize,
    /// Bytes that may wait to be written; above that nothing more is published.
    room: usize,
    health: Arc<Health>,
}

#[derive(Default)]
struct Core {
    server: Option<Server>,
    /// By subscription id.
    sinks: HashMap<u64, Entry>,
    next_id: u64,
    /// What is to be written.
    out: Vec<u8>,
    /// For good.
    has_ended: bool,
}

/// What it is connected to.
struct Server {
    version: String,
    /// The same, where it is one.
    numbers: Option<(u32, u32, u32)>,
    /// Bytes that headers and payload may have together.
    max_payload: usize,
}

struct Entry {
    subject: Box<str>,
    sink: Arc<dyn Sink>,
}

/// Where a subscription's messages go.
trait Sink: Send + Sync {
    /// Takes one, if there is room.
    fn take(&self, message: &Incoming<'_>, capacity: usize) -> Result<(), Full>;

    /// The connection is lost. What is published over the next one may come.
    fn lose(&self);

    /// No more will come.
    fn end(&self);
}

/// What a server takes that does not say so: its own default.
const MAX_PAYLOAD: usize = 1 << 20;

/// A subject that is followed until this is dropped.
struct Followed {
    id: u64,
    /// A link ends without those who follow it.
    link: Weak<Shared>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        if let Some(link) = self.link.upgrade() {
            link.leave(self.id);
        }
    }
}

/// A queue has no room: nothing of it is read fast enough.
struct Full;

/// Why something is not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsent {
    #[error("not connected")]
    Disconnected,
    /// The server takes less than is published, or has stopped.
    #[error("more waits to be sent than may")]
    Full,
    /// The server takes so many bytes at most.
    #[error("larger than the {0} bytes that NATS takes")]
    TooLarge(usize),
}

impl From<Unsent> for BrokerError {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Disconnected => Self::Unavailable(unsent.to_string()),
            Unsent::Full => Self::Busy,
            Unsent::TooLarge(_) => Self::Refused(unsent.to_string()),
        }
    }
}

impl From<Unsent> for ExchangeError {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Disconnected => Self::Disconnected,
            Unsent::Full => Self::Full,
            Unsent::TooLarge(_) => Self::Refused(unsent.to_string()),
        }
    }
}

/// What is published.
#[derive(Clone, Copy)]
pub(super) struct Publication<'a> {
    pub(super) subject: &'a str,
    /// Where an answer is to go.
    pub(super) reply: Option<&'a str>,
    pub(super) headers: &'a [(HeaderName, &'a str)],
    pub(super) payload: &'a [u8],
}

impl Link {
    /// Starts to connect and goes on trying until `stop`.
    pub(super) async fn start(
        name: &'static str,
        options: &NatsOptions,
        role: Role,
        health: Arc<Health>,
        stop: CancellationToken,
    ) -> Result<Self, NatsError> {
        let dialer = dial::Dialer::new(options, format!("natter-{}-{name}", role.as_str())).await?;
        let (capacity, room) = (options.subscription_capacity, options.max_in_flight_bytes.saturating_mul(2));
        let (core, pump, connects) = (Mutex::default(), AtomicWaker::new(), AtomicU64::new(0));
        let shared = Arc::new(Shared { name, core, pump, connects, capacity, room, health });
        tokio::spawn(pump::run(Arc::clone(&shared), dialer, stop));
        Ok(Self(shared))
    }

    /// Follows `subject`; what `decode` makes nothing of is left out. While disconnected it is kept, and sent on connect.
    pub(super) fn subscribe<T>(&self, subject: String, decode: fn(&Incoming<'_>) -> Option<T>) -> Follower<T>
    where
        T: Send + 'static,
    {
        let (sink, queue) = follow::queue(decode);
        Follower::new(queue, self.follow(subject, sink))
    }

    fn follow(&self, subject: String, sink: Arc<dyn Sink>) -> Followed {
        Followed { id: self.0.follow(subject, sink), link: Arc::downgrade(&self.0) }
    }

    /// Publishes all of them, or none, after all that was subscribed to and published before.
    pub(super) fn publish<'a>(&self, publications: impl IntoIterator<Item = Publication<'a>>) -> Result<(), Unsent> {
        let mut core = self.0.core.lock();
        let Core { server: Some(server), out, .. } = &mut *core else { return Err(Unsent::Disconnected) };
        let before = out.len();
        for publication in publications {
            let taken = if out.len() > self.0.room {
                Err(Unsent::Full)
            } else {
                wire::publish(out, publication, server.max_payload).map_err(|wire::TooLarge| Unsent::TooLarge(server.max_payload))
            };
            if taken.is_err() {
                out.truncate(before);
                return taken;
            }
        }
        drop(core);
        self.0.pump.wake();
        Ok(())
    }

    /// How often it was connected. Counted before anything is read of a connection: what came over an earlier one may not be
    /// followed by all that was published since.
    pub(super) fn connects(&self) -> u64 {
        self.0.connects.load(Ordering::Acquire)
    }

    /// The version of the server that it is connected to.
    pub(super) fn version(&self) -> Option<String> {
        self.0.core.lock().server.as_ref().map(|server| server.version.clone())
    }

    /// Whether that is `version` or newer.
    pub(super) fn is_at_least(&self, version: (u32, u32, u32)) -> bool {
        self.0.core.lock().server.as_ref().and_then(|server| server.numbers).is_some_and(|is| is >= version)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.0.core.lock().server.is_some()
    }
}

impl Shared {
    fn follow(&self, subject: String, sink: Arc<dyn Sink>) -> u64 {
        let mut core = self.core.lock();
        core.next_id += 1;
        let id = core.next_id;
        let is_connected = core.server.is_some();
        if is_connected {
            wire::subscribe(&mut core.out, &subject, id);
        }
        if core.has_ended {
            sink.end();
        }
        core.sinks.insert(id, Entry { subject: subject.into_boxed_str(), sink });
        drop(core);
        if is_connected {
            self.pump.wake();
        }
        id
    }

    fn leave(&self, id: u64) {
        let mut core = self.core.lock();
        // Dropped outside the lock.
        let left = core.sinks.remove(&id);
        if core.server.is_some() {
            wire::unsubscribe(&mut core.out, id);
            drop(core);
            self.pump.wake();
        }
        drop(left);
    }

    /// Connected: whatever is followed is asked for, before anything else is written.
    fn connected(&self, version: String, max_payload: Option<usize>) {
        self.connects.fetch_add(1, Ordering::AcqRel);
        let mut core = self.core.lock();
        let Core { out, sinks, server, .. } = &mut *core;
        for (id, entry) in sinks {
            wire::subscribe(out, &entry.subject, *id);
        }
        let numbers = connect::parse_version(&version);
        *server = Some(Server { version, numbers, max_payload: max_payload.unwrap_or(MAX_PAYLOAD) });
    }

    fn disconnected(&self) {
        let mut core = self.core.lock();
        core.server = None;
        core.out = Vec::new();
        for entry in core.sinks.values() {
            entry.sink.lose();
        }
    }

    /// For good.
    fn end(&self) {
        self.disconnected();
        let mut core = self.core.lock();
        core.has_ended = true;
        for entry in core.sinks.values() {
            entry.sink.end();
        }
    }
}
