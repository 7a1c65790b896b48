//! Stored once, in one order, with the position before.

use std::{collections::HashSet, time::Duration};

use futures::future::join_all;
use natter_shared::{
    broker::{Interest, VOID_AFTER},
    position::Epoch,
    timestamp::Timestamp,
};

use crate::fixture::{Fixture, event, group, next_number, number, publish, read, take};

pub(crate) async fn delivers_in_one_order_with_the_previous_position(fixture: impl Fixture) {
    let broker = fixture.broker();
    let topic = group();
    let mut one = broker.subscribe(Interest::Topic(topic)).await.expect("a subscription");
    let mut other = broker.subscribe(Interest::Topic(topic)).await.expect("a subscription");
    broker.fence(broker.shards().of(topic)).await.expect("a fence");
    let sent = join_all((0..300).map(|n| publish(&*broker, topic, n))).await;
    let got = take(&mut one, 300).await;
    let mut previous = 0;
    for stored in &got {
        assert_eq!(stored.position.epoch, Epoch(1));
        assert!(stored.position.seq > previous, "rising");
        assert_eq!(stored.previous, previous);
        previous = stored.position.seq;
    }
    let acked: HashSet<_> = sent.iter().map(|ack| ack.position).collect();
    assert_eq!(acked.len(), 300, "one position for each");
    assert_eq!(acked, got.iter().map(|stored| stored.position).collect());
    for stored in &got {
        assert_eq!(sent[usize::try_from(number(stored)).expect("small")].position, stored.position);
    }
    let order: Vec<_> = take(&mut other, 300).await.iter().map(number).collect();
    assert_eq!(order, got.iter().map(number).collect::<Vec<_>>(), "the same for everybody");
}

pub(crate) async fn a_second_copy_is_neither_stored_nor_delivered(fixture: impl Fixture) {
    let broker = fixture.broker();
    let topic = group();
    let mut live = broker.subscribe(Interest::Topic(topic)).await.expect("a subscription");
    let before = broker.fence(broker.shards().of(topic)).await.expect("a fence");
    let first = event(&*broker, topic, 1);
    // Two copies at once, and one after.
    let (a, b) = tokio::join!(broker.publish(first.clone()), broker.publish(first.clone()));
    let (a, b) = (a.expect("an ack"), b.expect("an ack"));
    let c = broker.publish(first.clone()).await.expect("an ack");
    assert_eq!([a.position, b.position], [c.position; 2]);
    assert_ne!(a.duplicate, b.duplicate, "one of them was first");
    assert!(c.duplicate);
    let second = publish(&*broker, topic, 2).await;
    let got = take(&mut live, 2).await;
    assert_eq!(got.iter().map(number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((got[0].id, got[0].position), (first.id, a.position));
    assert_eq!((got[1].previous, got[1].position), (a.position.seq, second.position));
    let mut reader = broker.read(broker.shards().of(topic), before).await.expect("a reader");
    let stored = read(&mut *reader, 2).await;
    let stored: Vec<_> = stored.iter().filter(|stored| stored.topic == topic).map(number).collect();
    assert!(stored == [1, 2] || stored == [1], "stored once: {stored:?}");
}

pub(crate) async fn a_missed_event_shows_in_the_previous_position(fixture: impl Fixture) {
    let broker = fixture.broker();
    let topic = group();
    let shard = broker.shards().of(topic);
    let mut live = broker.subscribe(Interest::Topic(topic)).await.expect("a subscription");
    broker.fence(shard).await.expect("a fence");
    publish(&*broker, topic, 1).await;
    let seen = take(&mut live, 1).await[0].position;
    drop(live);
    let missed = publish(&*broker, topic, 2).await.position;
    let mut live = broker.subscribe(Interest::Topic(topic)).await.expect("a subscription");
    let fence = broker.fence(shard).await.expect("a fence");
    publish(&*broker, topic, 3).await;
    let mut next = take(&mut live, 1).await.remove(0);
    // What is acknowledged may still be on its way to who subscribes then; the fence tells them apart.
    while next.position <= fence {
        next = take(&mut live, 1).await.remove(0);
    }
    assert_eq!(number(&next), 3);
    assert_eq!(next.previous, missed.seq);
    assert!(next.previous > seen.seq, "a gap");
    let filled = broker.next_of(topic, seen).await.expect("an answer").expect("the missed event");
    assert_eq!((number(&filled), filled.position), (2, missed));
}

pub(crate) async fn an_event_stored_long_after_it_was_made_is_void(fixture: impl Fixture) {
    let broker = fixture.broker();
    let topic = group();
    let shard = broker.shards().of(topic);
    let mut live = broker.subscribe(Interest::Topic(topic)).await.expect("a subscription");
    let before = broker.fence(shard).await.expect("a fence");
    let mut old = event(&*broker, topic, next_number());
    let late = VOID_AFTER + Duration::from_secs(2);
    old.made_at = Timestamp(old.made_at.0 - u64::try_from(late.as_millis()).expect("small"));
    let mut young = event(&*broker, topic, next_number());
    young.made_at = Timestamp(old.made_at.0 + 10_000);
    let (old_at, young_at) =
        (broker.publish(old.clone()).await.expect("an ack").position, broker.publish(young.clone()).await.expect("an ack").position);
    let got = take(&mut live, 2).await;
    assert_eq!(got.iter().map(|s| (s.made_at, s.is_void())).collect::<Vec<_>>(), [(old.made_at, true), (young.made_at, false)]);
    // The log says the same: gateways and persister agree.
    for (at, live) in [(old_at, &got[0]), (young_at, &got[1])] {
        let stored = broker.get(shard, at).await.expect("an answer").expect("the event");
        assert_eq!((stored.made_at, stored.stored_at, stored.is_void()), (live.made_at, live.stored_at, live.is_void()));
    }
    let mut reader = broker.read(shard, before).await.expect("a reader");
    let read = crate::fixture::without_canaries(read(&mut *reader, 2).await);
    for (read, live) in read.iter().zip(&got) {
        assert_eq!((read.id, read.made_at, read.stored_at), (live.id, live.made_at, live.stored_at));
    }
}
