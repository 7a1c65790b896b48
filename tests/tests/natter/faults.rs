//! Things are killed, stopped and lost: nothing accepted is missing or doubled, clients resume.

use std::time::Duration;

use anyhow::{Context, Result};
use natter_tests::{
    checker::Report,
    client::{ANSWER, Client, RequestError},
    cluster::{Cluster, Store},
    proxy::Select,
    token::User,
    traffic::{Plan, Traffic},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::chat::wait_until;

/// Twenty users in five groups who talk until they are stopped.
fn talk(label: &'static str) -> Plan {
    Plan { users: 20, groups: 5, groups_per_user: 2, messages: 1_000_000, reconnects: 2, moves: 0, pause: Duration::from_millis(20), label }
}

/// Runs traffic while `trouble` goes on, and a little longer; then settles.
pub(super) async fn under_traffic(
    cluster: &mut Cluster,
    label: &'static str,
    trouble: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) -> Result<Report> {
    let mut traffic = Traffic::begin(talk(label), &cluster.addrs()).await?;
    let stop = CancellationToken::new();
    let (ran, trouble) = tokio::join!(traffic.run(&stop), async {
        let _stop = stop.clone().drop_guard();
        tokio::time::sleep(Duration::from_secs(1)).await;
        trouble(cluster).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        anyhow::Ok(())
    });
    trouble.context("making trouble")?;
    ran.context("traffic")?;
    let report = traffic.settle(&cluster.sql().await?).await?;
    eprintln!("{label}: {} accepted, {} delivered, {} resets", report.accepted, report.deliveries, report.resets);
    assert!(report.accepted > 100 && report.deliveries > report.accepted, "there was traffic: {report:?}");
    Ok(report)
}

#[tokio::test(flavor = "multi_thread")]
async fn persisters_killed_twenty_times_leave_exact_rows() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(2).persisters(2).store(Store::Postgres).start().await?;
    let trouble = async |cluster: &mut Cluster| {
        for round in 0..20 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            cluster.persisters[round % 2].process.kill_and_start()?;
        }
        Ok(())
    };
    let report = under_traffic(&mut cluster, "persister", trouble).await?;
    report.assert_clean();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateways_clients_resume_elsewhere_with_nothing_missing() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(3).start().await?;
    let trouble = async |cluster: &mut Cluster| {
        for round in 0..3 {
            cluster.gateways[round].process.kill_and_start()?;
            cluster.gateways[round].wait_ready().await?;
        }
        Ok(())
    };
    let report = under_traffic(&mut cluster, "gateway", trouble).await?;
    report.assert_clean();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_gateway_sends_its_clients_elsewhere() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(2).start().await?;
    let trouble = async |cluster: &mut Cluster| {
        let status = cluster.gateways[0].process.terminate()?;
        anyhow::ensure!(status.success(), "SIGTERM is no mistake: {status}");
        cluster.gateways[0].process.start_again()?;
        cluster.gateways[0].wait_ready().await
    };
    let report = under_traffic(&mut cluster, "stopping", trouble).await?;
    report.assert_clean();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_nats_loses_nothing() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(2).start().await?;
    let trouble = async |cluster: &mut Cluster| {
        cluster.nats.kill()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.nats.restart()?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.nats.restart()?;
        Ok(())
    };
    let report = under_traffic(&mut cluster, "nats", trouble).await?;
    report.assert_clean();
    assert_eq!(report.resets, 0, "the store is whole");
    Ok(())
}

/// Stops PostgreSQL for thirty seconds; who is connected chats on, who comes is told to retry.
async fn without_database(cluster: &mut Cluster) -> Result<()> {
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("db-lobby").await?;
    ben.join("db-lobby").await?;
    let postgres = cluster.postgres.as_mut().context("PostgreSQL")?;
    postgres.stop()?;
    let away_until = tokio::time::Instant::now() + Duration::from_secs(30);
    ann.send(group, "without a database").await?;
    ben.wait_for_body("without a database").await?;
    let mut late = Client::new(&User::named("late"));
    let refused = late.reconnect(cluster.gateways[0].addr).await.expect_err("nobody new while SQL is away");
    match refused.downcast_ref::<RequestError>() {
        Some(RequestError::Refused(error)) => assert_eq!(error["retryable"], true, "{error}"),
        Some(RequestError::Closed(Some((code, _)))) => assert!([1012, 1013].contains(code), "{refused}"),
        other => panic!("not a retryable error: {other:?} {refused:?}"),
    }
    let refused = ann.join("another").await.expect_err("nothing joined while SQL is away");
    assert!(matches!(&refused, RequestError::Refused(error) if error["retryable"] == true), "{refused}");
    tokio::time::sleep_until(away_until).await;
    ann.send(group, "still without").await?;
    ben.wait_for_body("still without").await?;
    cluster.postgres.as_mut().context("PostgreSQL")?.start_again()?;
    late.reconnect_to_any(&cluster.addrs(), ANSWER).await?;
    // The rows of half a minute come first; until then a join is refused, retryably.
    let deadline = tokio::time::Instant::now() + 2 * ANSWER;
    while let Err(refused) = late.join("db-lobby").await {
        let retryable = matches!(&refused, RequestError::Refused(error) if error["retryable"] == true);
        assert!(retryable && tokio::time::Instant::now() < deadline, "{refused}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_sessions_chat_on_and_rows_follow() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(2).persisters(2).store(Store::Postgres).start().await?;
    // Reconnects would be refused meanwhile, as they should.
    let mut traffic = Traffic::begin(Plan { reconnects: 0, ..talk("database") }, &cluster.addrs()).await?;
    let stop = CancellationToken::new();
    let (ran, troubled) = tokio::join!(traffic.run(&stop), async {
        let _stop = stop.clone().drop_guard();
        without_database(&mut cluster).await
    });
    troubled.context("making trouble")?;
    ran.context("traffic")?;
    let sql = cluster.sql().await?;
    let settled = traffic.settle(&sql).await?;
    settled.assert_clean();
    assert!(settled.accepted > 100 && settled.resets == 0, "{settled:?}");
    Ok(())
}

/// A database whose host is gone without a word while a write waits for its answer: nothing but our own patience ends that.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_falls_silent_in_a_write_is_asked_again_over_another_connection() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).store(Store::Postgres).proxied().start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let group = ann.join("lobby").await?;
    let sql = cluster.sql().await?;
    ann.send(group, "before").await?;
    wait_until("a row", async || sql.message_count().await.unwrap_or_default() == 1).await;
    let held = sql.hold("SELECT shard FROM applied FOR UPDATE").await?;
    ann.send(group, "in between").await?;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    wait_until("a write that waits", async || sql.count(waits).await.unwrap_or_default() > 0).await;
    cluster.persisters[0].database.as_ref().context("its proxy")?.freeze(&Select::All);
    drop(held);
    ann.send(group, "after").await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(50);
    while sql.message_count().await? < 3 {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "the rows never came");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let page = ann.request(json!({"type": "history", "group": group, "limit": 10})).await?;
    assert_eq!(page["messages"].as_array().map(Vec::len), Some(3), "{page}");
    Ok(())
}

/// A hint comes before its rows: while they wait for a slow database, the session that follows the
/// hint must ask again, and not be told to come back (1013).
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_late_cost_nobody_who_joins_the_connection() -> Result<()> {
    let cluster = Cluster::builder().gateways(2).store(Store::Postgres).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    let sql = cluster.sql().await?;
    // Everything of a batch is done but its commit, for longer than a call waits for rows (1 s) and
    // shorter than a command does (4 s).
    let slow = sql.hold("SELECT shard FROM applied FOR UPDATE").await?;
    let (joined, ()) = tokio::join!(ben.join("lobby"), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(slow);
    });
    assert_eq!(joined?, group);
    ann.send(group, "welcome").await?;
    ben.wait_for_body("welcome").await?;
    assert_eq!(ben.record(|record| record.closed.clone()), None);
    assert_eq!(ben.bodies(group), ["welcome"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_nats_store_begins_a_new_epoch_and_sql_keeps_the_old_one() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(2).start().await?;
    let mut ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let mut ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    let mut sent = Vec::new();
    for number in 0..20 {
        sent.push(ann.send(group, &format!("old {number}")).await?);
    }
    ben.wait_for_body("old 19").await?;
    let sql = cluster.sql().await?;
    wait_until("20 rows", async || sql.message_count().await.unwrap_or_default() == 20).await;
    let before = sql.messages().await?;

    cluster.nats.wipe()?;
    cluster.nats.restart()?;

    let addrs = cluster.addrs();
    let fact = ann.send_until_accepted(natter_shared::id::Nonce::now(), group, "new", &addrs, Duration::from_mins(1)).await?;
    assert!(fact.position.epoch > sent[19].position.epoch, "{fact:?} after {:?}", sent[19]);
    let told = |record: &natter_tests::record::Record| {
        let reset = record.entries.iter().any(|entry| matches!(entry, natter_tests::checker::Entry::Reset(of) if *of == group));
        let closed = record.closed.is_some();
        let new = record.pushes.iter().any(|push| push["body"] == "new");
        (reset || closed || new).then_some((reset, closed))
    };
    ben.wait_until("reset, close or the new message", Duration::from_secs(30), told).await?;
    if ben.record(|record| record.closed.is_some()) {
        ben.reconnect_to_any(&addrs, ANSWER).await?;
    }
    ben.wait_for_body("new").await?;
    // Whoever comes back from the old epoch is told, and goes on.
    let mut cid = Client::new(&User::named("ben"));
    cid.resume_from(group, sent[3].position);
    cid.reconnect_to_any(&addrs, ANSWER).await?;
    ann.send_until_accepted(natter_shared::id::Nonce::now(), group, "newer", &addrs, Duration::from_secs(30)).await?;
    cid.wait_for_body("newer").await?;
    let bodies = cid.bodies(group);
    let resets = cid.record(|record| record.entries.iter().filter(|entry| matches!(entry, natter_tests::checker::Entry::Reset(_))).count());
    assert!(resets > 0 || bodies.len() == 18, "neither declared nor complete: {bodies:?}");

    wait_until("22 rows", async || sql.message_count().await.unwrap_or_default() == 22).await;
    let after = sql.messages().await?;
    assert!(before.iter().all(|row| after.contains(row)), "nothing of the old epoch changed");
    let page = ann.request(json!({"type": "history", "group": group, "limit": 100})).await?;
    let bodies: Vec<&str> = page["messages"].as_array().unwrap().iter().filter_map(|message| message["body"].as_str()).collect();
    assert_eq!((bodies.len(), bodies[0], bodies[21]), (22, "old 0", "newer"));
    Ok(())
}
