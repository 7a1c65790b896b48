//! The log: read in order, by topic, by position.

use std::time::Duration;

use futures::future::join_all;
use natter_shared::{
    broker::BrokerError,
    position::{Epoch, Position},
    subject::Shard,
};

use crate::fixture::{Fixture, SHARDS, START, group_in, number, publish, read, shards, without_canaries};

pub(crate) async fn reads_in_order_from_a_checkpoint(fixture: impl Fixture) {
    let broker = fixture.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    let acks = join_all((0..5000).map(|n| publish(&*broker, topic, n))).await;
    let state = broker.log_state(shard).await.expect("a log");
    assert_eq!((state.epoch, state.first), (Epoch(1), 1));
    assert!(state.last >= 5000);
    let mut reader = broker.read(shard, START).await.expect("a reader");
    let all = without_canaries(read(&mut *reader, usize::try_from(state.last).expect("small")).await);
    assert_eq!(all.len(), 5000);
    assert!(all.is_sorted_by(|a, b| a.position < b.position));
    for stored in &all {
        assert_eq!(acks[usize::try_from(number(stored)).expect("small")].position, stored.position);
        assert_eq!(stored.topic, topic);
    }
    // From a checkpoint in the middle; then it waits, and goes on.
    let checkpoint = all[1234].position;
    let mut reader = broker.read(shard, checkpoint).await.expect("a reader");
    let rest = without_canaries(read(&mut *reader, usize::try_from(state.last - checkpoint.seq).expect("small")).await);
    assert!(rest.iter().map(|s| s.position).eq(all[1235..].iter().map(|s| s.position)));
    let last = publish(&*broker, topic, 5000).await;
    loop {
        let next = read(&mut *reader, 1).await.remove(0);
        if next.topic == topic {
            assert_eq!(next.position, last.position);
            break;
        }
    }
    let mut reader = broker.read(shard, last.position).await.expect("a reader");
    let empty = reader.next_batch(10, Duration::from_millis(50)).await.expect("no error");
    assert!(without_canaries(empty).is_empty());
}

pub(crate) async fn replays_a_topic_from_a_position(fixture: impl Fixture) {
    let broker = fixture.broker();
    let shard = shards().next().expect("a shard");
    let (topic, other) = (group_in(&*broker, shard), group_in(&*broker, shard));
    let mut acks = Vec::new();
    for n in 0..20 {
        acks.push(publish(&*broker, topic, n).await);
        publish(&*broker, other, n).await;
    }
    let mut at = acks[4].position;
    for (n, ack) in acks.iter().enumerate().skip(5) {
        let next = broker.next_of(topic, at).await.expect("an answer").expect("an event");
        assert_eq!((number(&next), next.position), (u64::try_from(n).expect("small"), ack.position));
        at = next.position;
    }
    assert!(broker.next_of(topic, at).await.expect("an answer").is_none());
    let stored = broker.get(shard, acks[7].position).await.expect("an answer").expect("an event");
    assert_eq!((number(&stored), stored.topic), (7, topic));
    let beyond = Position::new(Epoch(1), at.seq + 1_000_000);
    assert!(broker.get(shard, beyond).await.expect("an answer").is_none());
    assert!(broker.get(shard, Position::new(Epoch(9), 1)).await.expect("an answer").is_none());
    assert!(matches!(broker.read(shard, beyond).await, Err(BrokerError::Evicted { .. })), "rewound");
}

pub(crate) async fn tails_tell_which_topics_changed(fixture: impl Fixture) {
    let broker = fixture.broker();
    let shard = shards().next().expect("a shard");
    // More than are asked for at once.
    let topics: Vec<_> = (0..250).map(|_| group_in(&*broker, shard)).collect();
    let quiet = group_in(&*broker, shard);
    join_all(topics.iter().map(|topic| publish(&*broker, *topic, 1))).await;
    let fence = broker.fence(shard).await.expect("a fence");
    let unchanged = broker.tails(shard, &topics, fence, fence).await.expect("an answer");
    assert!(unchanged.changed.is_empty(), "{unchanged:?}");
    assert!(unchanged.upto >= fence);
    let mut expected = Vec::new();
    for topic in topics.iter().step_by(7) {
        publish(&*broker, *topic, 2).await;
        expected.push((*topic, publish(&*broker, *topic, 3).await.position.seq));
    }
    let later = broker.fence(shard).await.expect("a fence");
    let mut asked = topics.clone();
    asked.push(quiet);
    let mut tails = broker.tails(shard, &asked, fence, later).await.expect("an answer");
    assert!(tails.upto >= later);
    tails.changed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(tails.changed, expected);
    let all = broker.tails(shard, &asked, START, later).await.expect("an answer");
    assert_eq!(all.changed.len(), topics.len());
    let nobody = broker.tails(shard, &[quiet], START, later).await.expect("an answer");
    assert!(nobody.changed.is_empty() && nobody.upto >= later);
    let future = Position::new(later.epoch, later.seq + 1_000_000);
    let early = broker.tails(shard, &asked, START, future).await;
    assert!(matches!(early, Err(BrokerError::Unavailable(_))), "{early:?}");
}

pub(crate) async fn a_shard_without_a_log_says_so(fixture: impl Fixture) {
    let broker = fixture.broker();
    let none = Shard(SHARDS + 1);
    assert!(matches!(broker.log_state(none).await, Err(BrokerError::NoLog(shard)) if shard == none));
}
