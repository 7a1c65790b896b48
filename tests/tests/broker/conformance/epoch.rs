//! A log that goes on in a new epoch.

use std::time::Duration;

use futures::StreamExt;
use natter_shared::{
    broker::{BrokerError, Control, Interest, Outgoing},
    position::{Epoch, Position},
};

use crate::fixture::{Fixture, PATIENCE, START, event, group_in, number, publish, publish_stubbornly, read, shards, take};

pub(crate) async fn goes_on_in_a_new_epoch(fixture: impl Fixture) {
    let broker = fixture.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    let mut live = broker.subscribe(Interest::Topic(topic)).await.expect("a subscription");
    let mut controls = broker.controls().await.expect("announcements");
    broker.fence(shard).await.expect("a fence");
    let old = publish(&*broker, topic, 1).await.position;
    let status = broker.status();
    let before = status.borrow().generation;
    broker.open_epoch(shard, Epoch(5)).await.expect("an epoch");
    assert!(status.borrow().generation > before);
    let announced = tokio::time::timeout(PATIENCE, controls.next()).await.expect("in time").expect("announced");
    assert!(matches!(announced, Control::Epoch { shard: of, epoch: Epoch(5) } if of == shard.0), "{announced:?}");
    let new = publish_stubbornly(&*broker, event(&*broker, topic, 2)).await.position;
    assert_eq!(new.epoch, Epoch(5));
    assert!(new > old);
    let got = take(&mut live, 2).await;
    assert_eq!(got.iter().map(|s| (number(s), s.position)).collect::<Vec<_>>(), [(1, old), (2, new)]);
    assert_eq!(got[1].previous, 0, "nothing before it in its epoch");
    let fence = broker.fence(shard).await.expect("a fence");
    assert_eq!(fence.epoch, Epoch(5));
    let state = broker.log_state(shard).await.expect("a log");
    assert_eq!((state.epoch, state.first), (Epoch(5), 1));
    // By topic from an old position: all of the current epoch.
    let next = broker.next_of(topic, old).await.expect("an answer").expect("an event");
    assert_eq!(next.position, new);
    let tails = broker.tails(shard, &[topic], old, fence).await.expect("an answer");
    assert_eq!(tails.changed, [(topic, new.seq)]);
    // Twice is once, and back is nowhere.
    broker.open_epoch(shard, Epoch(5)).await.expect("harmless");
    assert_eq!(broker.ended(shard).await.expect("an answer"), [old.epoch]);
    let others = broker.shards().iter().filter(|other| *other != shard);
    for other in others {
        assert_eq!(broker.ended(other).await.expect("an answer"), [], "of {other}");
    }
    assert_eq!(broker.log_state(shard).await.expect("a log").epoch, Epoch(5));
    assert!(broker.get(shard, new).await.expect("an answer").is_some());
    let back = broker.open_epoch(shard, Epoch(4)).await;
    assert!(matches!(back, Err(BrokerError::Epoch { current: Epoch(5), .. })), "{back:?}");
}

pub(crate) async fn an_event_is_stored_in_its_epoch_or_not_at_all(fixture: impl Fixture) {
    let broker = fixture.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    let only = |epoch: u32| Outgoing { epoch: Some(Epoch(epoch)), ..event(&*broker, topic, 1) };
    assert_eq!(broker.publish(only(1)).await.expect("an ack").position.epoch, Epoch(1));
    broker.open_epoch(shard, Epoch(5)).await.expect("an epoch");
    let other = broker.publish(only(1)).await;
    assert!(matches!(other, Err(BrokerError::Epoch { .. })), "{other:?}");
    let now = broker.epoch(shard).await.expect("an epoch");
    assert_eq!(now.epoch, Epoch(5));
    assert!(now.since.is_some_and(|since| since.elapsed() < PATIENCE), "another was before it");
    assert_eq!(publish_stubbornly(&*broker, only(5)).await.position, Position::new(Epoch(5), 1), "nothing else is in it");
}

pub(crate) async fn a_retired_epoch_is_read_to_its_end(fixture: impl Fixture) {
    let broker = fixture.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    for n in 0..10 {
        publish(&*broker, topic, n).await;
    }
    let last = broker.log_state(shard).await.expect("a log").last;
    let mut waiting = broker.read(shard, Position::new(Epoch(1), last)).await.expect("a reader");
    broker.open_epoch(shard, Epoch(2)).await.expect("an epoch");
    publish_stubbornly(&*broker, event(&*broker, topic, 10)).await;
    let mut reader = broker.read(shard, START).await.expect("a reader of the old epoch");
    let old = read(&mut *reader, usize::try_from(last).expect("small")).await;
    assert!(old.iter().all(|stored| stored.position.epoch == Epoch(1)));
    assert_eq!(old.iter().filter(|s| s.topic == topic).map(number).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    for reader in [&mut reader, &mut waiting] {
        let end = loop {
            match reader.next_batch(10, Duration::from_millis(100)).await {
                // A canary may have come in before the end.
                Ok(more) => assert!(more.iter().all(|stored| stored.topic != topic)),
                Err(error) => break error,
            }
        };
        assert!(matches!(end, BrokerError::Epoch { current: Epoch(2), .. }), "{end}");
    }
    let first = old.iter().find(|stored| stored.topic == topic).expect("some");
    let again = broker.get(shard, first.position).await.expect("an answer").expect("still there");
    assert_eq!(again.id, first.id);
}
