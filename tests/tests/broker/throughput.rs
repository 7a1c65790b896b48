//! Figures, not promises: `cargo test -p natter-tests --test broker throughput -- --ignored --nocapture`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use natter_shared::broker::Broker;

use crate::fixture::{Embedded, Fixture, Nats, START, event, group_in, publish, read, shards};

async fn measure(name: &str, broker: Arc<dyn Broker>, total: usize) {
    let shard = shards().next().expect("a shard");
    let topics: Vec<_> = (0..100).map(|_| group_in(&*broker, shard)).collect();
    let mut slowest = Duration::ZERO;
    let begun = Instant::now();
    for n in 0..50 {
        let one = Instant::now();
        publish(&*broker, topics[n % topics.len()], 0).await;
        slowest = slowest.max(one.elapsed());
    }
    println!("{name}: one at a time {:?} each, slowest {slowest:?}", begun.elapsed() / 50);
    let begun = Instant::now();
    let publishers = 64;
    let tasks: Vec<_> = (0..publishers)
        .map(|publisher| {
            let (broker, topics) = (Arc::clone(&broker), topics.clone());
            tokio::spawn(async move {
                for chunk in 0..total / publishers / 50 {
                    let many = (0..50).map(|n| {
                        let mut event = event(&*broker, topics[(publisher + chunk + n) % topics.len()], 0);
                        event.payload = vec![b'x'; 200].into();
                        broker.publish(event)
                    });
                    for ack in futures::future::join_all(many).await {
                        ack.expect("an ack");
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a publisher");
    }
    let rate = total as f64 / begun.elapsed().as_secs_f64();
    println!("{name}: {rate:.0} publishes/s pipelined");
    let last = usize::try_from(broker.log_state(shard).await.expect("a log").last).expect("small");
    let mut reader = broker.read(shard, START).await.expect("a reader");
    let begun = Instant::now();
    read(&mut *reader, last - 10).await;
    println!("{name}: {:.0} events/s read", last as f64 / begun.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput_of_nats() {
    measure("nats", Nats::start().await.broker(), 200_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput_of_embedded() {
    measure("embedded", Embedded::start().await.broker(), 100_000).await;
}
