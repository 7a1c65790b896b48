//! The database away, slow, locked.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use sea_orm::{ConnectionTrait, Database, TransactionTrait};

use super::run::Run;
use crate::{
    cluster::Cluster,
    proxy::{Condition, Link, Proxy, Select},
};

/// What may be missing in SQL when it has caught up: what was sent within the last moment.
const MOMENT: Duration = Duration::from_secs(1);

/// Away, and back: rows follow at twice the inflow at least.
pub(super) async fn down(cluster: &mut Cluster, run: &mut Run) -> Result<()> {
    let before = cluster.sql().await?.message_count().await?;
    let away = run.seconds(5, 20, 300);
    cluster.postgres.as_mut().context("PostgreSQL")?.stop()?;
    tokio::time::sleep(away).await;
    cluster.postgres.as_mut().context("PostgreSQL")?.start_again()?;
    let back = Instant::now();
    let sql = cluster.sql().await?;
    // The end of catching up shows in the pace: no more than a moment's messages come in a moment.
    let (mut last, mut at) = (sql.message_count().await?, Instant::now());
    let first = last;
    let mut fastest = 0.0f64;
    // Since when it is slow again, and how many there were then: it may only have halted for a while.
    let mut calm: Option<(i64, Duration)> = None;
    loop {
        tokio::time::sleep(MOMENT / 4).await;
        let (now, then) = (sql.message_count().await?, Instant::now());
        let pace = (now - last) as f64 / (then - at).as_secs_f64();
        fastest = fastest.max(pace);
        (last, at) = (now, then);
        let is_calm = last > first && pace < fastest / 2.0;
        calm = if is_calm { calm.or_else(|| Some((last, back.elapsed()))) } else { None };
        if calm.is_some_and(|(_, since)| back.elapsed() > since + MOMENT) || back.elapsed() > Duration::from_mins(2) {
            break;
        }
    }
    let (last, took) = calm.unwrap_or_else(|| (last, back.elapsed()));
    let missed = (last - before) as f64;
    let inflow = missed / (away + took).as_secs_f64();
    let pace = missed / took.as_secs_f64();
    let dead = sql.count("SELECT COUNT(*) FROM dead_letters").await?;
    run.note(format!(
        "away {} s at {inflow:.0} messages/s; caught up in {:.1?}, {:.1} times the inflow; {dead} dead letters",
        away.as_secs(),
        took,
        pace / inflow
    ));
    ensure!(pace >= 2.0 * inflow, "it caught up at {pace:.0}/s with an inflow of {inflow:.0}/s");
    ensure!(dead == 0, "{dead} dead letters");
    Ok(())
}

/// Each answer takes longer.
pub(super) async fn slow(cluster: &Cluster, run: &mut Run) -> Result<()> {
    let proxies = || cluster.persisters.iter().filter_map(|node| node.database.as_ref());
    for _ in 0..run.rounds(4, 10, 60) {
        for proxy in proxies() {
            let delay = Duration::from_millis(run.dice.random_range(100..300));
            proxy.set(Select::All, Condition { down: Link::Delayed(delay), ..Condition::default() });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    proxies().for_each(Proxy::heal);
    Ok(())
}

/// Somebody else's transaction holds the messages.
pub(super) async fn locked(cluster: &Cluster, run: &mut Run) -> Result<()> {
    let database = Database::connect(&cluster.database_url).await?;
    let transaction = database.begin().await?;
    transaction.execute_unprepared("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE").await?;
    tokio::time::sleep(run.seconds(4, 15, 60)).await;
    transaction.rollback().await?;
    Ok(())
}
