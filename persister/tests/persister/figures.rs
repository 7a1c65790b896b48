//! Figures at a million users and some millions of messages, not verdicts:
//! `cargo test --release -p natter-persister -- --ignored --nocapture --test-threads=1 figures`.
//! `NATTER_FIGURES_USERS` and `NATTER_FIGURES_MESSAGES` make it smaller.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use natter_shared::{event::GroupKind, id::GroupId, rpc::ListUsers, subject::Topic};
use sea_orm::DbBackend;

use crate::harness::{Harness, user};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and wants --release"]
async fn search_sqlite() {
    search(Harness::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and wants --release"]
async fn search_postgres() {
    search(Harness::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and wants --release"]
async fn deleting_sqlite() {
    deleting(Harness::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and wants --release"]
async fn deleting_postgres() {
    deleting(Harness::postgres().await).await;
}

fn size(variable: &str, default: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Numbers 1 to `count`, as `n`.
pub(crate) fn numbers(harness: &Harness, count: u32) -> String {
    match harness.database.get_database_backend() {
        DbBackend::Sqlite => {
            format!("(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {count}) SELECT n FROM c) AS numbers")
        }
        _ => format!("generate_series(1, {count}) AS numbers(n)"),
    }
}

/// `n` of [`numbers`] as a UUID, of a kind.
pub(crate) fn uuid(harness: &Harness, kind: char) -> String {
    match harness.database.get_database_backend() {
        DbBackend::Sqlite => format!("unhex(printf('{kind}%031x', n))"),
        _ => format!("('{kind}' || lpad(to_hex(n), 31, '0'))::uuid"),
    }
}

/// `n` in the given number of digits, mixed up so that neighbours in time are none by name.
fn mixed(harness: &Harness, modulus: u32) -> String {
    let mixed = format!("((CAST(n AS bigint) * 2654435761) % {modulus})");
    match harness.database.get_database_backend() {
        DbBackend::Sqlite => format!("printf('%07d', {mixed})"),
        _ => format!("lpad(({mixed})::text, 7, '0')"),
    }
}

pub(crate) async fn settled(harness: &Harness) {
    harness.sql("ANALYZE").await;
    if harness.database.get_database_backend() == DbBackend::Postgres {
        harness.sql("VACUUM").await;
    }
}

/// The given share of sorted times, in milliseconds.
fn at(times: &[Duration], share: f64) -> f64 {
    times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1000.0
}

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!(
        "{what}: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms ({} times)",
        at(&times, 0.5),
        at(&times, 0.99),
        at(&times, 1.0),
        times.len()
    );
}

/// Users `u0000000…` with names of a hundred given names, as many of each.
pub(crate) async fn people(harness: &Harness, count: u32) {
    let (numbers, id, key) = (numbers(harness, count), mixed(harness, 10_000_000), uuid(harness, 'a'));
    harness
        .sql(&format!(
            "INSERT INTO users (id, key, handle, display_name, placeholder, created_at) \
             SELECT 'id' || n, {key}, 'u' || {id} || '_' || n, 'Name' || (n % 100) || ' Family' || (n % 9973), FALSE, 0 FROM {numbers}"
        ))
        .await;
    settled(harness).await;
}

async fn search(harness: Harness) {
    let users = size("NATTER_FIGURES_USERS", 1_000_000);
    people(&harness, users).await;
    let search = async |prefix: String, after: Option<String>| {
        let call = ListUsers { user: Some(user("id1")), prefix, after, after_name: None, limit: 50 };
        let started = Instant::now();
        let page = harness.call(call).await.unwrap();
        (started.elapsed(), page.reply.users.len())
    };
    println!("{users} users, {:?}", harness.database.get_database_backend());
    for (what, prefixes) in [
        ("a handle, six of seven digits", (0..500).map(|n| format!("u{:06}", n * 1999 % 1_000_000)).collect::<Vec<_>>()),
        ("a handle, two digits (1 of 100)", (0..200).map(|n| format!("U{:02}", n % 100)).collect()),
        ("a name in full (1 of 10,000 or so)", (0..500).map(|n| format!("name{} family{}", n * 7 % 100, n * 31 % 9973)).collect()),
        ("a given name (1 of 100)", (0..100).map(|n| format!("Name{} ", n % 100)).collect()),
        ("the first letter of every name", (0..10).map(|_| "n".to_owned()).collect()),
        ("the first letter of every handle", (0..100).map(|_| "u".to_owned()).collect()),
        ("nobody", (0..500).map(|n| format!("zz{n}")).collect()),
    ] {
        let mut times = Vec::new();
        let mut found = 0;
        for prefix in prefixes {
            let (took, some) = search(prefix, None).await;
            times.push(took);
            found += some;
        }
        tell(&format!("{what}, {found} found"), times);
    }
    let mut times = Vec::new();
    for n in 0..200 {
        times.push(search(String::new(), Some(format!("u{:07}", n * 49_999))).await.0);
    }
    tell("a page of all, from anywhere", times);
}

const GROUPS: u32 = 1000;

/// Messages of a day ago in many groups, by a thousand senders; every second one in the first group.
async fn old_messages(harness: &Harness, count: u32) {
    let (numbers, id, nonce) = (numbers(harness, count), uuid(harness, 'b'), uuid(harness, 'c'));
    let group = match harness.database.get_database_backend() {
        DbBackend::Sqlite => format!("unhex(printf('d%031x', CASE WHEN n % 2 = 0 THEN 0 ELSE n % {GROUPS} END))"),
        _ => format!("('d' || lpad(to_hex(CASE WHEN n % 2 = 0 THEN 0 ELSE n % {GROUPS} END), 31, '0'))::uuid"),
    };
    harness
        .sql(&format!(
            "INSERT INTO messages (id, group_id, epoch, seq, ordinal, sender, nonce, body, sent_at) \
             SELECT {id}, {group}, 0, n, n, 'id' || (n % 1000), {nonce}, \
             'Hello there, this is a usual chat message of some length.', 1000 FROM {numbers}"
        ))
        .await;
    harness.sql("INSERT INTO group_counters (group_id, messages) SELECT group_id, max(ordinal) FROM messages GROUP BY group_id").await;
    let key = uuid(harness, 'a');
    let columns = "id, key, handle, display_name, placeholder, created_at";
    harness.sql(&format!("INSERT INTO users ({columns}) SELECT 'id7', {key}, 'id7', 'Seven', FALSE, 0 FROM (SELECT 7 AS n) AS one")).await;
    settled(harness).await;
}

/// How long messages of others take to be applied, again and again until `over`.
async fn meanwhile(harness: &Harness, group: GroupId, over: &AtomicBool) -> Vec<Duration> {
    let mut times = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let started = Instant::now();
        let ack = harness.say(group, &user("alice"), "meanwhile").await;
        harness.applied(Topic::Group(group), ack).await;
        times.push(started.elapsed());
    }
    times
}

async fn deleting(mut harness: Harness) {
    let messages = size("NATTER_FIGURES_MESSAGES", 2_000_000);
    let mut group = None;
    // What is too old is told by the last event of each shard.
    for _ in 0..64 {
        let (made, ack) = harness.create(GroupKind::Group, &[&user("alice")]).await;
        harness.applied(Topic::Group(made), ack).await;
        group = Some(made);
    }
    let group = group.unwrap();
    old_messages(&harness, messages).await;
    println!("{messages} messages, {:?}", harness.database.get_database_backend());

    let quiet = Arc::new(AtomicBool::new(false));
    let (times, ()) = tokio::join!(meanwhile(&harness, group, &quiet), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        quiet.store(true, Ordering::Relaxed);
    });
    tell("applied, while nothing else goes on", times);

    harness.sql("INSERT INTO erasures (user_id, requested_at, stage) VALUES ('id7', 0, 'memberships')").await;
    let over = AtomicBool::new(false);
    let started = Instant::now();
    let (times, ()) = tokio::join!(meanwhile(&harness, group, &over), async {
        while harness.count("erasures WHERE finished_at IS NULL").await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        over.store(true, Ordering::Relaxed);
    });
    println!("one user erased, {} messages emptied, in {:.1} s", messages / 1000, started.elapsed().as_secs_f64());
    tell("applied, during the erasure", times);
    assert_eq!(harness.count("messages WHERE sender = 'id7' AND body <> ''").await, 0);

    harness.stop().await;
    harness.options.keep_messages = Some(Duration::from_hours(1));
    harness.options.retention_interval = Duration::from_millis(100);
    harness.start().await;
    let over = AtomicBool::new(false);
    let started = Instant::now();
    let (times, ()) = tokio::join!(meanwhile(&harness, group, &over), async {
        // All but the group that is written to.
        while harness.count("group_counters WHERE messages > floor_ordinal").await > 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        over.store(true, Ordering::Relaxed);
    });
    let took = started.elapsed().as_secs_f64();
    println!("{messages} messages deleted in {took:.0} s, {:.0} rows/s", f64::from(messages) / took);
    tell("applied, during the deletion", times);
}
