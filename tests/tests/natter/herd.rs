//! Thousands of clients dropped at once come back to one gateway: how long that takes, what it costs
//! the database, and what those who send meanwhile notice of it.
//!
//! `HERD=10000 cargo test --release --workspace --test natter herd -- --ignored --nocapture`, after
//! `cargo build --release --workspace --bins`; docs/faults.md has the figures. The clients connect from
//! addresses of 127.0.0.0/8 of their own.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use natter_tests::{
    client::Client,
    cluster::{Cluster, Store},
    crowd::{self, listen, quantiles, talk},
    node::Node,
    token::User,
};
use tokio_util::sync::CancellationToken;

/// All are back by then.
const BACK_WITHIN: Duration = Duration::from_mins(1);

/// The calls that a persister has answered, by name.
async fn calls(node: &Node) -> Result<HashMap<String, u64>> {
    let text = reqwest::get(format!("http://{}/metrics", node.addr)).await?.text().await?;
    let mut calls = HashMap::new();
    for line in text.lines().filter(|line| line.starts_with("natter_persister_rpc_total{")) {
        let (labels, value) = line.rsplit_once(' ').context("a value")?;
        let name = labels.split('"').nth(1).unwrap_or_default().to_owned();
        *calls.entry(name).or_default() += value.parse::<f64>()? as u64;
    }
    Ok(calls)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: minutes long, and with a release build"]
async fn a_herd_that_is_dropped_at_once_is_back_within_a_minute() -> Result<()> {
    let count: usize = std::env::var("HERD").ok().and_then(|count| count.parse().ok()).unwrap_or(1000);
    let mut cluster =
        Cluster::builder().gateways(2).store(Store::Postgres).env("NATTER_LIMITS__CONNECTIONS_PER_IP", "20000").start().await?;
    let groups = crowd::groups(count);
    let dropped = CancellationToken::new();
    let begun = Instant::now();
    let settled = crowd::settle(count, cluster.gateway(0), &dropped).await?;
    eprintln!("{count} clients in {groups} groups after {:?}", begun.elapsed());

    let speaker = Client::connect(cluster.gateway(1), &User::named("speaker")).await?;
    let mut spoken = Vec::new();
    for group in 0..groups.min(20) {
        spoken.push(speaker.join(&crowd::group_name(group)).await?);
    }
    let calm = CancellationToken::new();
    let (before, ()) = tokio::join!(talk(&speaker, &spoken, calm.clone()), async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        calm.cancel();
    });
    eprintln!("before: {}", quantiles(&before));

    let calls_before = calls(&cluster.persisters[0]).await?;
    cluster.gateways[0].process.kill()?;
    dropped.cancel();
    let begun = Instant::now();
    let second = cluster.gateway(1);
    let over = CancellationToken::new();
    let (during, back) = tokio::join!(talk(&speaker, &spoken, over.clone()), async {
        let back = stream::iter(settled).map(|listening| async move {
            let (mut listener, _) = listening.await?;
            let (connection, recovered) = listener.connect_to_any(&[second], begun + 2 * BACK_WITHIN).await?;
            let kept = tokio::spawn(listen(listener, connection, CancellationToken::new()));
            anyhow::Ok((begun.elapsed(), recovered, kept))
        });
        // All at once: how they are taken in is the gateway's affair.
        let back: Result<Vec<_>> = back.buffer_unordered(count).collect::<Vec<_>>().await.into_iter().collect();
        over.cancel();
        back
    });
    let back = back?;
    let mut took: Vec<Duration> = back.iter().map(|(took, ..)| *took).collect();
    took.sort();
    let recovered = back.iter().filter(|(_, recovered, _)| *recovered).count();
    let asked = calls(&cluster.persisters[0]).await?;
    let asked: HashMap<_, _> = asked
        .iter()
        .map(|(name, now)| (name.as_str(), now - calls_before.get(name).copied().unwrap_or_default()))
        .filter(|(_, asked)| *asked > 0)
        .collect();
    eprintln!(
        "back: {} of {count}, {recovered} with everything; half after {:?}, all after {:?}",
        back.len(),
        took[took.len() / 2],
        took[took.len() - 1]
    );
    eprintln!("during: {}", quantiles(&during));
    eprintln!("calls of the persister meanwhile: {asked:?}");
    assert_eq!((back.len(), recovered), (count, count));
    assert!(took[took.len() - 1] < BACK_WITHIN, "{:?}", took[took.len() - 1]);
    // What a group missed is read for all of it together; users sign in some tens in a call.
    let of = |name: &str| asked.get(name).copied().unwrap_or_default();
    let signing_in = of("sign_in_many") + of("sign_in");
    assert!(signing_in >= 1 && signing_in <= count as u64 / 8, "{asked:?}");
    assert!(asked.values().sum::<u64>() - signing_in <= 4 * groups as u64, "{asked:?}");
    Ok(())
}
