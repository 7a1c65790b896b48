//! Streams that are there already, as another release or an operator made them: a persister sees to them, or says what is wrong.

use std::{sync::Arc, time::Duration};

use natter_persister::{Connections, DatabaseOptions, Options};
use natter_shared::{
    broker::{
        Broker, BrokerError,
        nats::{NatsBroker, NatsOptions, Role},
    },
    id::InstanceId,
    position::Epoch,
    subject::{self, Shard, Space},
    telemetry::metrics::Registry,
};
use natter_tests::{
    proxy::{Proxy, Select},
    sql::Sql,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::fixture::{Fixture as _, Nats, PATIENCE, eventually, group_in, nats_options, publish, shards};

/// A persister at work, until dropped.
pub(crate) struct Running {
    ready: watch::Receiver<bool>,
    database: String,
    _stop: DropGuard,
    _folder: tempfile::TempDir,
}

impl Running {
    pub(crate) async fn start(broker: Arc<dyn Broker>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("natter.db").display());
        let database = DatabaseOptions { url: url.clone(), ..DatabaseOptions::default() };
        // The streams have been written to, and the database is new.
        let options = Options { database, without_history: true, ..Options::default() };
        let shards = broker.shards().count();
        let connections = Connections::open(&options.database, shards, &CancellationToken::new()).await.expect("a database");
        let metrics = Registry::new("test").register(natter_persister::Metrics::register);
        let (stop, (told, ready)) = (CancellationToken::new(), watch::channel(false));
        tokio::spawn(natter_persister::run(broker, connections, options, InstanceId::random(), stop.clone(), told, metrics));
        Self { ready, database: url, _stop: stop.drop_guard(), _folder: folder }
    }

    async fn is_ready_within(&mut self, patience: Duration) -> bool {
        tokio::time::timeout(patience, self.ready.wait_for(|ready| *ready)).await.is_ok_and(|ready| ready.is_ok())
    }

    async fn is_unready_within(&mut self, patience: Duration) -> bool {
        tokio::time::timeout(patience, self.ready.wait_for(|ready| !*ready)).await.is_ok_and(|ready| ready.is_ok())
    }

    /// How far the shard is in SQL, if it has come there at all.
    async fn applied(&self, shard: Shard) -> Option<i64> {
        let sql = Sql::connect(&self.database).await.expect("a database");
        // Before it is migrated there is no table.
        let rows = sql.rows(&format!("SELECT seq FROM applied WHERE shard = {}", shard.0)).await.ok()?;
        rows.first().map(|row| row.try_get_by_index(0).expect("a number"))
    }
}

/// The config of a shard's stream, after some of it was changed.
pub(crate) async fn edited(nats: &Nats, shard: Shard, changes: &[(&str, Value)]) -> Value {
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats.server.client_url()).await.expect("a client"));
    let name = subject::stream_name(shard, Epoch(1));
    let call = async |what: &str, config: Value| {
        let answer: Value = jetstream.request(format!("STREAM.{what}.{name}"), &config).await.expect("an answer");
        assert!(answer["config"].is_object(), "{answer}");
        answer["config"].clone()
    };
    let mut config = call("INFO", json!({})).await;
    for (field, value) in changes {
        config[field] = value.clone();
    }
    if changes.is_empty() { config } else { call("UPDATE", config).await }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persister_lets_streams_that_are_there_take_batches() {
    let nats = Nats::start().await;
    for shard in shards() {
        assert!(edited(&nats, shard, &[("allow_atomic", json!(false))]).await.get("allow_atomic").is_none());
    }
    let mut persister = Running::start(nats.connect(Role::Persister).await).await;
    assert!(persister.is_ready_within(PATIENCE).await);
    for shard in shards() {
        eventually("batches allowed", async || (edited(&nats, shard, &[]).await["allow_atomic"] == true).then_some(())).await;
    }
}

fn minutes(minutes: u64) -> Value {
    json!(Duration::from_mins(minutes).as_nanos() as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persister_does_not_work_on_a_stream_that_forgets_ids_too_soon() {
    let nats = Nats::start().await;
    let [shard, other] = shards().collect::<Vec<_>>()[..] else { panic!("two shards") };
    // No guarantee rests on the others, and operators change them.
    let free = [("max_age", minutes(60 * 24)), ("max_bytes", json!(512 << 20)), ("description", json!("ours"))];
    for shard in shards() {
        edited(&nats, shard, &free).await;
    }
    edited(&nats, shard, &[("duplicate_window", minutes(1))]).await;
    let stored = publish(&*nats.persister, group_in(&*nats.persister, shard), 1).await.position;
    let broker = nats.connect(Role::Persister).await;
    let mut persister = Running::start(broker.clone()).await;
    eventually("the other shard applied", async || persister.applied(other).await).await;
    // Each time: not only where the stream has just been made.
    for _ in 0..2 {
        let refused = broker.fit(shard).await;
        assert!(matches!(&refused, Err(BrokerError::Refused(reason)) if reason.contains("duplicate_window")), "{refused:?}");
        assert!(!persister.is_ready_within(Duration::from_secs(2)).await);
        assert_eq!(persister.applied(shard).await, None);
    }
    edited(&nats, shard, &[("duplicate_window", minutes(2))]).await;
    assert!(persister.is_ready_within(PATIENCE).await);
    let is_applied = async || persister.applied(shard).await.is_some_and(|seq| seq as u64 >= stored.seq);
    eventually("the event applied", async || is_applied().await.then_some(())).await;
    let refused = nats.connect(Role::Gateway).await.fit(shard).await;
    assert!(matches!(refused, Err(BrokerError::Refused(_))), "only persisters change streams: {refused:?}");
}

/// Also one that is connected again before anybody sees that it was not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persister_that_comes_back_to_a_stream_that_forgets_ids_too_soon_is_not_ready() {
    let nats = Nats::start().await;
    let shard = shards().next().expect("a shard");
    let proxy = Proxy::start(nats.server.address()).expect("a proxy");
    let options = NatsOptions { urls: vec![proxy.nats_url()], ..nats_options(&nats.server) };
    let broker = NatsBroker::connect(options, Role::Persister, InstanceId::random()).await.expect("options that work");
    let mut persister = Running::start(broker).await;
    assert!(persister.is_ready_within(PATIENCE).await);
    edited(&nats, shard, &[("duplicate_window", minutes(1))]).await;
    assert_eq!(proxy.cut(&Select::All), 4);
    assert!(persister.is_unready_within(PATIENCE).await);
    assert!(!persister.is_ready_within(Duration::from_secs(3)).await);
    edited(&nats, shard, &[("duplicate_window", minutes(2))]).await;
    assert!(persister.is_ready_within(PATIENCE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_with_a_setting_that_no_stream_of_ours_has_is_refused() {
    let nats = Nats::start().await;
    let shard = shards().next().expect("a shard");
    let ours = subject::all_of(Space::Event, shard);
    let settings = [
        ("no_ack", json!(true), json!(false)),
        ("subject_transform", json!({ "src": ours, "dest": format!("other.{ours}") }), Value::Null),
        ("sources", json!([{ "name": "OTHERS" }]), Value::Null),
    ];
    for (field, set, unset) in settings {
        edited(&nats, shard, &[(field, set), ("allow_atomic", json!(false))]).await;
        let refused = nats.connect(Role::Persister).await.fit(shard).await;
        assert!(matches!(&refused, Err(BrokerError::Refused(reason)) if reason.contains(field)), "{refused:?}");
        edited(&nats, shard, &[(field, unset)]).await;
        nats.connect(Role::Persister).await.fit(shard).await.expect("a fit stream");
    }
}
