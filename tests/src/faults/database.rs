//! The database away, slow, locked.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rand::RngExt;

use super::run::Run;
use crate::{
    cluster::Cluster,
    proxy::{Condition, Link, Select},
    sql::Sql,
};

/// What may be missing in SQL when it has caught up: what was sent within the last moment.
const MOMENT: Duration = Duration::from_secs(1);

/// Away, and back: rows follow at twice the inflow at least.
pub(super) async fn down(cluster: &mut Cluster, run: &mut Run) -> Result<()> {
    let before = cluster.sql().await?.message_count().await?;
    let away = run.seconds(12, 20, 300);
    cluster.postgres.as_mut().context("PostgreSQL")?.stop()?;
    tokio::time::sleep(away).await;
    cluster.postgres.as_mut().context("PostgreSQL")?.start_again()?;
    let back = Instant::now();
    let sql = cluster.sql().await?;
    // The end of catching up shows in the pace: no more than a moment's messages come in a moment.
    let (mut last, mut at) = (before, back);
    // Until when none had come.
    let mut begun = Duration::ZERO;
    let mut fastest = 0.0f64;
    // Since when it is slow again, and how many there were then: it may only have halted for a while.
    let mut calm: Option<(i64, Duration)> = None;
    loop {
        tokio::time::sleep(MOMENT / 4).await;
        let (now, then) = (sql.message_count().await?, Instant::now());
        let pace = (now - last) as f64 / (then - at).as_secs_f64();
        fastest = fastest.max(pace);
        if last == before {
            begun = at - back;
        }
        (last, at) = (now, then);
        let is_calm = last > before && pace < fastest / 2.0;
        calm = if is_calm { calm.or_else(|| Some((last, back.elapsed()))) } else { None };
        if calm.is_some_and(|(_, since)| back.elapsed() > since + MOMENT) || back.elapsed() > Duration::from_mins(2) {
            break;
        }
    }
    let (last, took) = calm.unwrap_or_else(|| (last, back.elapsed()));
    let missed = (last - before) as f64;
    let inflow = missed / (away + took).as_secs_f64();
    let pace = missed / took.saturating_sub(begun).as_secs_f64();
    let dead = sql.count("SELECT COUNT(*) FROM dead_letters").await?;
    run.note(format!(
        "away {} s at {inflow:.0} messages/s; first rows within {:.2} s, caught up in {took:.1?}, {:.1} times the inflow; {dead} dead letters",
        away.as_secs(),
        begun.as_secs_f64(),
        pace / inflow
    ));
    ensure!(pace >= 2.0 * inflow, "it caught up at {pace:.0}/s with an inflow of {inflow:.0}/s");
    ensure!(dead == 0, "{dead} dead letters");
    Ok(())
}

/// How much later an answer comes.
const SLOW_MS: Range<u64> = 100..300;

/// Each answer takes longer.
pub(super) async fn slow(cluster: &Cluster, run: &mut Run) -> Result<()> {
    let address = cluster.postgres.as_ref().context("PostgreSQL")?.address().to_string();
    let mut links = Vec::new();
    for proxy in cluster.persisters.iter().filter_map(|node| node.database.as_ref()) {
        links.push((proxy, Sql::connect(&cluster.database_url.replace(&address, &proxy.address().to_string())).await?));
    }
    for _ in 0..run.rounds(4, 10, 60) {
        for (proxy, sql) in &links {
            let delay = Duration::from_millis(run.dice.random_range(SLOW_MS));
            proxy.set(Select::All, Condition { down: Link::Delayed(delay), ..Condition::default() });
            let asked = Instant::now();
            sql.count("SELECT 1::bigint").await?;
            ensure!(asked.elapsed() >= delay, "PostgreSQL was slow, and answered within {:.1?}", asked.elapsed());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for (proxy, _) in &links {
        proxy.heal();
    }
    Ok(())
}

/// Somebody else's transaction holds the messages.
pub(super) async fn locked(cluster: &Cluster, run: &mut Run) -> Result<()> {
    let (sql, watch) = (cluster.sql().await?, cluster.sql().await?);
    let held = sql.hold("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE").await?;
    let until = Instant::now() + run.seconds(4, 15, 60);
    let waiting = "SELECT COUNT(*) FROM pg_locks WHERE relation = 'messages'::regclass AND NOT granted";
    let mut most = 0;
    while Instant::now() < until {
        tokio::time::sleep(MOMENT / 4).await;
        most = most.max(watch.count(waiting).await?);
    }
    held.rollback().await?;
    ensure!(most > 0, "nobody waited for the lock");
    Ok(())
}
