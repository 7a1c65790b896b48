//! A broker, a database, and persisters between them.

use std::{path::Path, sync::Arc, time::Duration};

use natter_persister::{Connections, DatabaseOptions, Metrics, Options};
use natter_shared::{
    broker::{
        Ack, Broker, Outgoing, Stored,
        embedded::{EmbeddedBroker, EmbeddedOptions},
    },
    event::{Audience, Event, GroupCreated, GroupKind, Message, Notification, Read, Role, Seen, SeenWhat},
    id::{EventId, GroupId, InstanceId, MessageId, Nonce, NotificationId, UserId},
    position::Position,
    rpc::{self, Answer, Rpc, RpcError, ShardPosition, SignIn, SignedIn},
    subject::{Shard, Topic},
    timestamp::Timestamp,
};
use prometheus_client::registry::Registry;
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::postgres::Postgres;

pub(crate) struct Harness {
    pub(crate) broker: Arc<EmbeddedBroker>,
    pub(crate) database: DatabaseConnection,
    pub(crate) options: Options,
    pub(crate) server: Option<Postgres>,
    registries: Vec<Registry>,
    ready: Vec<watch::Receiver<bool>>,
    running: Vec<(CancellationToken, JoinHandle<Result<(), natter_persister::Error>>)>,
    pub(crate) directory: TempDir,
}

pub(crate) async fn open_broker(path: &Path) -> Arc<EmbeddedBroker> {
    EmbeddedBroker::open(path, EmbeddedOptions { sync: false, ..EmbeddedOptions::default() }).await.unwrap()
}

impl Harness {
    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("natter.db").display());
        Self::new(directory, url, None).await
    }

    pub(crate) async fn postgres() -> Self {
        let server = Postgres::start().unwrap();
        let url = server.create_database().unwrap();
        Self::new(tempfile::tempdir().unwrap(), url, Some(server)).await
    }

    async fn new(directory: TempDir, url: String, server: Option<Postgres>) -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().try_init();
        let broker = open_broker(&directory.path().join("log.db")).await;
        let database = DatabaseOptions { url, ..DatabaseOptions::default() };
        let options = Options {
            database,
            check_interval: Duration::from_millis(300),
            erasure_interval: Duration::from_millis(100),
            last_words: Duration::from_millis(500),
            ..Options::default()
        };
        let database = natter_persister::connect(&options.database).await.unwrap();
        let mut harness =
            Self { broker, database, options, server, registries: Vec::new(), ready: Vec::new(), running: Vec::new(), directory };
        harness.start().await;
        harness
    }

    /// Has an empty database in place of the one that there was.
    pub(crate) async fn take_an_empty_database(&mut self) {
        self.options.database.url = match &self.server {
            Some(server) => server.create_database().unwrap(),
            None => format!("sqlite:{}", self.directory.path().join("empty.db").display()),
        };
        self.database = natter_persister::connect(&self.options.database).await.unwrap();
    }

    /// Starts one more persister and waits until it is ready.
    pub(crate) async fn start(&mut self) {
        drop(self.start_with_a_handle().await);
    }

    /// The same, with its connections to the database.
    pub(crate) async fn start_with_a_handle(&mut self) -> Connections {
        let stop = CancellationToken::new();
        let (ready, mut is_ready) = watch::channel(false);
        self.ready.push(is_ready.clone());
        let connections = self.connections().await;
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        self.registries.push(registry);
        let broker: Arc<dyn Broker> = Arc::clone(&self.broker) as Arc<dyn Broker>;
        let (options, handle) = (self.options.clone(), connections.clone());
        let run = natter_persister::run(broker, connections, options, InstanceId::random(), stop.clone(), ready, metrics);
        self.running.push((stop, tokio::spawn(run)));
        tokio::time::timeout(Duration::from_secs(20), is_ready.wait_for(|ready| *ready)).await.expect("ready").unwrap();
        handle
    }

    /// Whether the persister that was started so many before the last is ready.
    pub(crate) fn is_ready(&self, before_the_last: usize) -> bool {
        *self.ready[self.ready.len() - 1 - before_the_last].borrow()
    }

    pub(crate) async fn connections(&self) -> Connections {
        let shards = self.broker.shards().count();
        Connections::open(&self.options.database, shards, &CancellationToken::new()).await.unwrap()
    }

    /// Runs a persister that is to end by itself.
    pub(crate) async fn run_to_its_end(&self) -> Result<(), natter_persister::Error> {
        let connections = self.connections().await;
        let broker: Arc<dyn Broker> = Arc::clone(&self.broker) as Arc<dyn Broker>;
        let (ready, metrics) = (watch::channel(false).0, Metrics::register(&mut Registry::default()));
        let stop = CancellationToken::new();
        let run = natter_persister::run(broker, connections, self.options.clone(), InstanceId::random(), stop, ready, metrics);
        tokio::time::timeout(Duration::from_secs(15), run).await.expect("ends")
    }

    /// The lines of this metric, of all persisters that were started.
    pub(crate) fn metric(&self, name: &str) -> Vec<String> {
        let mut text = String::new();
        for registry in &self.registries {
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        }
        text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
    }

    /// Stops all persisters.
    pub(crate) async fn stop(&mut self) {
        for (stop, task) in self.running.drain(..) {
            stop.cancel();
            tokio::time::timeout(Duration::from_secs(15), task).await.expect("stops").unwrap().unwrap();
        }
    }

    /// Ends all persisters where they stand.
    pub(crate) async fn abort(&mut self) {
        for (_, task) in self.running.drain(..) {
            task.abort();
            let _ = task.await;
        }
        self.sql("DELETE FROM leases").await;
    }

    pub(crate) fn shard(&self, topic: Topic) -> Shard {
        self.broker.shards().of(topic)
    }

    pub(crate) async fn publish(&self, topic: Topic, id: EventId, event: &Event) -> Ack {
        let outgoing = Outgoing { topic, id, made_at: self.broker.now(), epoch: None, payload: event.encode().unwrap() };
        self.broker.publish(outgoing).await.unwrap()
    }

    pub(crate) async fn say(&self, group: GroupId, sender: &UserId, body: &str) -> Ack {
        let message = message(group, sender, Nonce::now(), body);
        self.publish(Topic::Group(group), message.id.into(), &Event::Message(message)).await
    }

    pub(crate) async fn create(&self, kind: GroupKind, members: &[&UserId]) -> (GroupId, Ack) {
        let group = GroupId(uuid::Uuid::now_v7());
        let members = members.iter().map(|user| ((*user).clone(), Role::Member)).collect();
        let created = GroupCreated { group, kind, name: None, display_name: "a group".into(), members };
        (group, self.publish(Topic::Group(group), EventId::random(), &Event::GroupCreated(created)).await)
    }

    pub(crate) async fn notify(&self, to: Audience, sender: Option<&UserId>, body: &str) -> (NotificationId, Ack) {
        let nonce = Nonce::now();
        let from = sender.cloned().unwrap_or_else(|| user("system"));
        let id = NotificationId::derive(&from, nonce);
        let topic = match &to {
            Audience::User(user) => Topic::User(user.key()),
            Audience::Group(group) => Topic::Group(*group),
        };
        let notification = Notification { id, to, sender: sender.cloned(), nonce, body: body.into(), data: None };
        (id, self.publish(topic, id.into(), &Event::Notification(notification)).await)
    }

    pub(crate) async fn seen(&self, user: &UserId, what: SeenWhat, read: bool) -> Ack {
        let seen = Seen { user: user.clone(), what, read, archived: false };
        self.publish(Topic::User(user.key()), EventId::random(), &Event::Seen(seen)).await
    }

    pub(crate) async fn read(&self, user: &UserId, group: GroupId, position: Position) -> Ack {
        let read = Read { user: user.clone(), group, position };
        self.publish(Topic::User(user.key()), EventId::random(), &Event::Read(read)).await
    }

    /// Waits until `ack`'s event is applied.
    pub(crate) async fn applied(&self, topic: Topic, ack: Ack) {
        self.reached(self.shard(topic), ack.position).await;
    }

    pub(crate) async fn reached(&self, shard: Shard, position: Position) {
        self.eventually("applied", async || {
            let at = self.rows(&format!("SELECT epoch, seq FROM applied WHERE shard = {}", shard.0)).await;
            let row = at.first()?;
            let at: (i64, i64) = (row.try_get("", "epoch").unwrap(), row.try_get("", "seq").unwrap());
            (at >= (i64::from(position.epoch.0), position.seq as i64)).then_some(())
        })
        .await;
    }

    /// Polls until there is an answer.
    pub(crate) async fn eventually<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        // Far more than any of it takes, even where all of a backlog is waited for.
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(Instant::now() < deadline, "never {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn call<T: Rpc>(&self, call: T) -> Result<Answer<T::Reply>, RpcError> {
        rpc::call(&*self.broker, call, None).await
    }

    /// Calls once `ack`'s event is applied.
    pub(crate) async fn call_after<T: Rpc>(&self, topic: Topic, ack: Ack, call: T) -> T::Reply {
        let min_position = Some(ShardPosition { shard: self.shard(topic).0, position: ack.position });
        rpc::call(&*self.broker, call, min_position).await.unwrap().reply
    }

    pub(crate) async fn sign_in(&self, user: &UserId, handle: Option<&str>) -> SignedIn {
        let call = SignIn { user: user.clone(), handle: handle.map(str::to_owned), display_name: None, limit: 200, issued_at: None };
        self.call(call).await.unwrap().reply
    }

    pub(crate) async fn rows(&self, sql: &str) -> Vec<sea_orm::QueryResult> {
        self.database.query_all_raw(Statement::from_string(self.database.get_database_backend(), sql)).await.unwrap()
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.database.execute_unprepared(sql).await.unwrap();
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.rows(&format!("SELECT count(*) AS n FROM {sql}")).await[0].try_get("", "n").unwrap()
    }

    /// The tables of the database.
    pub(crate) async fn tables(&self) -> Vec<String> {
        let sql = match self.database.get_database_backend() {
            sea_orm::DbBackend::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
            _ => "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'",
        };
        self.rows(sql).await.iter().map(|row| row.try_get("", "name").unwrap()).collect()
    }

    /// All that is stored on `topic`.
    pub(crate) async fn log_of(&self, topic: Topic) -> Vec<Stored> {
        let shard = self.shard(topic);
        let epoch = self.broker.log_state(shard).await.unwrap().epoch;
        let mut reader = self.broker.read(shard, Position::new(epoch, 0)).await.unwrap();
        let mut found = Vec::new();
        loop {
            let batch = reader.next_batch(1000, Duration::from_millis(100)).await.unwrap();
            if batch.is_empty() {
                return found;
            }
            found.extend(batch.into_iter().filter(|stored| stored.topic == topic));
        }
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        for (_, task) in &self.running {
            task.abort();
        }
    }
}

pub(crate) fn user(id: &str) -> UserId {
    UserId::new(id).unwrap()
}

pub(crate) fn message(group: GroupId, sender: &UserId, nonce: Nonce, body: &str) -> Message {
    let id = MessageId::derive(sender, nonce);
    Message { id, group, sender: sender.clone(), nonce, body: body.into(), reply_to: None, data: None, origin: None }
}

pub(crate) fn long_ago(now: Timestamp) -> Timestamp {
    now.offset_by(-91_000)
}
