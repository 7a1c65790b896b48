//! Figures, not verdicts: `cargo test --release -p natter-persister -- --ignored --nocapture throughput`.

use std::{sync::Arc, time::Instant};

use futures::{StreamExt, stream};
use natter_shared::{
    broker::{Broker, Outgoing},
    event::{Event, GroupKind},
    id::{GroupId, Nonce, RoomName},
    position::Position,
    rpc::{JoinOpen, OpenGroup},
    subject::Topic,
};

use crate::{
    harness::{Harness, message, user},
    on_both,
};

const MESSAGES: usize = 200_000;

mod figures {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "takes a while, and wants --release"]
    async fn sqlite_throughput() {
        measure(Harness::sqlite().await).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "takes a while, and wants --release"]
    async fn postgres_throughput() {
        measure(Harness::postgres().await).await;
    }
}

on_both!(a_backlog_is_projected_in_batches);

async fn fill(harness: &Harness, groups: &[GroupId], messages: usize) {
    let senders: Vec<_> = (0..100).map(|n| user(&format!("sender{n}"))).collect();
    stream::iter(0..messages)
        .for_each_concurrent(2000, |n| {
            let group = groups[n % groups.len()];
            let message =
                message(group, &senders[n % senders.len()], Nonce::now(), "Hello there, this is a usual chat message of some length.");
            let broker = Arc::clone(&harness.broker);
            async move {
                let payload = Event::Message(message.clone()).encode().unwrap();
                let outgoing = Outgoing { topic: Topic::Group(group), id: message.id.into(), made_at: broker.now(), epoch: None, payload };
                while broker.publish(outgoing.clone()).await.is_err() {
                    tokio::task::yield_now().await;
                }
            }
        })
        .await;
}

async fn all_applied(harness: &Harness) {
    for shard in harness.broker.shards().iter() {
        let state = harness.broker.log_state(shard).await.unwrap();
        harness.reached(shard, Position::new(state.epoch, state.last)).await;
    }
}

async fn groups(harness: &Harness, count: usize) -> Vec<GroupId> {
    let alice = user("alice");
    let mut groups = Vec::new();
    for _ in 0..count {
        groups.push(harness.create(GroupKind::Group, &[&alice]).await.0);
    }
    groups
}

async fn a_backlog_is_projected_in_batches(mut harness: Harness) {
    let groups = groups(&harness, 50).await;
    harness.stop().await;
    fill(&harness, &groups, 5000).await;
    harness.start().await;
    all_applied(&harness).await;
    assert_eq!(harness.count("messages").await, 5000);
    assert_eq!(harness.count("group_counters WHERE messages = 100").await, 50);
}

async fn measure(mut harness: Harness) {
    let groups = groups(&harness, 1000).await;
    harness.stop().await;
    fill(&harness, &groups, MESSAGES).await;
    let started = Instant::now();
    harness.start().await;
    all_applied(&harness).await;
    let took = started.elapsed().as_secs_f64();
    println!("projected: {:.0} messages/s", MESSAGES as f64 / took);
    assert_eq!(harness.count("messages").await, MESSAGES as i64);

    for round in ["first", "again", "again"] {
        let started = Instant::now();
        let harness = &harness;
        stream::iter(0..5000)
            .for_each_concurrent(200, |n| async move {
                harness.sign_in(&user(&format!("u{n}")), Some(&format!("handle{n}"))).await;
            })
            .await;
        println!("sign-ins ({round}): {:.0}/s", 5000.0 / started.elapsed().as_secs_f64());
    }
    let started = Instant::now();
    let harness = &harness;
    stream::iter(0..10_000)
        .for_each_concurrent(1000, |n| async move {
            let group = OpenGroup::Name(RoomName::slug("hall").unwrap());
            while harness.call(JoinOpen { user: user(&format!("u{n}")), group: group.clone() }).await.is_err() {}
        })
        .await;
    println!("joins: {:.0}/s", 10_000.0 / started.elapsed().as_secs_f64());
}
