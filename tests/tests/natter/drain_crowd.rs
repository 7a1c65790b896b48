//! A gateway with thousands of clients is told to stop: how evenly they come back to another, and
//! whether each was let go in order.
//!
//! `CROWD=10000 cargo test --release --workspace --test natter drain_crowd -- --ignored --nocapture`, after
//! `cargo build --release --workspace --bins`; docs/faults.md has the figures.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::join_all;
use natter_tests::{
    client::Client,
    cluster::{Cluster, Store},
    crowd::{self, listen, quantile, quantiles, talk},
    token::User,
};
use tokio_util::sync::CancellationToken;

/// `gateway.drain_timeout`, as it is unless configured.
const DRAINED_WITHIN: Duration = Duration::from_secs(25);

/// The most of `times`, sorted, within any second.
fn most_a_second(times: &[Duration]) -> usize {
    let until = |at: &Duration| times.partition_point(|other| *other < *at + Duration::from_secs(1));
    times.iter().enumerate().map(|(first, at)| until(at) - first).max().unwrap_or_default()
}

/// Prints and returns how many there were in a second, on average and at most.
fn rate(what: &str, times: &mut [Duration]) -> (f64, usize) {
    times.sort();
    let (mean, most) = (times.len() as f64 / quantile(times, 100).as_secs_f64(), most_a_second(times));
    let seconds: Vec<_> =
        (0..=quantile(times, 100).as_secs()).map(|second| times.iter().filter(|at| at.as_secs() == second).count()).collect();
    eprintln!("{what}: {} in {:?}, {mean:.0} a second, at most {most}: {seconds:?}", times.len(), quantile(times, 100));
    (mean, most)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: minutes long, and with a release build"]
async fn a_crowd_that_is_told_to_leave_comes_back_evenly() -> Result<()> {
    let count: usize = std::env::var("CROWD").ok().and_then(|count| count.parse().ok()).unwrap_or(1000);
    let mut cluster =
        Cluster::builder().gateways(2).store(Store::Postgres).env("NATTER_LIMITS__CONNECTIONS_PER_IP", "20000").start().await?;
    let (kept, second) = (CancellationToken::new(), cluster.gateway(1));
    let begun = Instant::now();
    let settled = crowd::settle(count, cluster.gateway(0), &kept).await?;
    eprintln!("{count} clients after {:?}", begun.elapsed());
    let speaker = Client::connect(second, &User::named("speaker")).await?;
    let mut spoken = Vec::new();
    for group in 0..crowd::groups(count).min(20) {
        spoken.push(speaker.join(&crowd::group_name(group)).await?);
    }

    let begun = Instant::now();
    cluster.gateways[0].process.signal(libc::SIGTERM)?;
    let over = CancellationToken::new();
    let back = async {
        let back = settled.into_iter().map(|listening| {
            tokio::spawn(async move {
                let (mut listener, end) = listening.await?;
                // As the protocol says: when it was told to, counted from then.
                let at = end.draining.first().map_or_else(Instant::now, |(told, wait)| *told + *wait);
                tokio::time::sleep_until(at.into()).await;
                let tried = begun.elapsed();
                let (connection, recovered) = listener.connect_to_any(&[second], begun + 4 * DRAINED_WITHIN).await?;
                let kept = tokio::spawn(listen(listener, connection, CancellationToken::new()));
                anyhow::Ok((end, recovered, tried, begun.elapsed(), kept))
            })
        });
        let back: Result<Vec<_>> = join_all(back).await.into_iter().map(|back| back?).collect();
        over.cancel();
        back
    };
    // Waiting for a process blocks.
    let mut leaving = cluster.gateways.remove(0);
    let gone = tokio::task::spawn_blocking(move || anyhow::Ok((leaving.process.wait(2 * DRAINED_WITHIN)?, begun.elapsed())));
    let (during, back, gone) = tokio::join!(talk(&speaker, &spoken, over.clone()), back, gone);
    let (back, (status, drained)) = (back?, gone??);
    let is_clean = |end: &crowd::End| end.code == Some(1012) && end.draining.len() == 1 && end.error.is_none();
    let unclean: Vec<_> = back.iter().map(|(end, ..)| end).filter(|end| !is_clean(end)).collect();
    let recovered = back.iter().filter(|(_, recovered, ..)| *recovered).count();
    eprintln!("the gateway ended after {drained:?}: {status}; {} closed uncleanly, {recovered} with everything", unclean.len());
    let tried = rate("came back", &mut back.iter().map(|(_, _, tried, ..)| *tried).collect::<Vec<_>>());
    let ready = rate("signed in", &mut back.iter().map(|(_, _, _, ready, _)| *ready).collect::<Vec<_>>());
    eprintln!("sends meanwhile: {}", quantiles(&during));
    assert!(status.success() && drained < DRAINED_WITHIN, "{status} after {drained:?}");
    assert!(unclean.is_empty(), "{} of them: {:?}", unclean.len(), unclean.first());
    assert_eq!((back.len(), recovered), (count, count));
    for (mean, most) in [tried, ready] {
        assert!((most as f64) < 2.0 * mean, "{most} in one second, {mean} on average");
    }
    Ok(())
}
