//! Where nothing is old, nothing is written.

use natter_shared::{
    broker::embedded::{EmbeddedBroker, EmbeddedOptions},
    id::InstanceId,
};
use prometheus_client::registry::Registry;

use super::*;
use crate::{database, options::DatabaseOptions};

#[tokio::test]
async fn where_nothing_is_old_a_pass_waits_for_no_turn_to_write() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("natter.db").display());
    let connection = database::connect(&DatabaseOptions { url, ..DatabaseOptions::default() }).await.unwrap();
    database::migrate(&connection).await.unwrap();
    let (store, metrics) = (Store::new(connection), Metrics::register(&mut Registry::default()));
    let broker = EmbeddedBroker::open(&directory.path().join("log.db"), EmbeddedOptions::default()).await.unwrap();
    let shards = broker.shards().count();
    let leases = Leases::new(store.clone(), InstanceId::random(), Duration::from_mins(10), shards, None);
    let stop = CancellationToken::new();
    let keeping = tokio::spawn(Arc::clone(&leases).keep(stop.clone()));
    for shard in broker.shards().iter() {
        leases.watch(shard).unwrap().wait_for(|held| *held).await.unwrap();
        let sql = "INSERT INTO applied (shard, epoch, seq, stored_at, floor_epoch, floor_seq) VALUES (?, 1, 9, ?, 0, 0)";
        store.execute(sql, [i64::from(shard.0).into(), (Timestamp::now().0 as i64).into()]).await.unwrap();
    }
    let hour = Duration::from_hours(1);
    let now = Timestamp::now();
    let day_ago = now.offset_by(-86_400_000);
    let numbers = |most: u32| format!("WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {most})");
    for sql in [
        "INSERT INTO users (id, key, handle, display_name, placeholder, created_at) \
         SELECT 'u' || n, randomblob(16), 'u' || n, 'u', FALSE, 0 FROM c",
        "INSERT INTO notifications (recipient, id, epoch, seq, nonce, body, sent_at) \
         SELECT 'u' || n, randomblob(16), 1, n, randomblob(16), 'text', {now} FROM c",
        // Of nonces that are old; and one each of a mark that is not, or has no time.
        "INSERT INTO notifications (recipient, id, epoch, seq, nonce, body, sent_at) \
         SELECT 'u' || n, unhex(printf('%012x%020x', {day_ago}, n)), 1, n, randomblob(16), 'text', {now} FROM c",
        "INSERT INTO inbox_state (recipient, notification, seen, is_read) SELECT recipient, id, TRUE, TRUE FROM notifications",
        "INSERT INTO inbox_state (recipient, notification, seen, is_read) \
         SELECT 'u' || n, unhex(printf('%012x%020x', {now}, n)), TRUE, TRUE FROM c",
        "INSERT INTO inbox_state (recipient, notification, seen, is_read) \
         SELECT 'u' || n, unhex(printf('%012x%020x', 0, 5000 + n)), TRUE, TRUE FROM c",
        "INSERT INTO group_counters (group_id, messages) SELECT unhex(printf('%032x', n)), 1 FROM c",
        "INSERT INTO messages (id, group_id, epoch, seq, ordinal, sender, nonce, body, sent_at) \
         SELECT randomblob(16), unhex(printf('%032x', n)), 1, n, 1, 'u1', randomblob(16), 'text', {now} FROM c",
        // Two of each group: an old one that is in an inbox still, and a new one.
        "INSERT INTO group_events (group_id, epoch, seq, event_id, kind, payload, stored_at) \
         SELECT unhex(printf('%032x', n)), 1, n, unhex(printf('%032x', n)), 'notification', '', {day_ago} FROM c",
        "INSERT INTO notifications (recipient, id, group_id, epoch, seq, nonce, sent_at) \
         SELECT 'u' || n, unhex(printf('%032x', n)), unhex(printf('%032x', n)), 1, n, randomblob(16), {now} FROM c",
        "INSERT INTO group_events (group_id, epoch, seq, event_id, kind, payload, stored_at) \
         SELECT unhex(printf('%032x', n)), 1, 2000 + n, randomblob(16), 'notification', '', {now} FROM c",
    ] {
        let sql = sql.replace("{now}", &now.0.to_string()).replace("{day_ago}", &day_ago.0.to_string());
        assert_eq!(store.execute(&format!("{} {sql}", numbers(1000)), []).await.unwrap() % 1000, 0);
    }
    let (changes, _inboxes) = mpsc::channel(10);
    let (messages, notifications, every) = (Some(hour), Some(hour), hour);
    let retention = Retention { store: store.clone(), broker, leases, metrics, changes, messages, notifications, every };

    let writing = store.write().await.unwrap();
    let passed = tokio::time::timeout(Duration::from_secs(30), retention.pass()).await.expect("waits for nobody").unwrap();
    assert_eq!((passed.messages, passed.notifications), (0, 0));
    writing.rollback().await.unwrap();

    for sql in [
        "UPDATE messages SET sent_at = {day_ago} WHERE seq IN (1, 500, 501, 1000)",
        "UPDATE notifications SET sent_at = {day_ago} WHERE recipient IN ('u1', 'u500', 'u999')",
        "INSERT INTO inbox_state (recipient, notification, seen, is_read) \
         SELECT 'u7', unhex(printf('%012x%020x', {day_ago}, n)), TRUE, TRUE FROM c WHERE n <> 7",
    ] {
        let sql = sql.replace("{day_ago}", &day_ago.0.to_string());
        store.execute(&format!("{} {sql}", numbers(1000)), []).await.unwrap();
    }
    let passed = retention.pass().await.unwrap();
    assert_eq!((passed.messages, passed.notifications), (4, 9));
    let count = async |what: &str| -> i64 {
        let sql = format!("SELECT count(*) AS n FROM {what}");
        store.database().query_one_raw(store.statement(&sql, [])).await.unwrap().unwrap().try_get("", "n").unwrap()
    };
    assert_eq!(count("messages").await, 996);
    assert_eq!(count("group_events").await, 1997, "old ones that no inbox has any more");
    assert_eq!(count("inbox_state WHERE recipient = 'u7'").await, 4, "only what is of nothing");
    assert_eq!(count("inbox_state").await, 4 * 1000 - 2 * 3);
    stop.cancel();
    keeping.await.unwrap();
}
