//! The broker over NATS JetStream: a stream for each shard and epoch, republished live.
//!
//! In the order of an event's way: options → connect (next, refusal) → publish (gather, pace, verdict, epochs, envelope) →
//! subscribe, fence (clock) → direct, reader. Streams are made in `streams`; calls and
//! announcements go through `calls`.

mod api;
mod calls;
mod clock;
mod connect;
mod direct;
mod envelope;
mod epochs;
mod exchange;
mod fence;
mod gather;
mod link;
mod next;
mod options;
mod pace;
mod publish;
mod reader;
mod refusal;
mod streams;
mod stuck;
mod subscribe;
mod unreachable;
mod verdict;

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    api::Api,
    clock::Clock,
    connect::{Change, Connections, Health, Lane},
    epochs::Epochs,
    exchange::Exchange,
    fence::{Fence, Prober},
    gather::Gather,
    link::{Incoming, Requests},
    pace::Pace,
    publish::Publisher,
    reader::NatsReader,
    stuck::Stuck,
    verdict::Verdict,
};
pub use self::{
    fence::Probe,
    options::{NatsAuth, NatsOptions, Role},
};
use super::{
    Ack, Broker, BrokerError, BrokerStatus, Calls, Control, Controls, CurrentEpoch, Interest, LogReader, LogSize, LogState, Outgoing,
    Stored, Subscription, Tails, window::Window,
};
use crate::{
    id::InstanceId,
    position::{Epoch, Position},
    subject::{self, Shard, Shards, Topic},
    timestamp::Timestamp,
};

/// Where JetStream says that a stream has got another leader.
const LEADER_ELECTED: &str = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.*";

/// Why the broker could not even be set up; NATS being away is none of these.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// A URL that is none.
    #[error("a NATS URL is nats://host:port or tls://host:port")]
    Url,
    /// No shards.
    #[error("an installation has at least one shard")]
    Shards,
    /// The credentials file cannot be read.
    #[error("the NATS credentials cannot be read")]
    Credentials(#[source] io::Error),
    /// Options that the client refuses.
    #[error("NATS cannot be set up")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The broker over NATS.
pub struct NatsBroker {
    options: NatsOptions,
    role: Role,
    instance: InstanceId,
    shards: Shards,
    connections: Arc<Connections>,
    health: Arc<Health>,
    clock: Arc<Clock>,
    epochs: Arc<Epochs>,
    publisher: Publisher,
    api: Api,
    calls: Exchange,
    fences: Arc<Vec<Fence>>,
    /// The epoch whose stream was found fit, and how often NATS had been connected to then.
    fit: Mutex<HashMap<Shard, (Epoch, u64)>>,
    stop: CancellationToken,
}

fn setup(error: impl std::error::Error + Send + Sync + 'static) -> NatsError {
    NatsError::Connect(Box::new(error))
}

impl NatsBroker {
    /// Sets everything up and returns at once; connects in the background and goes on trying.
    ///
    /// # Errors
    /// Options that can never work.
    pub async fn connect(options: NatsOptions, role: Role, instance: InstanceId) -> Result<Arc<Self>, NatsError> {
        let shards = Shards::new(options.shards).ok_or(NatsError::Shards)?;
        let health = Health::new(role, &options.auth);
        let stop = CancellationToken::new();
        let connections = Arc::new(Connections::open(&options, role, instance, &health, &stop).await?);
        let inbox = connect::inbox_prefix(role, instance, "publish");
        let requests = Requests::new(&connections.publishing, inbox, Verdict::read);
        let recovery = Exchange::start(connections.recovery.clone(), stop.clone()).await.map_err(setup)?;
        let calls = Exchange::start(connections.calls.clone(), stop.clone()).await.map_err(setup)?;
        let api = Api { exchange: recovery.clone(), timeout: options.request_timeout };
        let clock = Arc::new(Clock::default());
        let epochs = Arc::new(Epochs::new(api.clone(), Arc::clone(&health), shards));
        let paces: Vec<_> = shards.iter().map(|_| Arc::new(Pace::new(options.eager_batches))).collect();
        let prober = Prober {
            instance,
            live: connections.live.clone(),
            clock: Arc::clone(&clock),
            health: Arc::clone(&health),
            epochs: Arc::clone(&epochs),
        };
        let mut fences = Vec::with_capacity(usize::from(shards.count()));
        for (shard, pace) in shards.iter().zip(&paces) {
            fences.push(Fence::start(shard, Arc::clone(pace), prober.clone(), stop.clone()));
        }
        let fences = Arc::new(fences);
        let publisher = Publisher {
            gather: Gather::new(requests, &paces, &options),
            epochs: Arc::clone(&epochs),
            clock: Arc::clone(&clock),
            health: Arc::clone(&health),
            shards,
            window: Window::new(options.max_in_flight, options.max_in_flight_bytes),
            stuck: Stuck::new(shards),
            fences: Arc::clone(&fences),
            api: api.clone(),
            timeout: options.publish_timeout,
        };
        let broker = Arc::new(Self {
            options,
            role,
            instance,
            shards,
            connections: Arc::clone(&connections),
            health: Arc::clone(&health),
            clock,
            epochs: Arc::clone(&epochs),
            publisher,
            api,
            calls: calls.clone(),
            fences,
            fit: Mutex::default(),
            stop: stop.clone(),
        });
        broker.start_tasks(recovery, calls).await?;
        Ok(broker)
    }

    /// The tasks that live as long as the broker. They hold none of it, so that dropping it ends them.
    async fn start_tasks(&self, recovery: Exchange, calls: Exchange) -> Result<(), NatsError> {
        let (connections, health) = (Arc::clone(&self.connections), Arc::clone(&self.health));
        let (epochs, shards) = (Arc::clone(&self.epochs), self.shards);
        let (publishers_health, role) = (Arc::clone(&self.health), self.role);
        let tell = move |change| match change {
            // What a persister passed on, and nobody acks, is told again.
            Change::Broke(Lane::Publishing) if role == Role::Persister => publishers_health.raise_generation(),
            // What was in flight has failed; subscriptions come back by themselves, and the generation says what that cost.
            Change::Broke(Lane::Publishing | Lane::Subscribing) => {}
            Change::Broke(Lane::Recovery) => recovery.fail_all(),
            Change::Broke(Lane::Calls) => calls.fail_all(),
            Change::Came => {
                let epochs = Arc::clone(&epochs);
                tokio::spawn(async move {
                    for shard in shards.iter() {
                        epochs.look_again(shard).await;
                    }
                });
            }
        };
        tokio::spawn(unreachable::explain(self.options.clone(), self.role, Arc::clone(&health), self.stop.clone()));
        tokio::spawn(connect::follow(connections, health, self.stop.clone(), tell));
        let mut controls = self.controls_now().await.map_err(setup)?;
        let (epochs, stop) = (Arc::clone(&self.epochs), self.stop.clone());
        tokio::spawn(async move {
            while let Some(Some(control)) = stop.run_until_cancelled(controls.next()).await {
                match control {
                    Control::Epoch { shard, .. } => {
                        // Announced, but the server's word counts.
                        epochs.look_again(Shard(shard)).await;
                    }
                    Control::Applied { .. } | Control::Standings { .. } | Control::Gateway { .. } => {}
                }
            }
        });
        let health = Arc::clone(&self.health);
        let mut elections = self.connections.live.subscribe(LEADER_ELECTED.to_owned(), of_our_stream);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            while let Some(Some(())) = stop.run_until_cancelled(elections.next()).await {
                health.note_leader();
            }
        });
        let (fences, health) = (Arc::clone(&self.fences), Arc::clone(&self.health));
        tokio::spawn(fence::probe_all(fences, health, self.options.probe_interval, self.stop.clone()));
        Ok(())
    }

    /// The last canary of `shard` that came back: end-to-end latency, and when that was.
    pub fn last_probe(&self, shard: Shard) -> Option<Probe> {
        self.fences.get(usize::from(shard.0))?.last_probe()
    }

    /// The broker's time is known: a canary has come back.
    pub fn clock_known(&self) -> bool {
        self.health.clock_known()
    }
}

/// An advisory that one of our streams has another leader.
fn of_our_stream(advisory: &Incoming<'_>) -> Option<()> {
    subject::parse_stream_name(advisory.subject.rsplit('.').next()?).map(drop)
}

impl Drop for NatsBroker {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Broker for NatsBroker {
    fn shards(&self) -> Shards {
        self.shards
    }

    fn status(&self) -> watch::Receiver<BrokerStatus> {
        self.health.watch()
    }

    fn is_unsettled(&self) -> bool {
        self.health.is_unsettled()
    }

    fn interruptions(&self) -> u64 {
        self.connections.live.connects()
    }

    fn stored_together(&self) -> u64 {
        self.publisher.gather.stored_together()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn epoch(&self, shard: Shard) -> Result<CurrentEpoch, BrokerError> {
        let current = self.publisher.epochs.current(shard).await?;
        Ok(CurrentEpoch { epoch: current.epoch, since: Some(current.since) })
    }

    async fn publish(&self, event: Outgoing) -> Result<Ack, BrokerError> {
        self.publisher.publish(event).await
    }

    async fn publish_ephemeral(&self, topic: Topic, payload: Bytes) -> Result<(), BrokerError> {
        self.publish_ephemeral_now(topic, &payload)
    }

    async fn subscribe(&self, interest: Interest) -> Result<Subscription, BrokerError> {
        Ok(self.subscribe_now(interest))
    }

    async fn fence(&self, shard: Shard) -> Result<Position, BrokerError> {
        let fence = self.fences.get(usize::from(shard.0)).ok_or(BrokerError::NoLog(shard))?;
        fence.wait().await
    }

    async fn log_state(&self, shard: Shard) -> Result<LogState, BrokerError> {
        self.log_state_now(shard).await
    }

    async fn log_size(&self, shard: Shard) -> Result<LogSize, BrokerError> {
        self.log_size_now(shard).await
    }

    async fn first(&self, shard: Shard, epoch: Epoch) -> Result<Option<u64>, BrokerError> {
        self.first_now(shard, epoch).await
    }

    async fn get(&self, shard: Shard, position: Position) -> Result<Option<Stored>, BrokerError> {
        self.get_now(shard, position).await
    }

    async fn next_of(&self, topic: Topic, after: Position) -> Result<Option<Stored>, BrokerError> {
        self.next_of_now(topic, after).await
    }

    async fn tails(&self, shard: Shard, topics: &[Topic], after: Position, at_least: Position) -> Result<Tails, BrokerError> {
        self.tails_now(shard, topics, after, at_least).await
    }

    async fn read(&self, shard: Shard, after: Position) -> Result<Box<dyn LogReader>, BrokerError> {
        let mut reader = NatsReader::new(self.api.clone(), Arc::clone(&self.epochs), shard, after);
        reader.reopen().await?;
        Ok(Box::new(reader))
    }

    async fn ended(&self, shard: Shard) -> Result<Vec<Epoch>, BrokerError> {
        Ok(self.api.epochs_of(shard, &subject::all_retired(shard)).await?)
    }

    async fn open_epoch(&self, shard: Shard, epoch: Epoch) -> Result<(), BrokerError> {
        self.open_epoch_now(shard, epoch).await
    }

    async fn fit(&self, shard: Shard) -> Result<(), BrokerError> {
        self.fit_now(shard).await
    }

    async fn announce(&self, control: &Control) -> Result<(), BrokerError> {
        self.announce_now(control).await
    }

    async fn controls(&self) -> Result<Controls, BrokerError> {
        self.controls_now().await
    }

    async fn request(&self, name: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BrokerError> {
        self.request_now(name, payload, timeout).await
    }

    async fn serve(&self) -> Result<Calls, BrokerError> {
        self.serve_now().await
    }

    async fn applied(&self, _shard: Shard, _position: Position) {}
}
