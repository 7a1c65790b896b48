//! Live delivery: complete after a fence, and knowing when it is not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use natter_shared::{
    broker::{Delivery, Interest},
    id::UserId,
    position::Position,
    subject::Topic,
};

use crate::fixture::{Fixture, START, eventually, group, group_in, number, publish, read, shards, take, without_canaries};

pub(crate) async fn nothing_after_a_fence_is_missed(fixture: impl Fixture) {
    let broker = fixture.broker();
    let shard = shards().next().expect("a shard");
    let topics: Vec<_> = (0..8).map(|_| group_in(&*broker, shard)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (broker, topics, stop) = (fixture.broker(), topics.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    publish(&*broker, topics[(writer + n) % topics.len()], 0).await;
                    n += 1;
                }
            })
        })
        .collect();
    let joins = (0..40).map(|n| {
        let (broker, topic) = (fixture.broker(), topics[n % topics.len()]);
        async move {
            tokio::time::sleep(Duration::from_millis(u64::try_from(n * 7).expect("small"))).await;
            let mut live = broker.subscribe(Interest::Topic(topic)).await.expect("a subscription");
            let fence = broker.fence(shard).await.expect("a fence");
            let got = take(&mut live, 30).await;
            (topic, fence, got)
        }
    });
    let joined = join_all(joins).await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer");
    }
    let last = broker.log_state(shard).await.expect("a log").last;
    let mut reader = broker.read(shard, START).await.expect("a reader");
    let all = without_canaries(read(&mut *reader, usize::try_from(last).expect("small")).await);
    for (topic, fence, got) in joined {
        let upto = got.last().expect("some").position;
        let live: Vec<Position> = got.iter().map(|s| s.position).filter(|at| *at > fence).collect();
        let stored: Vec<Position> = all
            .iter()
            .filter(|stored| stored.topic == topic && stored.position > fence && stored.position <= upto)
            .map(|stored| stored.position)
            .collect();
        assert_eq!(live, stored, "live after the fence is what was stored after it");
    }
}

pub(crate) async fn users_of_a_shard_come_on_one_subscription(fixture: impl Fixture) {
    let broker = fixture.broker();
    let users: Vec<_> = (0..20).map(|n| Topic::User(UserId::new(&format!("user {n}")).expect("an id").key())).collect();
    let shard = broker.shards().of(users[0]);
    let mut live = broker.subscribe(Interest::Users(shard)).await.expect("a subscription");
    broker.fence(shard).await.expect("a fence");
    publish(&*broker, group_in(&*broker, shard), 1000).await;
    for (n, user) in (0..).zip(&users) {
        publish(&*broker, *user, n).await;
    }
    let mine: Vec<_> = users.iter().filter(|user| broker.shards().of(**user) == shard).copied().collect();
    let got = take(&mut live, mine.len()).await;
    assert_eq!(got.iter().map(|stored| stored.topic).collect::<Vec<_>>(), mine);
}

pub(crate) async fn ephemera_pass_and_are_not_stored(fixture: impl Fixture) {
    let broker = fixture.broker();
    let topic = group();
    let shard = broker.shards().of(topic);
    let mut live = broker.subscribe(Interest::Topic(topic)).await.expect("a subscription");
    broker.fence(shard).await.expect("a fence");
    broker.publish_ephemeral(topic, Bytes::from_static(b"typing")).await.expect("passed on");
    let mut batch = Vec::new();
    assert!(live.next_batch(&mut batch, 1).await);
    let Some(Delivery::Ephemeral { topic: of, payload }) = batch.pop() else { panic!("{batch:?}") };
    assert_eq!((of, &payload[..]), (topic, &b"typing"[..]));
    assert!(broker.next_of(topic, START).await.expect("an answer").is_none());
    publish(&*broker, topic, 1).await;
    assert_eq!(take(&mut live, 1).await[0].previous, 0, "no place in the order");
}

pub(crate) async fn a_slow_subscriber_raises_the_generation(fixture: impl Fixture) {
    let broker = fixture.broker();
    let shard = shards().next().expect("a shard");
    let (slow, quick) = (group_in(&*broker, shard), group_in(&*broker, shard));
    let mut stuck = broker.subscribe(Interest::Topic(slow)).await.expect("a subscription");
    let mut live = broker.subscribe(Interest::Topic(quick)).await.expect("a subscription");
    broker.fence(shard).await.expect("a fence");
    let status = broker.status();
    let before = status.borrow().generation;
    for _ in 0..20 {
        join_all((0..250).map(|n| publish(&*broker, slow, n))).await;
    }
    publish(&*broker, quick, 1).await;
    assert_eq!(number(&take(&mut live, 1).await[0]), 1, "others are not held up");
    eventually("the generation rises", async || (status.borrow().generation > before).then_some(())).await;
    // What was lost shows when it reads on, and is in the log.
    let kept = take(&mut stuck, 1024).await;
    for pair in kept.windows(2) {
        assert!(pair[0].position < pair[1].position);
    }
    let missed = broker.next_of(slow, kept.last().expect("some").position).await.expect("an answer");
    assert!(missed.is_some());
}

/// Nobody would look for it: it is in no log.
pub(crate) async fn what_is_of_the_moment_and_finds_no_room_raises_no_generation(fixture: impl Fixture) {
    let broker = fixture.broker();
    let shard = shards().next().expect("a shard");
    let (of_group, of_user) = (group_in(&*broker, shard), Topic::User(UserId::new("ann").expect("an id").key()));
    let of_users = Interest::Users(broker.shards().of(of_user));
    let mut stuck = broker.subscribe(Interest::Topic(of_group)).await.expect("a subscription");
    let _stuck_too = broker.subscribe(of_users).await.expect("a subscription");
    broker.fence(shard).await.expect("a fence");
    let status = broker.status();
    let before = status.borrow().generation;
    let pass = async |topic| {
        for _ in 0..20 {
            let passed = join_all((0..250).map(|_| broker.publish_ephemeral(topic, Bytes::from_static(b"typing")))).await;
            assert!(passed.iter().all(Result::is_ok));
        }
        broker.fence(shard).await.expect("a fence");
    };
    pass(of_group).await;
    assert_eq!(status.borrow().generation, before);
    let mut kept = Vec::new();
    assert!(tokio::task::unconstrained(stuck.next_batch(&mut kept, 5000)).await);
    assert_eq!(kept.len(), 1024, "there was no room for more");
    // Counts of an inbox are told again.
    pass(of_user).await;
    eventually("the generation rises", async || (status.borrow().generation > before).then_some(())).await;
}
