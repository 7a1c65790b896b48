//! The log in one process: what it forgets, and what it does when closed.

use sea_orm::ConnectionTrait as _;
use std::{sync::Arc, time::Duration};

use natter_shared::{
    broker::{
        Broker, BrokerError,
        embedded::{EmbeddedBroker, EmbeddedError, EmbeddedOptions},
    },
    position::{Epoch, Position},
};

use crate::fixture::{Embedded, Fixture, START, embedded_options, event, eventually, group_in, number, open_all, publish, read, shards};

async fn open(directory: &tempfile::TempDir, options: EmbeddedOptions) -> Arc<EmbeddedBroker> {
    EmbeddedBroker::open(&directory.path().join("log.db"), options).await.expect("a log that opens")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgets_only_what_is_applied() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = EmbeddedOptions { max_age: Duration::ZERO, max_bytes_per_shard: 0, ..embedded_options() };
    let broker = open(&directory, options.clone()).await;
    open_all(&*broker, Epoch(1)).await;
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    for n in 1..=20 {
        publish(&*broker, topic, n).await;
    }
    // Two rounds of forgetting without a word of what is applied.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(broker.log_state(shard).await.expect("a log").first, 1);
    broker.applied(shard, Position::new(Epoch(1), 12)).await;
    eventually("forgotten", async || (broker.log_state(shard).await.expect("a log").first == 13).then_some(())).await;
    assert!(broker.get(shard, Position::new(Epoch(1), 12)).await.expect("an answer").is_none());
    let evicted = broker.read(shard, START).await.map(drop);
    assert!(matches!(evicted, Err(BrokerError::Evicted { first, .. }) if first.seq == 13), "{evicted:?}");
    let mut reader = broker.read(shard, Position::new(Epoch(1), 12)).await.expect("a reader");
    assert_eq!(read(&mut *reader, 8).await.iter().map(number).collect::<Vec<_>>(), (13..=20).collect::<Vec<_>>());
    // All of it: the last one stays, or the end of the log would be forgotten too.
    broker.applied(shard, Position::new(Epoch(1), 20)).await;
    eventually("forgotten", async || (broker.log_state(shard).await.expect("a log").first == 20).then_some(())).await;
    broker.close().await;
    let broker = open(&directory, options).await;
    assert_eq!(broker.log_state(shard).await.expect("a log").last, 20);
    assert_eq!(publish(&*broker, topic, 21).await.position.seq, 21);
}

/// As on a full disk, where each round tries again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_deleted_is_not_counted_as_gone() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = open(&directory, EmbeddedOptions { max_age: Duration::ZERO, max_bytes_per_shard: 0, ..embedded_options() }).await;
    open_all(&*broker, Epoch(1)).await;
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    for n in 1..=20 {
        publish(&*broker, topic, n).await;
    }
    let bytes = async || broker.log_size(shard).await.expect("a size").bytes;
    let before = bytes().await;
    let url = format!("sqlite://{}", directory.path().join("log.db").display());
    let other = sea_orm::Database::connect(url).await.expect("the file");
    let table = format!("events_{shard}_1");
    let refuse = format!("CREATE TRIGGER refuse BEFORE DELETE ON {table} BEGIN SELECT RAISE(ABORT, 'no room'); END");
    other.execute_unprepared(&refuse).await.expect("a trigger");
    broker.applied(shard, Position::new(Epoch(1), 12)).await;
    // Two rounds of forgetting.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((broker.log_state(shard).await.expect("a log").first, bytes().await), (13, before));
    other.execute_unprepared("DROP TRIGGER refuse").await.expect("no trigger");
    eventually("forgotten", async || (bytes().await < before).then_some(())).await;
    let eighths = before * 8 / 20;
    assert!(bytes().await.abs_diff(eighths) < before / 20, "{} of {before} bytes", bytes().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applied_epoch_that_ended_is_dropped() {
    let embedded = Embedded::start().await;
    let broker = embedded.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    let old = publish(&*broker, topic, 1).await.position;
    broker.open_epoch(shard, Epoch(2)).await.expect("an epoch");
    let new = publish(&*broker, topic, 2).await.position;
    assert!(broker.get(shard, old).await.expect("an answer").is_some());
    broker.applied(shard, new).await;
    eventually("dropped", async || broker.get(shard, old).await.expect("an answer").is_none().then_some(())).await;
    assert!(matches!(broker.read(shard, START).await.map(drop), Err(BrokerError::Epoch { current: Epoch(2), .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_after_closing_are_unavailable_and_the_file_opens_again() {
    let embedded = Embedded::start().await;
    let broker = embedded.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    publish(&*broker, topic, 1).await;
    embedded.broker.close().await;
    let refused = broker.publish(event(&*broker, topic, 2)).await;
    assert!(matches!(refused, Err(BrokerError::Unavailable(_))), "{refused:?}");
    assert!(!broker.status().borrow().connected);
    let again = open(&embedded.directory, embedded_options()).await;
    assert_eq!(again.log_state(shard).await.expect("a log").last, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_number_of_shards_is_refused() {
    let embedded = Embedded::start().await;
    embedded.broker.close().await;
    let other = EmbeddedOptions { shards: 3, ..embedded_options() };
    let refused = EmbeddedBroker::open(&embedded.directory.path().join("log.db"), other).await.map(drop);
    assert!(matches!(refused, Err(EmbeddedError::OtherShards { found: 2, asked: 3 })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_is_unavailable_and_the_log_goes_on_after_it() {
    let embedded = Embedded::start().await;
    let broker = embedded.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    publish(&*broker, topic, 1).await;
    // Somebody else holds the file's write lock for longer than the writer waits: as a full disk,
    // it fails the commit.
    let url = format!("sqlite://{}", embedded.directory.path().join("log.db").display());
    let other = sea_orm::Database::connect(&url).await.expect("the same file");
    other.execute_unprepared("ALTER TABLE events_0_1 RENAME TO moved").await.expect("renamed");
    let refused = broker.publish(event(&*broker, topic, 2)).await;
    assert!(matches!(refused, Err(BrokerError::Unavailable(_))), "{refused:?}");
    other.execute_unprepared("ALTER TABLE moved RENAME TO events_0_1").await.expect("renamed back");
    let next = eventually("it goes on", async || broker.publish(event(&*broker, topic, 3)).await.ok()).await;
    assert_eq!(next.position.seq, 2, "no sequence is lost");
}
