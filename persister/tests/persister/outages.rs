//! The database goes away and comes back.

use std::time::{Duration, Instant};

use futures::StreamExt;
use natter_persister::DatabaseOptions;
use natter_shared::{
    broker::{Broker, Control},
    event::GroupKind,
    frame::ErrorCode,
    rpc::{ChangeStanding, CheckApiKey, FindUser, StandingChange},
    subject::Topic,
};
use sea_orm::{ConnectionTrait, DbBackend, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait};
use tokio_util::sync::CancellationToken;

use crate::harness::{Harness, user};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_costs_time_and_nothing_else() {
    let mut harness = Harness::postgres().await;
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let topic = Topic::Group(group);
    let mut last = harness.say(group, &alice, "before").await;
    harness.applied(topic, last).await;
    for kill in [false, true] {
        let server = harness.server.as_mut().unwrap();
        if kill { server.kill() } else { server.stop() }.unwrap();
        for n in 0..50 {
            last = harness.say(group, &alice, &format!("meanwhile {n}")).await;
        }
        let asked = Instant::now();
        let error = harness.call(FindUser::Id(alice.clone())).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert!(asked.elapsed() < Duration::from_secs(5));
        // Long enough for several tries.
        tokio::time::sleep(Duration::from_secs(3)).await;
        harness.server.as_mut().unwrap().start_again().unwrap();
        harness.database = natter_persister::connect(&harness.options.database).await.unwrap();
        harness.applied(topic, last).await;
    }
    assert_eq!(harness.count("messages").await, 101);
    assert_eq!(harness.count("dead_letters").await, 0);
    assert!(harness.call(FindUser::Id(alice)).await.is_ok());
}

/// As retention changes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_waits_for_a_row_that_another_changes_and_is_not_tried_again() {
    let harness = Harness::postgres().await;
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let topic = Topic::Group(group);
    let first = harness.say(group, &alice, "first").await;
    harness.applied(topic, first).await;
    let other = harness.database.begin().await.unwrap();
    other.execute_unprepared("UPDATE group_counters SET floor_ordinal = floor_ordinal").await.unwrap();
    let second = harness.say(group, &alice, "second").await;
    let waits = async || (harness.count("pg_stat_activity WHERE wait_event_type = 'Lock'").await > 0).then_some(());
    harness.eventually("waits for the row", waits).await;
    other.commit().await.unwrap();
    harness.applied(topic, second).await;
    assert_eq!((harness.count("messages").await, harness.count("dead_letters").await), (2, 0));
    assert_eq!(harness.metric("natter_persister_retries_total"), ["natter_persister_retries_total 0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_migrate_at_once() {
    for mut harness in [Harness::sqlite().await, Harness::postgres().await] {
        if let Some(server) = &harness.server {
            harness.options.database.url = server.create_database().unwrap();
        } else {
            harness.options.database.url = format!("sqlite:{}", harness.directory.path().join("fresh.db").display());
        }
        let migrations = (0..4).map(|_| async {
            // On a machine that is busy a first try may find no time.
            let database = natter_persister::connect_with_retry(&harness.options.database, &CancellationToken::new()).await.unwrap();
            natter_persister::migrate(&database).await
        });
        for migrated in futures::future::join_all(migrations).await {
            migrated.unwrap();
        }
    }
}

/// It is in no stream: after a loss of power nothing would bring it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_on_the_disk_when_it_is_answered() {
    let harness = Harness::sqlite().await;
    // What is not synced is in the write-ahead log only; so is, synced, what somebody reads around: not each time.
    let mut copied = 0;
    for number in 0..5 {
        let user = user(&format!("somebody-to-be-blocked-{number}"));
        harness.call(ChangeStanding { user: user.clone(), change: StandingChange::Block }).await.unwrap();
        let file = std::fs::read(harness.directory.path().join("natter.db")).unwrap();
        copied += usize::from(file.windows(user.as_str().len()).any(|bytes| bytes == user.as_str().as_bytes()));
    }
    assert!(copied > 0);
}

/// Else the log would be taken for another installation's.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_opened_in_an_epoch_that_is_on_the_disk() {
    let harness = Harness::sqlite().await;
    // As above: what is in the write-ahead log only is not there, nor what somebody reads around.
    let copy = harness.directory.path().join("copy.db");
    std::fs::copy(harness.directory.path().join("natter.db"), &copy).unwrap();
    let url = format!("sqlite:{}", copy.display());
    let copy = natter_persister::connect(&DatabaseOptions { url, ..DatabaseOptions::default() }).await.unwrap();
    let epochs = copy.query_all_raw(Statement::from_string(DbBackend::Sqlite, "SELECT epoch FROM epochs")).await.unwrap();
    assert!(!epochs.is_empty());
}

/// A lease is renewed by the same one writer.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_write_in_sqlite_leaves_the_only_persister_ready() {
    let harness = Harness::sqlite().await;
    let options = TransactionOptions { sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate), ..Default::default() };
    let write = harness.database.begin_with_options(options).await.unwrap();
    let until = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until {
        assert!(harness.is_ready(0), "{:?} before the end", until - Instant::now());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    write.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_alone_is_cut_off_from_the_database_leaves_all_to_others() {
    let mut harness = Harness::postgres().await;
    let alice = user("alice");
    harness.stop().await;
    let handle = harness.start_with_a_handle().await;
    let (group, created) = harness.create(GroupKind::Group, &[&alice]).await;
    let (topic, shard) = (Topic::Group(group), harness.shard(Topic::Group(group)));
    harness.applied(topic, created).await;
    handle.work.close_by_ref().await.unwrap();
    handle.calls.close_by_ref().await.unwrap();
    handle.apart.close_by_ref().await.unwrap();
    harness.start().await;
    let last = harness.say(group, &alice, "meanwhile").await;
    harness.eventually("the other one has applied it", async || (harness.count("messages").await == 1).then_some(())).await;
    let mut controls = harness.broker.controls().await.unwrap();
    let mut next = async |within| match tokio::time::timeout(within, controls.next()).await {
        Ok(Some(Control::Applied { shard: of, position, .. })) if of == shard.0 => Some(position),
        Ok(_) | Err(_) => None,
    };
    // Once it has been said, all know.
    while next(Duration::from_secs(20)).await < Some(last.position) {}
    let asks = async || harness.call(FindUser::Id(alice.clone())).await.is_ok();
    harness
        .eventually("calls are left to who can answer them", async || (asks().await && asks().await && asks().await).then_some(()))
        .await;
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert!(asks().await);
        if let Some(position) = next(Duration::from_millis(100)).await {
            assert!(position >= last.position, "{position} was said, and SQL is at {}", last.position);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reaches_the_database_for_all_but_calls_leaves_these_to_others() {
    let mut harness = Harness::postgres().await;
    harness.stop().await;
    let handle = harness.start_with_a_handle().await;
    harness.start().await;
    harness.sign_in(&user("alice"), None).await;
    handle.calls.close_by_ref().await.unwrap();
    let asks = async || harness.call(FindUser::Id(user("alice"))).await.is_ok();
    harness
        .eventually("calls are left to who can answer them", async || {
            for _ in 0..20 {
                if !asks().await {
                    return None;
                }
            }
            Some(())
        })
        .await;
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert!(asks().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All their connections are busy: who asks whether the database answers there gets none, but each call does, in its turn.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_answered_late_are_not_left_to_others() {
    let mut harness = Harness::postgres().await;
    harness.stop().await;
    harness.options.database.max_connections = 4;
    harness.options.database.acquire_timeout = Duration::from_secs(20);
    let handle = harness.start_with_a_handle().await;
    let pool = handle.calls.get_postgres_connection_pool();
    assert_eq!(pool.options().get_max_connections(), 1);
    let mut taken = pool.acquire().await.unwrap();
    let until = Instant::now() + Duration::from_secs(17);
    while Instant::now() < until {
        // The call first, then whoever takes the connection again, before the next who asks.
        let call = harness.call(FindUser::Id(user("alice")));
        let lend = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let again = pool.acquire();
            let release = async {
                // Who asked before the call has given up by then.
                tokio::time::sleep(Duration::from_millis(3300)).await;
                drop(taken);
            };
            tokio::join!(again, release).0.unwrap()
        };
        let (answer, again) = tokio::join!(call, lend);
        taken = again;
        assert!(answer.is_ok(), "{answer:?}");
    }
    // And once none of them is answered, they are.
    let is_left = async || {
        let asked = Instant::now();
        harness.call(FindUser::Id(user("alice"))).await.is_err() && asked.elapsed() < Duration::from_secs(2)
    };
    harness.eventually("calls are left to others", async || is_left().await.then_some(())).await;
    drop(taken);
}

/// All that a call has of an SQLite database is taken, and a call that writes waits for some of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_to_write_keeps_no_shard_waiting() {
    let mut harness = Harness::sqlite().await;
    harness.stop().await;
    harness.options.database.max_connections = 4;
    // The call waits for as long as it may, far longer than a shard has.
    harness.options.database.acquire_timeout = Duration::from_secs(20);
    let handle = harness.start_with_a_handle().await;
    let alice = user("alice");
    let (group, created) = harness.create(GroupKind::Group, &[&alice]).await;
    harness.applied(Topic::Group(group), created).await;
    let calls = handle.calls.get_sqlite_connection_pool();
    let mut taken = vec![calls.acquire().await.unwrap()];
    while let Some(another) = calls.try_acquire() {
        taken.push(another);
    }
    while taken.len() < calls.options().get_max_connections() as usize {
        taken.push(calls.acquire().await.unwrap());
    }
    let waits = async {
        let _ = harness.call(ChangeStanding { user: user("bob"), change: StandingChange::Block }).await;
    };
    let applies = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let said = Instant::now();
        let ack = harness.say(group, &alice, "meanwhile").await;
        harness.applied(Topic::Group(group), ack).await;
        assert!(said.elapsed() < Duration::from_secs(3), "{:?}", said.elapsed());
    };
    tokio::join!(waits, applies);
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_looks_whether_its_client_is_still_there() {
    let harness = Harness::postgres().await;
    let shown = harness.rows("SHOW client_connection_check_interval").await;
    assert_eq!(shown[0].try_get::<String>("", "client_connection_check_interval").unwrap(), "1s");
}

/// A call waits for a lock; another one, which does not, comes to the same persister.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_calls_as_may_be_are_answered_at_a_time() {
    let mut harness = Harness::postgres().await;
    for concurrency in [1, 2] {
        harness.stop().await;
        harness.options.rpc_concurrency = concurrency;
        harness.start().await;
        let locked = harness.database.begin().await.unwrap();
        locked.execute_unprepared("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let waits = harness.call(CheckApiKey { sha256: "aa".into() });
        let other = async {
            let held = async || (harness.count("pg_stat_activity WHERE wait_event_type = 'Lock'").await == 1).then_some(());
            harness.eventually("the first one waits", held).await;
            let call = harness.call(FindUser::Id(user("alice")));
            tokio::pin!(call);
            let answered = tokio::time::timeout(Duration::from_secs(if concurrency == 1 { 1 } else { 3 }), &mut call).await;
            assert_eq!(answered.is_ok(), concurrency == 2, "with {concurrency}");
            locked.rollback().await.unwrap();
            if answered.is_err() {
                call.await.unwrap();
            }
        };
        assert!(tokio::join!(waits, other).0.is_ok());
    }
}

/// All that a call has of the database waits for a lock; there are more calls than connections.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_the_database_keep_no_shard_waiting() {
    let mut harness = Harness::postgres().await;
    harness.stop().await;
    harness.options.database.max_connections = 4;
    harness.start().await;
    let alice = user("alice");
    let (group, created) = harness.create(GroupKind::Group, &[&alice]).await;
    harness.applied(Topic::Group(group), created).await;
    let holders = "SELECT DISTINCT CAST(holder AS text) AS holder FROM leases";
    let holder = async || harness.rows(holders).await.iter().map(|row| row.try_get("", "holder").unwrap()).collect::<Vec<String>>();
    let before = holder().await;
    let locked = harness.database.begin().await.unwrap();
    locked.execute_unprepared("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let until = Instant::now() + Duration::from_secs(8);
    let calls = async {
        while Instant::now() < until {
            let calls = (0..64).map(|_| harness.call(CheckApiKey { sha256: "aa".into() }));
            assert!(futures::future::join_all(calls).await.iter().all(Result::is_err));
        }
    };
    let work = async {
        while Instant::now() < until {
            let said = Instant::now();
            let ack = harness.say(group, &alice, "meanwhile").await;
            harness.applied(Topic::Group(group), ack).await;
            assert!(said.elapsed() < Duration::from_secs(3), "{:?}", said.elapsed());
            assert_eq!(harness.count("leases WHERE until < extract(epoch from clock_timestamp()) * 1000").await, 0);
        }
    };
    tokio::join!(calls, work);
    locked.rollback().await.unwrap();
    assert_eq!((before.len(), holder().await), (1, before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_row_is_held_is_the_only_one_that_runs_out() {
    let mut harness = Harness::postgres().await;
    harness.stop().await;
    harness.options.lease_ttl = Duration::from_secs(10);
    // One with leases, and one that looks whether any has run out.
    harness.start().await;
    harness.start().await;
    let other = harness.database.begin().await.unwrap();
    other.execute_unprepared("UPDATE leases SET until = until WHERE shard = 2").await.unwrap();
    let until = Instant::now() + Duration::from_secs(13);
    while Instant::now() < until {
        let sql = "SELECT CAST(min(until - extract(epoch from clock_timestamp()) * 1000) AS bigint) AS ms FROM leases WHERE shard <> 2";
        let left: i64 = harness.rows(sql).await[0].try_get("", "ms").unwrap();
        assert!(left > 2000, "{left} ms are left of a lease of 10 s");
        assert_eq!(harness.count("pg_stat_activity WHERE wait_event_type = 'Lock'").await, 0, "waits for the row");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    other.rollback().await.unwrap();
    let again = async || (harness.count("leases WHERE until < extract(epoch from clock_timestamp()) * 1000").await == 0).then_some(());
    harness.eventually("all are leased", again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_in_utf_8_is_refused() {
    let mut harness = Harness::postgres().await;
    let url = harness.options.database.url.clone();
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let name = encoding.to_lowercase();
        harness.sql(&format!("CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")).await;
        harness.options.database.url = url.replace("natter_0", &name);
        let database = natter_persister::connect(&harness.options.database).await.unwrap();
        let refused =
            [natter_persister::migrate(&database).await.unwrap_err().to_string(), harness.run_to_its_end().await.unwrap_err().to_string()];
        for told in refused {
            assert!(told.contains(encoding) && told.contains("createdb --encoding=UTF8 --template=template0"), "{told}");
        }
    }
}
