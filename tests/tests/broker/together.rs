//! What comes at once is stored together, and each of it as if it had come alone.

use std::{
    collections::HashMap,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::join_all};
use natter_shared::{
    broker::{
        Ack, Broker, BrokerError, Outgoing,
        nats::{NatsBroker, NatsOptions, Role},
    },
    id::{EventId, InstanceId},
    position::{Epoch, Position},
    subject::{self, Shard, Space, Topic},
};
use natter_tests::{
    nats::NatsConfig,
    proxy::{Proxy, Select},
    skipped::skip,
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::fit::{Running, edited};
use crate::fixture::{
    Nats, PATIENCE, START, connected, disconnected, eager, event, eventually, group_in, nats_options, number, publish, publish_stubbornly,
    read, shards, syncing, without_canaries,
};

async fn connect(nats: &Nats, options: impl FnOnce(NatsOptions) -> NatsOptions) -> Arc<NatsBroker> {
    // Long enough for whatever a busy machine does.
    let options = options(NatsOptions { publish_timeout: PATIENCE, ..nats_options(&nats.server) });
    let broker = NatsBroker::connect(options, Role::Gateway, InstanceId::random()).await.expect("options that work");
    connected(&*broker).await;
    broker.fence(first_shard()).await.expect("a fence");
    broker
}

fn first_shard() -> Shard {
    shards().next().expect("a shard")
}

fn events(broker: &dyn Broker, count: u64) -> Vec<Outgoing> {
    let topics: Vec<Topic> = (0..20).map(|_| group_in(broker, first_shard())).collect();
    (0..count).map(|n| event(broker, topics[n as usize % topics.len()], n)).collect()
}

async fn publish_all(broker: &dyn Broker, events: &[Outgoing]) -> Vec<Result<Ack, BrokerError>> {
    join_all(events.iter().map(|event| broker.publish(event.clone()))).await
}

/// Publishes `count` at once, all of which are stored.
async fn flood(broker: &dyn Broker, count: u64) {
    let acks = publish_all(broker, &events(broker, count)).await;
    assert!(acks.iter().all(Result::is_ok), "{acks:?}");
}

/// Many who publish one event after the other, each in a group of its own.
struct Senders {
    is_over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<HashMap<EventId, Position>>>,
}

impl Senders {
    fn start(broker: &Arc<NatsBroker>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let send = |sender| {
            let (broker, is_over) = (Arc::clone(broker), Arc::clone(&is_over));
            tokio::spawn(async move {
                let topic = group_in(&*broker, first_shard());
                let mut acked = HashMap::new();
                while !is_over.load(Ordering::Relaxed) {
                    let event = event(&*broker, topic, sender);
                    acked.insert(event.id, publish_stubbornly(&*broker, event).await.position);
                }
                acked
            })
        };
        Self { tasks: (0..200).map(send).collect(), is_over }
    }

    /// What was acked.
    async fn stop(self) -> HashMap<EventId, Position> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut acked = HashMap::new();
        for task in self.tasks {
            acked.extend(tokio::time::timeout(PATIENCE, task).await.expect("in time").expect("no panic"));
        }
        acked
    }
}

/// While batches go on.
async fn in_the_middle_of_batches(broker: &NatsBroker) {
    let before = broker.stored_together();
    eventually("batches again", async || (broker.stored_together() > before + 1000).then_some(())).await;
}

/// Each of `sent` is in the log once, where its ack said.
async fn assert_each_is_where_its_ack_said(broker: &dyn Broker, sent: &HashMap<EventId, Position>) {
    let last = broker.log_state(first_shard()).await.expect("a log").last;
    let mut reader = broker.read(first_shard(), START).await.expect("a reader");
    let log = without_canaries(read(&mut *reader, usize::try_from(last).expect("small")).await);
    let mut found = HashMap::new();
    for stored in log {
        assert_eq!(found.insert(stored.id, stored.position), None, "{} is stored twice", stored.id.0);
    }
    for (id, position) in sent {
        assert_eq!(found.get(id), Some(position));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_stored_together_each_where_its_ack_says() {
    let nats = Nats::start_with(&syncing(), eager).await;
    let broker = connect(&nats, eager).await;
    let events = events(&*broker, 2000);
    let acks = publish_all(&*broker, &events).await;
    let acked = events.iter().zip(acks).map(|(event, ack)| (event.id, ack.expect("an ack").position)).collect();
    assert_each_is_where_its_ack_said(&*broker, &acked).await;
    // All but the first of them, and what was the last alone.
    assert!(broker.stored_together() > 1900, "{}", broker.stored_together());
    // One by one there is nothing to gather.
    let before = broker.stored_together();
    for n in 0..5 {
        publish(&*broker, events[0].topic, n).await;
    }
    assert_eq!(broker.stored_together(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_every_size_that_may_be_set_are_stored() {
    for (batch, count) in [(1, 2500), (2, 100), (1000, 2500)] {
        let nats = Nats::start_with(&syncing(), eager).await;
        let broker = connect(&nats, |options| NatsOptions { batch, ..eager(options) }).await;
        let events = events(&*broker, count);
        let acks = publish_all(&*broker, &events).await;
        let acked = events.iter().zip(acks).map(|(event, ack)| (event.id, ack.expect("an ack").position)).collect();
        assert_each_is_where_its_ack_said(&*broker, &acked).await;
        assert_eq!(broker.stored_together() == 0, batch == 1, "{batch}: {}", broker.stored_together());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_copy_in_a_batch_keeps_none_of_the_others_from_being_stored() {
    let nats = Nats::start_with(&syncing(), eager).await;
    let broker = connect(&nats, eager).await;
    let mut events = events(&*broker, 300);
    let known = broker.publish(events[7].clone()).await.expect("an ack");
    // One is stored already, and one comes twice at once.
    let twice = events[11].clone();
    events.push(twice);
    let acks = publish_all(&*broker, &events).await;
    let acks: Vec<_> = acks.into_iter().map(|ack| ack.expect("an ack")).collect();
    assert_eq!((acks[7].position, acks[7].duplicate), (known.position, true));
    assert_eq!(acks[11].position, acks[300].position);
    assert!(acks[11].duplicate != acks[300].duplicate, "one of them was the first");
    let acked = events.iter().zip(acks).map(|(event, ack)| (event.id, ack.position)).collect();
    assert_each_is_where_its_ack_said(&*broker, &acked).await;
    // And soon batches go on.
    let before = broker.stored_together();
    eventually("batches again", async || {
        flood(&*broker, 50).await;
        (broker.stored_together() > before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_too_large_keeps_none_of_the_others_from_being_stored() {
    let nats = Nats::start_with(&syncing(), eager).await;
    let broker = connect(&nats, eager).await;
    let mut events = events(&*broker, 100);
    events[50].payload = vec![b'x'; 2 << 20].into();
    let acks = publish_all(&*broker, &events).await;
    for (n, ack) in acks.into_iter().enumerate() {
        match ack {
            Err(BrokerError::Refused(_)) if n == 50 => {}
            Ok(_) if n != 50 => {}
            other => panic!("{n}: {other:?}"),
        }
    }
}

/// Nothing is eager here: that the disk is slow is found out. A disk in memory has nothing to sync, and then nothing gathers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_syncs_goes_together() {
    let nats = Nats::start_with(&syncing(), |options| options).await;
    let mut file = std::fs::File::create(nats.server.store().join("probe")).expect("a file");
    let mut sync = || {
        let begun = Instant::now();
        file.write_all(b"x").and_then(|()| file.sync_data()).expect("a write");
        begun.elapsed()
    };
    if (0..20).map(|_| sync()).min() < Some(Duration::from_micros(80)) {
        skip("syncing to this disk takes no time");
        return;
    }
    let broker = connect(&nats, |options| options).await;
    eventually("batches", async || {
        flood(&*broker, 1000).await;
        (broker.stored_together() > 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_gathers_where_nothing_is_synced() {
    let nats = Nats::start_with(&NatsConfig::default(), |options| options).await;
    // A machine that is busy enough makes any server slow for a moment.
    eventually("a flood of which each goes by itself", async || {
        let broker = connect(&nats, |options| options).await;
        flood(&*broker, 1000).await;
        (broker.stored_together() == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_that_begins_in_the_middle_of_batches_loses_nothing_and_moves_nothing() {
    let nats = Nats::start_with(&syncing(), eager).await;
    let broker = connect(&nats, eager).await;
    let senders = Senders::start(&broker);
    for epoch in 2..=4 {
        in_the_middle_of_batches(&broker).await;
        nats.persister.open_epoch(first_shard(), Epoch(epoch)).await.expect("an epoch");
    }
    in_the_middle_of_batches(&broker).await;
    let acked = senders.stop().await;
    for epoch in 1..=4 {
        assert!(acked.values().any(|position| position.epoch == Epoch(epoch)), "nothing in epoch {epoch}");
    }
    for (id, position) in acked {
        let found = nats.persister.get(first_shard(), position).await.expect("an answer").expect("an event");
        assert_eq!(found.id, id, "at {position:?}");
    }
}

/// Publishes many at once, none of which may be sent in a batch.
async fn assert_goes_one_by_one(nats: &Nats, broker: &NatsBroker) {
    let client = async_nats::connect(nats.server.client_url()).await.expect("a client");
    let mut sent = client.subscribe(subject::all_of(Space::Event, first_shard())).await.expect("a subscription");
    // The server has the subscription by the first canary of it.
    tokio::time::timeout(PATIENCE, sent.next()).await.expect("a canary").expect("a subscription");
    flood(broker, 200).await;
    let all_seen = async {
        let mut seen = 0;
        while seen < 200 {
            let message = sent.next().await.expect("a subscription");
            let in_batch = message.headers.as_ref().is_some_and(|headers| headers.get("Nats-Batch-Id").is_some());
            assert!(!in_batch, "after {seen} others");
            seen += usize::from(message.subject.contains(".g."));
        }
    };
    tokio::time::timeout(PATIENCE, all_seen).await.expect("all events");
}

/// As where the streams were made by an earlier release, or an operator has changed them, or they have several copies, whatever
/// the gateway's own config says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_takes_no_batches_is_sent_none_until_a_persister_has_seen_it() {
    let nats = Nats::start_with(&syncing(), eager).await;
    edited(&nats, first_shard(), &[("allow_atomic", json!(false))]).await;
    let broker = connect(&nats, eager).await;
    assert_goes_one_by_one(&nats, &broker).await;
    assert_eq!(broker.stored_together(), 0);
    let _persister = Running::start(nats.connect(Role::Persister).await).await;
    eventually("batches", async || {
        flood(&*broker, 20).await;
        (broker.stored_together() > 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stream_takes_is_looked_at_again_on_each_connection() {
    let nats = Nats::start_with(&syncing(), eager).await;
    let proxy = Proxy::start(nats.server.address()).expect("a proxy");
    let broker = connect(&nats, |options| eager(NatsOptions { urls: vec![proxy.nats_url()], ..options })).await;
    flood(&*broker, 200).await;
    assert!(broker.stored_together() > 0);
    edited(&nats, first_shard(), &[("allow_atomic", json!(false))]).await;
    assert_eq!(proxy.cut(&Select::named("recovery")), 1);
    // Within so long it is connected again, and has asked.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_goes_one_by_one(&nats, &broker).await;
}

/// What an operator has switched off meanwhile is not known before it is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_takes_no_batches_any_more_takes_each_event() {
    let nats = Nats::start_with(&syncing(), eager).await;
    let broker = connect(&nats, eager).await;
    flood(&*broker, 200).await;
    edited(&nats, first_shard(), &[("allow_atomic", json!(false))]).await;
    let before = broker.stored_together();
    assert!(before > 0);
    flood(&*broker, 200).await;
    assert_eq!(broker.stored_together(), before);
}

/// Killed while batches are on their way, staged, and stored in part: what was acked stays where its ack said, and what was
/// not is stored once by its next try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_in_the_middle_of_batches_loses_and_doubles_nothing() {
    let mut nats = Nats::start_with(&syncing(), eager).await;
    let broker = connect(&nats, |options| eager(NatsOptions { publish_timeout: Duration::from_millis(500), ..options })).await;
    let senders = Senders::start(&broker);
    for _ in 0..5 {
        in_the_middle_of_batches(&broker).await;
        nats.server.kill().expect("a server to kill");
        disconnected(&*broker).await;
        nats.server.restart().expect("a server that comes back");
        connected(&*broker).await;
    }
    let acked = senders.stop().await;
    assert!(acked.len() > 5000, "{}", acked.len());
    let broker = nats.persister.clone();
    eventually("a log", async || broker.log_state(first_shard()).await.ok()).await;
    assert_each_is_where_its_ack_said(&*broker, &acked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_while_others_are_stored_holds_up_nobody() {
    let nats = Nats::start_with(&syncing(), eager).await;
    let broker = connect(&nats, eager).await;
    let events = events(&*broker, 1000);
    for _ in 0..5 {
        // Dropped where they are: waiting, sent, or told.
        let many = join_all(events.iter().map(|event| broker.publish(event.clone())));
        let _ = tokio::time::timeout(Duration::from_millis(5), many).await;
    }
    let ack = publish_stubbornly(&*broker, events[999].clone()).await;
    let found = broker.get(first_shard(), ack.position).await.expect("an answer").expect("an event");
    assert_eq!((found.id, number(&found)), (events[999].id, 999));
}
