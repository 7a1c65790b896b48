//! NATS comes and goes; several processes share it.

use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use natter_shared::{
    broker::{
        AFTER_CHANGE, Broker, BrokerError, Interest, Stored,
        nats::{NatsAuth, NatsBroker, NatsOptions, Role},
    },
    id::InstanceId,
    position::{Epoch, Position},
};

use natter_tests::{
    nats::{Identities, NatsServer, shipped_config},
    proxy::{Condition, Link, Proxy, Select},
};

use crate::fixture::{
    Fixture, Nats, PATIENCE, SHARDS, START, connected, disconnected, event, eventually, group_in, nats_options, number, open_all, publish,
    publish_stubbornly, read, shards, take,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_fail_fast_in_an_outage_and_subscribers_go_on_after_it() {
    let mut nats = Nats::start().await;
    let broker = nats.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    let mut live = broker.subscribe(Interest::Topic(topic)).await.expect("a subscription");
    broker.fence(shard).await.expect("a fence");
    publish(&*broker, topic, 1).await;
    let before = broker.status().borrow().generation;
    nats.server.kill().expect("a server to kill");
    disconnected(&*broker).await;
    let lost = event(&*broker, topic, 2);
    let begun = Instant::now();
    let refused = broker.publish(lost.clone()).await;
    assert!(matches!(refused, Err(BrokerError::Unavailable(_))), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(2), "without waiting");
    assert!(matches!(broker.fence(shard).await, Err(BrokerError::Unavailable(_))));
    nats.server.restart().expect("a server that comes back");
    connected(&*broker).await;
    assert!(broker.status().borrow().generation > before);
    publish_stubbornly(&*broker, lost).await;
    eventually("a fence after the outage", async || broker.fence(shard).await.ok()).await;
    publish(&*broker, topic, 3).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&3) {
        seen.push(number(&take(&mut live, 1).await[0]));
    }
    // The one right after the reconnect may be missed; that is what the generation and the fence say.
    assert!(seen == [1, 2, 3] || seen == [1, 3], "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_in_flight_fail_when_the_connection_breaks() {
    let mut nats = Nats::start().await;
    let broker = nats.broker();
    let topic = group_in(&*broker, shards().next().expect("a shard"));
    let flood: Vec<_> = (0..2000)
        .map(|n| {
            let broker = nats.broker();
            tokio::spawn(async move { broker.publish(event(&*broker, topic, n)).await })
        })
        .collect();
    nats.server.kill().expect("a server to kill");
    let begun = Instant::now();
    for publish in flood {
        match publish.await.expect("no panic") {
            Ok(_) | Err(BrokerError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "not by timeout");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_process_never_stores_into_a_retired_epoch() {
    let nats = Nats::start().await;
    let gateway = nats.connect(Role::Gateway).await;
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*gateway, shard);
    let old = publish(&*gateway, topic, 1).await.position;
    let before = gateway.status().borrow().generation;
    nats.persister.open_epoch(shard, Epoch(7)).await.expect("an epoch");
    let new = publish_stubbornly(&*gateway, event(&*gateway, topic, 2)).await.position;
    assert_eq!((old.epoch, new.epoch), (Epoch(1), Epoch(7)));
    eventually("the generation rises", async || (gateway.status().borrow().generation > before).then_some(())).await;
    let refused = gateway.open_epoch(shard, Epoch(8)).await;
    assert!(matches!(refused, Err(BrokerError::Refused(_))), "{refused:?}");
}

/// Where each kept a whole stream's share of the server's 20 GB, the eightieth could not be made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retired_epochs_keep_what_they_hold_and_no_room_for_more() {
    let nats = Nats::start().await;
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*nats.persister, shard);
    let old = publish(&*nats.persister, topic, 1).await.position;
    for epoch in 2..=90 {
        nats.persister.open_epoch(shard, Epoch(epoch)).await.expect("an epoch");
    }
    let kept = nats.persister.get(shard, old).await.expect("an answer").expect("the event");
    assert_eq!(number(&kept), 1);
    let mut reader = nats.persister.read(shard, Position::new(old.epoch, 0)).await.expect("a reader");
    assert_eq!(read(&mut *reader, 1).await.len(), 1);
}

/// What was taken in before may be stored late, and a new leader's stream look shorter than it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retired_epoch_is_at_its_end_where_that_has_not_moved_for_two_seconds() {
    let nats = Nats::start().await;
    let shard = shards().next().expect("a shard");
    let old = publish(&*nats.persister, group_in(&*nats.persister, shard), 1).await.position;
    nats.persister.open_epoch(shard, Epoch(2)).await.expect("an epoch");
    let mut reader = nats.persister.read(shard, Position::new(old.epoch, 0)).await.expect("a reader");
    let mut last_came = Instant::now();
    let end = loop {
        match reader.next_batch(10, Duration::from_millis(100)).await {
            Ok(batch) if batch.is_empty() => {}
            Ok(_) => last_came = Instant::now(),
            Err(error) => break error,
        }
    };
    assert!(matches!(end, BrokerError::Epoch { current: Epoch(2), .. }), "{end}");
    assert!(last_came.elapsed() >= Duration::from_secs(2), "{:?}", last_came.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_without_nats_and_connects_when_it_comes() {
    let mut nats = Nats::start().await;
    nats.server.kill().expect("a server to kill");
    let options = nats_options(&nats.server);
    let begun = Instant::now();
    let gateway = NatsBroker::connect(options, Role::Gateway, InstanceId::random()).await.expect("options that work");
    assert!(begun.elapsed() < Duration::from_secs(3), "without waiting");
    assert!(!gateway.status().borrow().connected);
    let topic = group_in(&*gateway, shards().next().expect("a shard"));
    let refused = gateway.publish(event(&*gateway, topic, 1)).await;
    assert!(matches!(refused, Err(BrokerError::Unavailable(_))), "{refused:?}");
    nats.server.restart().expect("a server that comes back");
    connected(&*gateway).await;
    assert!(gateway.clock_known(), "a gateway is not ready without the broker's time");
    publish_stubbornly(&*gateway, event(&*gateway, topic, 1)).await;
    for shard in shards() {
        let probe = eventually("a probe", async || gateway.last_probe(shard)).await;
        assert!(probe.latency < Duration::from_secs(5) && probe.position.seq > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_the_window_is_busy_and_nothing_blocks() {
    let nats = Nats::start().await;
    let options = NatsOptions { max_in_flight: 4, ..nats_options(&nats.server) };
    let broker = NatsBroker::connect(options, Role::Gateway, InstanceId::random()).await.expect("options that work");
    connected(&*broker).await;
    let topic = group_in(&*broker, shards().next().expect("a shard"));
    let many = futures::future::join_all((0..64).map(|n| broker.publish(event(&*broker, topic, n)))).await;
    assert!(many.iter().any(|one| matches!(one, Err(BrokerError::Busy))));
    // What was let in is stored, as others are once there is room again.
    assert!(many.iter().filter(|one| one.is_ok()).count() >= 4);
    assert!(many.iter().all(|one| matches!(one, Ok(_) | Err(BrokerError::Busy))), "{many:?}");
    publish(&*broker, topic, 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_refused_for_good() {
    let nats = Nats::start().await;
    let broker = nats.broker();
    let mut huge = event(&*broker, group_in(&*broker, shards().next().expect("a shard")), 1);
    huge.payload = vec![b'x'; 2 << 20].into();
    let refused = broker.publish(huge).await;
    assert!(matches!(refused, Err(BrokerError::Refused(_))), "{refused:?}");
    assert_eq!(broker.shards().count(), SHARDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_is_noticed_and_replaced() {
    let nats = Nats::start().await;
    let proxy = Proxy::start(nats.server.address()).expect("a proxy");
    let options = NatsOptions { urls: vec![proxy.nats_url()], ..nats_options(&nats.server) };
    let gateway = NatsBroker::connect(options, Role::Gateway, InstanceId::random()).await.expect("options that work");
    connected(&*gateway).await;
    let topic = group_in(&*gateway, shards().next().expect("a shard"));
    publish(&*gateway, topic, 1).await;
    let open = proxy.names().len();
    // No reset, no FIN: what is sent goes nowhere, and nothing comes. Who connects anew is well.
    proxy.set(Select::All, Condition::both(Link::Silent));
    let begun = Instant::now();
    let lost = event(&*gateway, topic, 2);
    let attempt = tokio::spawn({
        let (gateway, lost) = (gateway.clone(), lost.clone());
        async move { gateway.publish(lost).await }
    });
    disconnected(&*gateway).await;
    let noticed = begun.elapsed();
    // Three pings, two seconds apart, are not answered; the rest is for a busy machine.
    assert!(noticed < Duration::from_secs(12), "{noticed:?}");
    let attempt = attempt.await.expect("no panic");
    assert!(matches!(attempt, Err(BrokerError::Unavailable(_))), "{attempt:?}");
    assert_eq!(open, 4);
    proxy.heal();
    connected(&*gateway).await;
    let ack = publish_stubbornly(&*gateway, lost.clone()).await;
    // What the old connection still held may have come; then this is its second copy.
    let again = publish_stubbornly(&*gateway, lost).await;
    assert_eq!((again.position, again.duplicate), (ack.position, true));
    eprintln!("half-open noticed after {noticed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_waited_in_a_dead_link_and_comes_late_is_void() {
    let nats = Nats::start().await;
    let proxy = Proxy::start(nats.server.address()).expect("a proxy");
    let options = NatsOptions { urls: vec![proxy.nats_url()], publish_timeout: Duration::from_millis(300), ..nats_options(&nats.server) };
    let gateway = NatsBroker::connect(options, Role::Gateway, InstanceId::random()).await.expect("options that work");
    connected(&*gateway).await;
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*gateway, shard);
    proxy.set(Select::named("publish"), Condition::both(Link::Silent));
    // Its sender was told a minute and a half ago that it is pending.
    let mut old = event(&*gateway, topic, 7);
    old.made_at = old.made_at.offset_by(-91_000);
    let first = gateway.publish(old.clone()).await;
    assert!(matches!(first, Err(BrokerError::Unavailable(_))), "{first:?}");
    proxy.heal();
    let broker = nats.broker();
    let late = eventually("the late copy", async || broker.next_of(topic, START).await.expect("an answer")).await;
    assert!(late.id == old.id && late.is_void(), "{late:?}");
}

/// As where no server leads JetStream itself: the streams are led, and consumers cannot be made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_read_where_no_consumer_can_be_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let shipped = std::fs::read_to_string(shipped_config()).expect("the config");
    let without = shipped.replace(r#""$JS.API.CONSUMER.CREATE.*.*""#, "");
    assert_ne!(without, shipped);
    let path = folder.path().join("nats.conf");
    std::fs::write(&path, without).expect("a config");
    let identities = Identities::random();
    let server = NatsServer::start_under(&path, identities.env(), &[]).expect("a server");
    let auth = NatsAuth::NkeySeed(identities.persister.seed.clone());
    let options = NatsOptions { auth, ..nats_options(&server) };
    let broker = NatsBroker::connect(options, Role::Persister, InstanceId::random()).await.expect("options that work");
    connected(&*broker).await;
    let (shard, epoch) = (shards().next().expect("a shard"), Epoch(1));
    broker.open_epoch(shard, epoch).await.expect("an epoch to open");
    broker.fence(shard).await.expect("a fence");
    let topic = group_in(&*broker, shard);
    let mut reader = broker.read(shard, Position::new(epoch, 0)).await.expect("a reader");
    let mut stored = Vec::new();
    // The broker's own canaries are among them.
    let numbers = |stored: &[Stored]| stored.iter().filter(|stored| stored.topic == topic).map(number).collect::<Vec<_>>();
    // More than are read at once.
    for read in [0..700, 700..1400] {
        for n in read.clone() {
            publish_stubbornly(&*broker, event(&*broker, topic, n)).await;
        }
        while numbers(&stored).last() != Some(&(read.end - 1)) {
            let batch = reader.next_batch(1000, PATIENCE).await.expect("a batch");
            assert!(!batch.is_empty(), "{} events of {} came", numbers(&stored).len(), read.end);
            stored.extend(batch);
        }
    }
    let seqs: Vec<u64> = stored.iter().map(|stored| stored.position.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    assert_eq!(numbers(&stored), (0..1400).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_arrived_is_read_as_one_batch() {
    const MANY: usize = 500;
    let nats = Nats::start().await;
    let broker = nats.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    let mut after = publish(&*broker, topic, 0).await.position;
    eventually("a batch of many", async || {
        let published = futures::future::join_all((1..=2000).map(|n| broker.publish(event(&*broker, topic, n)))).await;
        assert!(published.iter().all(Result::is_ok), "{published:?}");
        let mut reader = broker.read(shard, after).await.expect("a reader");
        let mut largest = 0;
        for _ in 0..4 {
            // More arrives meanwhile.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let batch = reader.next_batch(1000, Duration::from_millis(200)).await.expect("a batch");
            after = batch.last().map_or(after, |last| last.position);
            largest = largest.max(batch.len());
        }
        (largest > MANY).then_some(())
    })
    .await;
}

/// Behind or not, each in turn: what ends one kind of pull is not taken for the end of the consumer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_keeps_its_consumer_as_it_falls_behind_and_catches_up() {
    let nats = Nats::start().await;
    let broker = nats.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    let mut at = publish(&*broker, topic, 0).await.position;
    let client = async_nats::connect(nats.server.client_url()).await.expect("a client");
    let mut made = client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.CREATED.>").await.expect("a subscription");
    client.flush().await.expect("a flush");
    let mut reader = broker.read(shard, at).await.expect("a reader");
    // Of more than one pull, of one that a batch leaves half of, of some that come one by one.
    for (count, max) in [(3000, 2000), (5, 2000), (2500, 1000), (5, 1000), (9000, 2000), (1, 1)] {
        let published = futures::future::join_all((0..count).map(|n| broker.publish(event(&*broker, topic, n)))).await;
        let last = published.into_iter().map(|ack| ack.expect("an ack").position).max().expect("some");
        while at < last {
            let batch = reader.next_batch(max, PATIENCE).await.expect("a batch");
            assert!(batch.len() <= max);
            let seqs: Vec<u64> = batch.iter().map(|stored| stored.position.seq).collect();
            assert_eq!(seqs, (at.seq + 1..).take(seqs.len()).collect::<Vec<_>>(), "up to {last}");
            at = batch.last().expect("events, in time").position;
        }
    }
    client.flush().await.expect("a flush");
    let subject = |message: async_nats::Message| message.subject.to_string();
    let made: Vec<String> = std::iter::from_fn(|| made.next().now_or_never().flatten()).map(subject).collect();
    assert_eq!(made.len(), 1, "{made:?}");
}

/// What is sent again after it may say that it was sent later than it was: its sender's clock is ahead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_after_a_lost_store_has_the_slack_of_any_other() {
    let mut nats = Nats::start().await;
    let gateway = nats.connect(Role::Gateway).await;
    let shard = shards().next().expect("a shard");
    let began = gateway.epoch(shard).await.expect("an epoch").since.expect("when it was learnt");
    assert!(began <= tokio::time::Instant::now());
    nats.wipe().await;
    eventually("no log", async || matches!(gateway.epoch(shard).await, Err(BrokerError::NoLog(_))).then_some(())).await;
    let opened = tokio::time::Instant::now();
    open_all(&*nats.persister, Epoch(2)).await;
    let next = eventually("an epoch", async || gateway.epoch(shard).await.ok()).await;
    assert_eq!(next.epoch, Epoch(2));
    assert!(next.since.is_some_and(|since| since >= opened + AFTER_CHANGE), "{next:?}");
}
