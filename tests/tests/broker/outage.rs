//! The broker crashes, or comes back without what it had.

use std::{path::Path, time::Duration};

use futures::future::join_all;
use natter_shared::{
    broker::BrokerError,
    position::{Epoch, Position},
};

use crate::fixture::{Fixture, START, event, group_in, number, open_all, publish, publish_stubbornly, read, shards, without_canaries};

pub(crate) async fn what_was_acked_is_there_after_a_crash(mut fixture: impl Fixture) {
    let broker = fixture.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    let acks = join_all((0..500).map(|n| publish(&*broker, topic, n))).await;
    let first = event(&*broker, topic, 500);
    let at = broker.publish(first.clone()).await.expect("an ack").position;
    drop(broker);
    fixture.crash().await;
    let broker = fixture.broker();
    let state = broker.log_state(shard).await.expect("a log");
    assert_eq!(state.epoch, Epoch(1));
    assert!(state.last >= at.seq);
    let again = publish_stubbornly(&*broker, first).await;
    assert_eq!((again.position, again.duplicate), (at, true), "ids are remembered");
    let next = publish_stubbornly(&*broker, event(&*broker, topic, 501)).await;
    assert!(next.position > at && next.position.epoch == Epoch(1));
    let mut reader = broker.read(shard, START).await.expect("a reader");
    let all = without_canaries(read(&mut *reader, usize::try_from(next.position.seq).expect("small")).await);
    assert_eq!(all.len(), 502);
    for stored in all.iter().take(500) {
        assert_eq!(acks[usize::try_from(number(stored)).expect("small")].position, stored.position);
    }
}

pub(crate) async fn a_reader_goes_on_after_a_crash(mut fixture: impl Fixture) {
    let broker = fixture.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    for n in 0..10 {
        publish(&*broker, topic, n).await;
    }
    let mut reader = broker.read(shard, START).await.expect("a reader");
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.extend(without_canaries(read(&mut *reader, 1).await));
    }
    drop(broker);
    fixture.crash().await;
    let broker = fixture.broker();
    publish_stubbornly(&*broker, event(&*broker, topic, 10)).await;
    let checkpoint = seen.last().expect("some").position;
    let mut fresh = broker.read(shard, checkpoint).await.expect("a reader");
    let mut rest = Vec::new();
    while rest.len() < 6 {
        rest.extend(without_canaries(read(&mut *fresh, 1).await));
    }
    let all: Vec<_> = seen.iter().chain(&rest).map(number).collect();
    assert_eq!(all, (0..=10).collect::<Vec<_>>());
}

pub(crate) async fn a_wiped_store_shows(mut fixture: impl Fixture) {
    let broker = fixture.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    let at = publish(&*broker, topic, 1).await.position;
    assert!(broker.get(shard, at).await.expect("an answer").is_some());
    drop(broker);
    fixture.wipe().await;
    let broker = fixture.broker();
    assert!(broker.get(shard, at).await.expect("an answer").is_none());
    let state = broker.log_state(shard).await;
    assert!(matches!(state, Err(BrokerError::NoLog(_))), "{state:?}");
    let refused = broker.publish(event(&*broker, topic, 2)).await;
    assert!(matches!(refused, Err(BrokerError::NoLog(_))), "{refused:?}");
    assert!(broker.read(shard, at).await.is_err());
}

pub(crate) async fn a_wiped_store_goes_on_in_a_new_epoch(mut fixture: impl Fixture) {
    let broker = fixture.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    let old = publish(&*broker, topic, 1).await.position;
    let mut reader = broker.read(shard, Position::new(Epoch(1), 0)).await.expect("a reader");
    drop(broker);
    fixture.wipe().await;
    let broker = fixture.broker();
    open_all(&*broker, Epoch(2)).await;
    let new = publish_stubbornly(&*broker, event(&*broker, topic, 2)).await.position;
    assert_eq!(new.epoch, Epoch(2));
    assert!(new > old, "old positions are before it");
    assert!(broker.get(shard, old).await.expect("an answer").is_none());
    // The old reader never passes the new epoch's events off as its own.
    for _ in 0..20 {
        match reader.next_batch(100, Duration::from_millis(50)).await {
            Ok(events) => assert!(events.iter().all(|stored| stored.position.epoch == Epoch(1))),
            Err(BrokerError::Unavailable(_)) => {}
            Err(_) => break,
        }
    }
}

/// What was acked is there after a power cut by nothing but this line.
#[test]
fn every_shipped_server_syncs_before_it_acks() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let configs = || std::fs::read_dir(&deploy).expect("files").map(|entry| entry.expect("a file").path());
    let texts = configs().filter(|path| path.extension().is_some_and(|ending| ending == "conf")).map(|path| {
        let text = std::fs::read_to_string(&path).expect("text");
        (path, text)
    });
    let of_nats: Vec<_> = texts.filter(|(_, text)| text.lines().any(|line| line.trim().starts_with("jetstream {"))).collect();
    assert!(of_nats.len() >= 2, "{of_nats:?}");
    for (path, text) in of_nats {
        assert!(text.lines().any(|line| line.trim() == "sync_interval: always"), "{}", path.display());
    }
}
