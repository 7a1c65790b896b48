//! Three servers: what is stored on one of them and subscribed to on another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use natter_shared::{
    broker::{
        Broker, Delivery, Interest,
        nats::{NatsAuth, NatsBroker, NatsOptions, Role},
    },
    id::InstanceId,
    position::{Epoch, Position},
    subject::{Shard, Topic},
};
use natter_tests::{
    nats::{Identities, Identity},
    nats_cluster::NatsCluster,
};
use tokio_util::sync::CancellationToken;

use crate::fixture::{PATIENCE, connected, event, group_in};

const SHARD: Shard = Shard(0);

/// Joins of a group that is talked in all the time.
const JOINS: usize = 150;

/// Events looked at after each join.
const EVENTS: usize = 60;

/// Publishes in flight.
const IN_FLIGHT: usize = 256;

struct Three {
    cluster: NatsCluster,
    identities: Identities,
    persister: Arc<NatsBroker>,
}

async fn broker(urls: Vec<String>, role: Role, identity: &Identity) -> Arc<NatsBroker> {
    let options = NatsOptions {
        urls,
        shards: 1,
        replicas: 3,
        max_bytes_per_shard: 256 << 20,
        auth: NatsAuth::NkeySeed(identity.seed.clone()),
        subscription_capacity: 65_536,
        ..NatsOptions::default()
    };
    let broker = NatsBroker::connect(options, role, InstanceId::random()).await.expect("options that work");
    connected(&*broker).await;
    broker
}

impl Three {
    async fn start() -> Self {
        let identities = Identities::random();
        let cluster = NatsCluster::start(&identities, 3).expect("three servers");
        let urls = (0..3).map(|index| cluster.node(index).client_url()).collect();
        let persister = broker(urls, Role::Persister, &identities.persister).await;
        persister.open_epoch(SHARD, Epoch(1)).await.expect("an epoch to open");
        cluster.wait_healthy().await.expect("three healthy servers");
        Self { cluster, identities, persister }
    }

    fn stream() -> String {
        natter_shared::subject::stream_name(SHARD, Epoch(1))
    }

    /// A gateway's broker at a server that does not lead.
    async fn gateway(&self) -> Arc<NatsBroker> {
        let leader = self.cluster.wait_leader_of(&Self::stream()).await.expect("a leader");
        let other = self.cluster.node((leader + 1) % 3).client_url();
        broker(vec![other], Role::Gateway, &self.identities.gateway).await
    }
}

/// Publishes on `topic` as fast as it goes, until `stop`; counts.
fn flood(broker: Arc<NatsBroker>, topic: Topic, stop: CancellationToken) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        let mut flying = FuturesUnordered::new();
        while !stop.is_cancelled() {
            while flying.len() < IN_FLIGHT {
                let (broker, event) = (Arc::clone(&broker), event(&*broker, topic, 1));
                flying.push(async move { broker.publish(event).await.is_ok() });
            }
            if flying.next().await == Some(true) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    count
}

/// Subscribes, then learns from `fence` after where everything is said to arrive: how many events
/// after that did not, as far as the next ones show.
async fn missed_by_a_join(gateway: &NatsBroker, topic: Topic, fence: impl AsyncFn(&NatsBroker) -> Position) -> u64 {
    let mut live = gateway.subscribe(Interest::Topic(topic)).await.expect("a subscription");
    let mut seen = fence(gateway).await.seq;
    let (mut looked, mut missed) = (0, 0);
    while looked < EVENTS {
        let mut batch = Vec::new();
        let more = tokio::time::timeout(PATIENCE, live.next_batch(&mut batch, EVENTS)).await.expect("events in time");
        assert!(more, "not ended");
        for delivery in batch {
            let Delivery::Stored(stored) = delivery else { continue };
            looked += 1;
            if stored.previous > seen {
                // All of the flood is of one topic.
                missed += stored.previous - seen;
            }
            seen = seen.max(stored.position.seq);
        }
    }
    missed
}

/// Joins under a flood, and how many of them missed something.
async fn joins_that_miss(fence: impl AsyncFn(&NatsBroker) -> Position + Copy) -> usize {
    let three = Three::start().await;
    let gateway = three.gateway().await;
    let topic = group_in(&*gateway, SHARD);
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let count = flood(Arc::clone(&three.persister), topic, stop);
    let mut missing = 0;
    for _ in 0..JOINS {
        let missed = missed_by_a_join(&gateway, topic, fence).await;
        missing += usize::from(missed > 0);
    }
    eprintln!("{missing} of {JOINS} joins missed something, under {} events", count.load(Ordering::Relaxed));
    missing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_under_a_flood_miss_nothing_after_their_fence() {
    // One that does not come back in time, on a busy machine or after an election, is asked for again, as the gateway does.
    let fence = async |gateway: &NatsBroker| {
        let fenced = async {
            loop {
                match gateway.fence(SHARD).await {
                    Ok(position) => return position,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), fenced).await.expect("a fence")
    };
    assert_eq!(joins_that_miss(fence).await, 0);
}

/// Why the fence is a canary: asking the stream where it ends goes another way than the interest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "shows what would be missed without a fence; how much depends on the machine"]
async fn joins_without_a_fence_miss_events() {
    let asked = async |gateway: &NatsBroker| {
        let state = gateway.log_state(SHARD).await.expect("a stream");
        Position::new(state.epoch, state.last)
    };
    assert!(joins_that_miss(asked).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_leader_is_noticed_by_gateways_and_persisters() {
    let three = Three::start().await;
    let gateway = three.gateway().await;
    let mut watched = [gateway.status(), three.persister.status()];
    let before = watched.each_ref().map(|status| status.borrow().elections);
    three.cluster.step_down(&Three::stream()).await.expect("another leader");
    for (status, before) in watched.iter_mut().zip(before) {
        let noticed = status.wait_for(|status| status.elections > before);
        tokio::time::timeout(Duration::from_secs(5), noticed).await.expect("noticed in time").expect("a broker");
    }
}
