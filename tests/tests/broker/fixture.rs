//! The brokers under test, and the few verbs the tests speak in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use natter_shared::{
    broker::{
        Ack, Broker, BrokerError, Delivery, LogReader, Outgoing, Stored, Subscription,
        embedded::{EmbeddedBroker, EmbeddedOptions},
        nats::{NatsBroker, NatsOptions, Role},
    },
    id::{EventId, GroupId, InstanceId},
    position::{Epoch, Position},
    subject::{Shard, Shards, Topic},
};
use natter_tests::nats::{NatsConfig, NatsServer};
use uuid::Uuid;

pub(crate) const SHARDS: u16 = 2;
/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A broker that can crash.
pub(crate) trait Fixture: Sized + Send {
    /// With epoch 1 open in all shards.
    fn start() -> impl Future<Output = Self> + Send;
    /// As the persister's process sees it.
    fn broker(&self) -> Arc<dyn Broker>;
    /// It ends without warning and comes back; acknowledged writes are on its disk.
    fn crash(&mut self) -> impl Future<Output = ()> + Send;
    /// It loses its store.
    fn wipe(&mut self) -> impl Future<Output = ()> + Send;
}

pub(crate) struct Nats {
    pub(crate) server: NatsServer,
    pub(crate) persister: Arc<NatsBroker>,
}

pub(crate) fn nats_options(server: &NatsServer) -> NatsOptions {
    NatsOptions {
        urls: vec![server.client_url()],
        shards: SHARDS,
        max_bytes_per_shard: 256 << 20,
        probe_interval: Duration::from_secs(1),
        ..NatsOptions::default()
    }
}

/// The same, where whatever can be is stored together, though NATS would be fast enough without.
pub(crate) struct Together(Nats);

pub(crate) fn eager(options: NatsOptions) -> NatsOptions {
    NatsOptions { eager_batches: true, ..options }
}

/// As deploy/nats.conf has it.
pub(crate) fn syncing() -> NatsConfig {
    NatsConfig { sync_always: true, ..NatsConfig::default() }
}

impl Nats {
    pub(crate) async fn connect(&self, role: Role) -> Arc<NatsBroker> {
        let options = nats_options(&self.server);
        let broker = NatsBroker::connect(options, role, InstanceId::random()).await.expect("options that work");
        connected(&*broker).await;
        broker
    }
}

impl Nats {
    pub(crate) async fn start_with(config: &NatsConfig, options: impl FnOnce(NatsOptions) -> NatsOptions) -> Self {
        log_to_stderr();
        let server = NatsServer::start(config).expect("a server");
        let options = options(nats_options(&server));
        let persister = NatsBroker::connect(options, Role::Persister, InstanceId::random()).await.expect("options that work");
        connected(&*persister).await;
        open_all(&*persister, Epoch(1)).await;
        // It knows the time by its first canary, and publishes nothing before.
        for shard in shards() {
            persister.fence(shard).await.expect("a fence");
        }
        Self { server, persister }
    }
}

impl Fixture for Nats {
    async fn start() -> Self {
        Self::start_with(&NatsConfig::default(), |options| options).await
    }

    fn broker(&self) -> Arc<dyn Broker> {
        self.persister.clone()
    }

    async fn crash(&mut self) {
        self.server.kill().expect("a server to kill");
        disconnected(&*self.persister).await;
        self.server.restart().expect("a server that comes back");
        connected(&*self.persister).await;
    }

    async fn wipe(&mut self) {
        self.server.wipe().expect("a store to wipe");
        disconnected(&*self.persister).await;
        self.server.restart().expect("a server that comes back");
        connected(&*self.persister).await;
    }
}

impl Fixture for Together {
    async fn start() -> Self {
        Self(Nats::start_with(&NatsConfig::default(), eager).await)
    }

    fn broker(&self) -> Arc<dyn Broker> {
        self.0.broker()
    }

    async fn crash(&mut self) {
        self.0.crash().await;
    }

    async fn wipe(&mut self) {
        self.0.wipe().await;
    }
}

pub(crate) struct Embedded {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) broker: Arc<EmbeddedBroker>,
}

pub(crate) fn embedded_options() -> EmbeddedOptions {
    EmbeddedOptions { shards: SHARDS, ..EmbeddedOptions::default() }
}

impl Embedded {
    async fn open(directory: &tempfile::TempDir) -> Arc<EmbeddedBroker> {
        let path = directory.path().join("log.db");
        EmbeddedBroker::open(&path, embedded_options()).await.expect("a log that opens")
    }
}

impl Fixture for Embedded {
    async fn start() -> Self {
        log_to_stderr();
        let directory = tempfile::tempdir().expect("a directory");
        let broker = Self::open(&directory).await;
        open_all(&*broker, Epoch(1)).await;
        Self { directory, broker }
    }

    fn broker(&self) -> Arc<dyn Broker> {
        self.broker.clone()
    }

    async fn crash(&mut self) {
        // What kill -9 leaves: the files as they are now, never closed.
        let copy = tempfile::tempdir().expect("a directory");
        for entry in std::fs::read_dir(self.directory.path()).expect("files") {
            let entry = entry.expect("a file");
            // SQLite's shared memory is rebuilt from the log after a crash.
            if !entry.file_name().to_string_lossy().ends_with("-shm") {
                std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a copy");
            }
        }
        self.directory = copy;
        self.broker = Self::open(&self.directory).await;
    }

    async fn wipe(&mut self) {
        self.directory = tempfile::tempdir().expect("a directory");
        self.broker = Self::open(&self.directory).await;
    }
}

fn log_to_stderr() {
    // The first test to come sets it for all.
    let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().try_init();
}

pub(crate) fn shards() -> impl Iterator<Item = Shard> {
    Shards::new(SHARDS).expect("some shards").iter()
}

pub(crate) async fn open_all(broker: &dyn Broker, epoch: Epoch) {
    for shard in shards() {
        broker.open_epoch(shard, epoch).await.expect("an epoch to open");
    }
}

pub(crate) async fn connected(broker: &dyn Broker) {
    let mut status = broker.status();
    let up = status.wait_for(|status| status.connected);
    tokio::time::timeout(PATIENCE, up).await.expect("a connection in time").expect("a broker");
}

pub(crate) async fn disconnected(broker: &dyn Broker) {
    let mut status = broker.status();
    let down = status.wait_for(|status| !status.connected);
    tokio::time::timeout(PATIENCE, down).await.expect("a disconnection in time").expect("a broker");
}

/// A group that no other test knows.
pub(crate) fn group() -> Topic {
    Topic::Group(GroupId(Uuid::now_v7()))
}

/// A group of `shard`.
pub(crate) fn group_in(broker: &dyn Broker, shard: Shard) -> Topic {
    loop {
        let topic = group();
        if broker.shards().of(topic) == shard {
            return topic;
        }
    }
}

/// An event with a number as its payload, to know it by.
pub(crate) fn event(broker: &dyn Broker, topic: Topic, n: u64) -> Outgoing {
    Outgoing { topic, id: EventId(Uuid::new_v4()), made_at: broker.now(), epoch: None, payload: Bytes::from(n.to_string()) }
}

pub(crate) fn number(stored: &Stored) -> u64 {
    std::str::from_utf8(&stored.payload).expect("text").parse().expect("a number")
}

pub(crate) async fn publish(broker: &dyn Broker, topic: Topic, n: u64) -> Ack {
    broker.publish(event(broker, topic, n)).await.expect("an ack")
}

/// Publishes as a gateway does: again with the same id while the broker cannot.
pub(crate) async fn publish_stubbornly(broker: &dyn Broker, event: Outgoing) -> Ack {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match broker.publish(event.clone()).await {
            Ok(ack) => return ack,
            Err(error) if error.is_retryable() && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("not published: {error}"),
        }
    }
}

/// The next `count` stored events.
pub(crate) async fn take(live: &mut Subscription, count: usize) -> Vec<Stored> {
    let mut events = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while events.len() < count {
        let mut batch = Vec::new();
        let more = tokio::time::timeout_at(deadline, live.next_batch(&mut batch, count - events.len()));
        assert!(more.await.unwrap_or_else(|_| panic!("{} of {count} events came", events.len())), "not ended");
        events.extend(batch.into_iter().filter_map(|delivery| match delivery {
            Delivery::Stored(stored) => Some(stored),
            Delivery::Ephemeral { .. } => None,
        }));
    }
    events
}

/// The next `count` events of the log.
pub(crate) async fn read(reader: &mut dyn LogReader, count: usize) -> Vec<Stored> {
    let mut events = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while events.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} events read", events.len());
        match reader.next_batch(count - events.len(), Duration::from_millis(200)).await {
            Ok(batch) => events.extend(batch),
            Err(BrokerError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("not read: {error}"),
        }
    }
    events
}

pub(crate) async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Without canaries: those are in every log that has been fenced.
pub(crate) fn without_canaries(events: Vec<Stored>) -> Vec<Stored> {
    events.into_iter().filter(|stored| !matches!(stored.topic, Topic::Canary(_))).collect()
}

pub(crate) static NEXT: AtomicU64 = AtomicU64::new(1);

/// A number that no other event has.
pub(crate) fn next_number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) const START: Position = Position::new(Epoch(1), 0);
