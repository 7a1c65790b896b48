//! The broker in one process: a log in its own SQLite file, and fan-out over channels.
//!
//! In the order of an event's way: writer (file) → log → live → reader; calls beside it. One
//! writer task commits what has queued up as one transaction, so that a lone publish costs one
//! sync and many at once share it. Only one process may have the file open.

mod backup;
mod beyond;
mod calls;
mod clock;
mod file;
mod live;
mod log;
mod reader;
mod retention;
mod writer;
mod writing;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::{backup::backup, beyond::count_beyond};
use self::{
    calls::Servers,
    clock::Clock,
    file::File,
    live::Hub,
    log::Logs,
    reader::EmbeddedReader,
    retention::Applied,
    writer::{Command, Writer},
};
use super::{
    Ack, Broker, BrokerError, BrokerStatus, Calls, Control, Controls, CurrentEpoch, Interest, LogReader, LogSize, LogState, Outgoing,
    Stored, Subscription, Tails, window::Window,
};
use crate::{
    position::{Epoch, Position},
    subject::{Shard, Shards, Topic},
    timestamp::Timestamp,
};

/// How far the log's time may be ahead of the machine's clock before that is worth a word.
const LEAD: Duration = Duration::from_mins(2);

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// How many shards; fixed when the installation is made. One file holds them all.
    pub shards: u16,
    /// Sync each group before it is acknowledged: survives a power loss, not only a crash.
    pub sync: bool,
    /// Bytes a shard keeps. What is not yet applied is kept beyond them; admission sees to it that
    /// there is not much of it.
    pub max_bytes_per_shard: u64,
    /// How long an applied event is kept at most.
    pub max_age: Duration,
    /// Publishes that wait for the writer; one more is [`BrokerError::Busy`].
    pub max_in_flight: usize,
    /// Bytes that wait, likewise.
    pub max_in_flight_bytes: usize,
    /// Deliveries that wait for one subscription; one more is lost and the generation rises.
    pub subscription_capacity: usize,
    /// Bytes of recent events a shard keeps in memory, so that readers near the end need no file.
    pub tail_bytes: usize,
    /// Calls served at once by one server.
    pub max_calls: usize,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            shards: 4,
            sync: true,
            max_bytes_per_shard: 1 << 30,
            max_age: Duration::from_hours(72),
            max_in_flight: 16_384,
            max_in_flight_bytes: 64 << 20,
            subscription_capacity: 1024,
            tail_bytes: 8 << 20,
            max_calls: 256,
        }
    }
}

/// Why the log did not open.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No shards.
    #[error("an installation has at least one shard")]
    Shards,
    /// The file was made with another number of shards.
    #[error("the log has {found} shards, not {asked}")]
    OtherShards {
        /// In the file.
        found: u16,
        /// In the options.
        asked: u16,
    },
    /// What SQLite says.
    #[error("the log cannot be opened")]
    File(#[from] sea_orm::DbErr),
}

/// The broker in one process.
pub struct EmbeddedBroker {
    shards: Shards,
    status: Arc<watch::Sender<BrokerStatus>>,
    commands: mpsc::Sender<Command>,
    window: Arc<Window>,
    file: File,
    logs: Arc<Logs>,
    hub: Arc<Hub>,
    servers: Servers,
    controls: tokio::sync::broadcast::Sender<Control>,
    applied: Arc<Applied>,
    clock: Arc<Clock>,
    max_bytes: u64,
    writer: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// Nothing is written any more: held by the writer's task, whether that stops or panics.
struct Ends(Arc<watch::Sender<BrokerStatus>>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.send_modify(|status| status.connected = false);
    }
}

/// The log's time never goes back, so a machine's clock that was ahead once stays in it.
fn warn_of_lead(lead: Duration) {
    if lead > LEAD {
        tracing::warn!(
            seconds = lead.as_secs(),
            "log_ahead_of_clock: events go on being stamped that far ahead. Where that is too much, see docs/operations.md, \"The clock of \
             natter\""
        );
    }
}

fn unavailable(error: impl std::fmt::Display) -> BrokerError {
    BrokerError::Unavailable(error.to_string())
}

impl EmbeddedBroker {
    /// Opens the log at `path`, or makes it.
    ///
    /// # Errors
    /// A file that cannot be opened or is of another installation.
    pub async fn open(path: &Path, options: EmbeddedOptions) -> Result<Arc<Self>, EmbeddedError> {
        let shards = Shards::new(options.shards).ok_or(EmbeddedError::Shards)?;
        let (file, writing) = File::open(path, &options).await?;
        let logs = Arc::new(Logs::load(&file, shards, options.tail_bytes).await?);
        warn_of_lead(logs.latest().since(Timestamp::now()));
        let status = Arc::new(watch::Sender::new(BrokerStatus { connected: true, generation: 0, elections: 0, leaders: 0 }));
        let hub = Arc::new(Hub::new(Arc::clone(&status), options.subscription_capacity));
        let applied = Arc::new(Applied::default());
        let clock = Arc::new(Clock::after(logs.latest()));
        let (commands, queue) = mpsc::channel(options.max_in_flight.max(1));
        let writer = Writer {
            file: writing,
            logs: Arc::clone(&logs),
            hub: Arc::clone(&hub),
            applied: Arc::clone(&applied),
            clock: Arc::clone(&clock),
            shards,
            max_bytes: options.max_bytes_per_shard,
            max_age: options.max_age,
            going: std::collections::VecDeque::new(),
        };
        let ends = Ends(Arc::clone(&status));
        let writer = tokio::spawn(async move {
            let _ends = ends;
            writer.run(queue).await;
        });
        let (controls, _) = tokio::sync::broadcast::channel(1024);
        Ok(Arc::new(Self {
            window: Window::new(options.max_in_flight, options.max_in_flight_bytes),
            servers: Servers::new(options.max_calls),
            shards,
            status,
            commands,
            file,
            logs,
            hub,
            controls,
            applied,
            clock,
            max_bytes: options.max_bytes_per_shard,
            writer: Mutex::new(Some(writer)),
        }))
    }

    /// Writes what is queued and closes the file; what is published after fails as unavailable.
    pub async fn close(&self) {
        let _ = self.commands.send(Command::Stop).await;
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            // A writer that panicked has nothing left to write.
            let _ = writer.await;
        }
        self.file.close().await;
    }

    /// Waits until nothing is written any more.
    pub async fn ended(&self) {
        let _ = self.status.subscribe().wait_for(|status| !status.connected).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, BrokerError>>) -> Command) -> Result<T, BrokerError> {
        let (sender, answer) = oneshot::channel();
        self.commands.send(command(sender)).await.map_err(|_| unavailable("closed"))?;
        answer.await.map_err(|_| unavailable("closed"))?
    }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    fn interruptions(&self) -> u64 {
        // There is no connection to lose.
        0
    }

    fn shards(&self) -> Shards {
        self.shards
    }

    fn status(&self) -> watch::Receiver<BrokerStatus> {
        self.status.subscribe()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn epoch(&self, shard: Shard) -> Result<CurrentEpoch, BrokerError> {
        self.logs.with(shard, |log| CurrentEpoch { epoch: log.epoch, since: log.since })
    }

    async fn publish(&self, event: Outgoing) -> Result<Ack, BrokerError> {
        // It goes with the event: the caller may give up, what is queued stays.
        let room = self.window.enter(event.payload.len())?;
        let (respond, answer) = oneshot::channel();
        self.commands.try_send(Command::Publish { event, room, respond }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => BrokerError::Busy,
            mpsc::error::TrySendError::Closed(_) => unavailable("closed"),
        })?;
        answer.await.map_err(|_| unavailable("closed"))?
    }

    async fn publish_ephemeral(&self, topic: Topic, payload: Bytes) -> Result<(), BrokerError> {
        self.hub.deliver_ephemeral(self.shards.of(topic), topic, payload);
        Ok(())
    }

    async fn subscribe(&self, interest: Interest) -> Result<Subscription, BrokerError> {
        Ok(Hub::subscribe(&self.hub, interest))
    }

    async fn fence(&self, shard: Shard) -> Result<Position, BrokerError> {
        // A group is entered in the log before it is delivered, and a subscription is in the hub
        // when `subscribe` returns: whatever is beyond the log's end now will find it there.
        let state = self.logs.state(shard)?;
        Ok(Position::new(state.epoch, state.last))
    }

    async fn log_state(&self, shard: Shard) -> Result<LogState, BrokerError> {
        self.logs.state(shard)
    }

    async fn log_size(&self, shard: Shard) -> Result<LogSize, BrokerError> {
        let (state, bytes) = self.logs.size(shard)?;
        // Nothing is evicted that is not applied, whatever its age.
        Ok(LogSize { state, first_at: Timestamp::default(), bytes, max_bytes: self.max_bytes, max_age: None })
    }

    async fn get(&self, shard: Shard, position: Position) -> Result<Option<Stored>, BrokerError> {
        match self.logs.get(shard, position) {
            log::Found::Here(stored) => Ok(Some(stored)),
            log::Found::Nowhere => Ok(None),
            log::Found::InFile => match self.file.get(shard, position).await {
                Ok(found) => Ok(found),
                // Its epoch may have been dropped meanwhile, table and all.
                Err(_) if matches!(self.logs.get(shard, position), log::Found::Nowhere) => Ok(None),
                Err(error) => Err(unavailable(error)),
            },
        }
    }

    async fn next_of(&self, topic: Topic, after: Position) -> Result<Option<Stored>, BrokerError> {
        let shard = self.shards.of(topic);
        match self.logs.next_of(shard, topic, after)? {
            (_, log::Found::Here(stored)) => Ok(Some(stored)),
            (_, log::Found::Nowhere) => Ok(None),
            (after, log::Found::InFile) => self.file.next_of(shard, topic, after).await.map_err(unavailable),
        }
    }

    async fn tails(&self, shard: Shard, topics: &[Topic], after: Position, at_least: Position) -> Result<Tails, BrokerError> {
        self.logs.tails(shard, topics, after, at_least)
    }

    async fn read(&self, shard: Shard, after: Position) -> Result<Box<dyn LogReader>, BrokerError> {
        let reader = EmbeddedReader::open(self.file.clone(), Arc::clone(&self.logs), shard, after).await?;
        Ok(Box::new(reader))
    }

    async fn ended(&self, shard: Shard) -> Result<Vec<Epoch>, BrokerError> {
        Ok(self.logs.ended_before(shard, Epoch(u32::MAX)))
    }

    async fn open_epoch(&self, shard: Shard, epoch: Epoch) -> Result<(), BrokerError> {
        let before = self.logs.state(shard).ok().map(|state| state.epoch);
        self.ask(|respond| Command::OpenEpoch { shard, epoch, respond }).await?;
        if before.is_some_and(|before| before != epoch) {
            self.status.send_modify(|status| status.generation += 1);
        }
        self.announce(&Control::Epoch { shard: shard.0, epoch }).await
    }

    async fn announce(&self, control: &Control) -> Result<(), BrokerError> {
        // Nobody may be listening.
        let _ = self.controls.send(control.clone());
        Ok(())
    }

    async fn controls(&self) -> Result<Controls, BrokerError> {
        Ok(calls::controls(self.controls.subscribe()))
    }

    async fn request(&self, name: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BrokerError> {
        self.servers.request(name, payload, timeout).await
    }

    async fn serve(&self) -> Result<Calls, BrokerError> {
        Ok(self.servers.serve())
    }

    async fn applied(&self, shard: Shard, position: Position) {
        self.applied.set(shard, position);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_writer_that_dies_is_a_broker_that_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let log = EmbeddedBroker::open(&directory.path().join("log.db"), EmbeddedOptions::default()).await.unwrap();
        assert!(log.status().borrow().connected);
        log.writer.lock().as_ref().unwrap().abort();
        tokio::time::timeout(Duration::from_secs(10), log.ended()).await.unwrap();
        assert!(log.open_epoch(Shard(0), Epoch(1)).await.is_err());
    }
}
