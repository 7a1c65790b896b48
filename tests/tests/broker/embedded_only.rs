//! The log in one process: what it forgets, and what it does when closed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use natter_shared::{
    broker::{
        Broker, BrokerError, Outgoing,
        embedded::{EmbeddedBroker, EmbeddedError, EmbeddedOptions, count_beyond},
    },
    id::InstanceId,
    position::{Epoch, Position},
    subject::Topic,
};
use sea_orm::{ConnectionTrait, DbBackend, Statement, TransactionTrait};
use uuid::Uuid;

use crate::fixture::{Embedded, Fixture, START, embedded_options, event, eventually, group_in, number, open_all, publish, read, shards};

async fn open(directory: &tempfile::TempDir, options: EmbeddedOptions) -> Arc<EmbeddedBroker> {
    EmbeddedBroker::open(&directory.path().join("log.db"), options).await.expect("a log that opens")
}

/// That keeps nothing which is applied.
fn forgetful() -> EmbeddedOptions {
    EmbeddedOptions { max_age: Duration::ZERO, max_bytes_per_shard: 0, ..embedded_options() }
}

/// A forgetful one, and the topic of the twenty events in it.
async fn of_twenty(directory: &tempfile::TempDir) -> (Arc<EmbeddedBroker>, Topic) {
    let broker = open(directory, forgetful()).await;
    open_all(&*broker, Epoch(1)).await;
    let topic = group_in(&*broker, shards().next().expect("a shard"));
    for n in 1..=20 {
        publish(&*broker, topic, n).await;
    }
    (broker, topic)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgets_only_what_is_applied() {
    let directory = tempfile::tempdir().expect("a directory");
    let (broker, topic) = of_twenty(&directory).await;
    let shard = broker.shards().of(topic);
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
    let broker = open(&directory, forgetful()).await;
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

/// Tables of events, and entries of them.
async fn tables_and_entries(file: &impl ConnectionTrait) -> [Vec<String>; 2] {
    let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'events%' ORDER BY name";
    let entries = "SELECT 'events_' || shard || '_' || epoch AS name FROM logs ORDER BY name";
    let mut found = [Vec::new(), Vec::new()];
    for (names, sql) in found.iter_mut().zip([tables, entries]) {
        let rows = file.query_all_raw(Statement::from_string(DbBackend::Sqlite, sql)).await.expect("rows");
        *names = rows.iter().map(|row| row.try_get("", "name").expect("a name")).collect();
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_whose_end_fails_halfway_is_dropped_at_the_next_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = open(&directory, embedded_options()).await;
    open_all(&*broker, Epoch(1)).await;
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    let many = (1..=6000).map(|n| broker.publish(event(&*broker, topic, n)));
    futures::future::try_join_all(many).await.expect("all are stored");
    publish(&*broker, topic, 6001).await;
    let other = sea_orm::Database::connect(format!("sqlite://{}", directory.path().join("log.db").display())).await.expect("the file");
    let table = format!("events_{shard}_1");
    // Neither its last events can be deleted, nor its table, nor its entry.
    let held = format!("CREATE TABLE held (seq INTEGER REFERENCES {table}(seq)); INSERT INTO held VALUES (6001)");
    other.execute_unprepared(&held).await.expect("a reference");
    other
        .execute_unprepared("CREATE TRIGGER refuse BEFORE DELETE ON logs BEGIN SELECT RAISE(ABORT, 'no room'); END")
        .await
        .expect("a trigger");
    broker.open_epoch(shard, Epoch(2)).await.expect("an epoch");
    let new = publish(&*broker, topic, 6002).await.position;
    broker.applied(shard, new).await;
    let count = async || {
        let sql = format!("SELECT COUNT(*) AS n FROM {table}");
        let row = other.query_one_raw(Statement::from_string(DbBackend::Sqlite, sql)).await.expect("a count").expect("a row");
        row.try_get::<i64>("", "n").expect("a number")
    };
    eventually("its first piece is gone", async || (count().await == 1001).then_some(())).await;
    other.execute_unprepared("DROP TABLE held").await.expect("no reference");
    eventually("so are its last events", async || (count().await == 0).then_some(())).await;
    // A round or two that get to the entry.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let [tables, entries] = tables_and_entries(&other).await;
    assert!(tables == entries && tables.contains(&table), "{tables:?}, {entries:?}");
    broker.close().await;
    other.execute_unprepared("DROP TRIGGER refuse").await.expect("no trigger");
    let broker = open(&directory, embedded_options()).await;
    assert_eq!(broker.log_state(shard).await.expect("a log").last, 1);
    broker.applied(shard, new).await;
    eventually("dropped", async || (!tables_and_entries(&other).await[0].contains(&table)).then_some(())).await;
    let [tables, entries] = tables_and_entries(&other).await;
    assert_eq!(tables, entries);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_callers_gave_up_keeps_its_room_while_it_is_queued() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = open(&directory, EmbeddedOptions { max_in_flight_bytes: 1 << 20, ..embedded_options() }).await;
    open_all(&*broker, Epoch(1)).await;
    let topic = group_in(&*broker, shards().next().expect("a shard"));
    // Nothing can be written for as long as somebody else does.
    let other = sea_orm::Database::connect(format!("sqlite://{}", directory.path().join("log.db").display())).await.expect("the file");
    let writing = other.begin().await.expect("a transaction");
    writing.execute_unprepared("DELETE FROM logs WHERE shard = -1").await.expect("the lock");
    let large = Bytes::from(vec![b'x'; 128 << 10]);
    let mut taken = 0;
    for n in 1..=50 {
        let event = Outgoing { payload: large.clone(), ..event(&*broker, topic, n) };
        match tokio::time::timeout(Duration::from_millis(5), broker.publish(event)).await {
            Err(_) => taken += 1,
            Ok(Err(BrokerError::Busy)) => break,
            Ok(answered) => panic!("{answered:?}"),
        }
    }
    assert_eq!(taken, 8, "128 KiB each in a window of 1 MiB");
    writing.rollback().await.expect("the lock is let go");
    eventually("there is room again", async || broker.publish(event(&*broker, topic, 99)).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_large_it_is_outlives_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let (broker, topic) = of_twenty(&directory).await;
    let shard = broker.shards().of(topic);
    broker.applied(shard, Position::new(Epoch(1), 12)).await;
    let other = sea_orm::Database::connect(format!("sqlite://{}", directory.path().join("log.db").display())).await.expect("the file");
    let noted = Statement::from_string(DbBackend::Sqlite, "SELECT first FROM sizes WHERE first = 13");
    eventually("it is noted", async || other.query_one_raw(noted.clone()).await.expect("an answer")).await;
    for n in 21..=25 {
        publish(&*broker, topic, n).await;
    }
    let before = broker.log_size(shard).await.expect("a size").bytes;
    broker.close().await;
    let broker = open(&directory, forgetful()).await;
    assert_eq!(broker.log_size(shard).await.expect("a size").bytes, before);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_database_has_not_of_it_is_counted() {
    let embedded = Embedded::start().await;
    let broker = embedded.broker();
    let shard = shards().next().expect("a shard");
    let topic = group_in(&*broker, shard);
    for n in 1..=5 {
        publish(&*broker, topic, n).await;
    }
    broker.open_epoch(shard, Epoch(2)).await.expect("an epoch");
    publish(&*broker, topic, 6).await;
    let canary = (0..1000).map(|n| Topic::Canary(InstanceId(Uuid::from_u128(n)))).find(|canary| broker.shards().of(*canary) == shard);
    publish(&*broker, canary.expect("one of the shard"), 7).await;
    embedded.broker.close().await;
    let path = embedded.directory.path().join("log.db");
    let beyond = async |epoch, seq| count_beyond(&path, &[(shard, Position::new(Epoch(epoch), seq))]).await.expect("a count");
    assert_eq!(beyond(1, 3).await, 3, "two of the first epoch, one of the second");
    assert_eq!((beyond(2, 0).await, beyond(2, 1).await), (1, 0), "and no canary");
    let moved = async |seq| {
        let at = [(7, 0), (2, seq)].map(|(epoch, seq)| (shard, Position::new(Epoch(epoch), seq)));
        count_beyond(&path, &at).await.expect("a count")
    };
    assert_eq!((moved(0).await, moved(1).await), (1, 0), "over another broker since: what was left of the last one");
    assert_eq!(count_beyond(&path, &[]).await.expect("a count"), 6, "a database that knows of nothing");
}
