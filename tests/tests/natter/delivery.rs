//! The promises under random use, judged by the checker; and the checker shown to judge.

use std::time::{Duration, Instant};

use anyhow::Result;
use natter_tests::{
    checker::{Report, Violation},
    cluster::{Cluster, Store},
    record::Sabotage,
    traffic::{Plan, Traffic},
};
use tokio_util::sync::CancellationToken;

/// Many users who come and go on three gateways.
#[tokio::test(flavor = "multi_thread")]
async fn every_member_gets_every_message_of_its_time_once_and_in_one_order() -> Result<()> {
    let cluster = Cluster::builder().gateways(3).persisters(2).store(Store::Postgres).start().await?;
    let plan = Plan {
        users: 300,
        groups: 60,
        groups_per_user: 4,
        messages: 20_000,
        reconnects: 3,
        moves: 6,
        pause: Duration::ZERO,
        label: "many",
    };
    let started = Instant::now();
    let mut traffic = Traffic::begin(plan, &cluster.addrs()).await?;
    eprintln!("signed in and joined after {:?}", started.elapsed());
    traffic.run(&CancellationToken::new()).await?;
    eprintln!("accepted {} after {:?}", traffic.accepted(), started.elapsed());
    let report = traffic.settle(&cluster.sql().await?).await?;
    eprintln!("{} deliveries, {} resets after {:?}", report.deliveries, report.resets, started.elapsed());
    report.assert_clean();
    assert!(report.accepted >= 20_000 && report.deliveries > 5 * report.accepted, "{report:?}");
    assert_eq!(report.resets, 0, "nothing was so far behind that it had to be declared missing");
    Ok(())
}

/// A small run in which one client's live path is spoiled on the way to its record.
async fn spoiled(sabotage: Sabotage) -> Result<Report> {
    let cluster = Cluster::builder().gateways(2).start().await?;
    let plan =
        Plan { users: 6, groups: 2, groups_per_user: 2, messages: 120, reconnects: 0, moves: 0, pause: Duration::ZERO, label: "spoiled" };
    let mut traffic = Traffic::begin(plan, &cluster.addrs()).await?;
    traffic.client(3).sabotage(sabotage);
    traffic.run(&CancellationToken::new()).await?;
    traffic.settle(&cluster.sql().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checker_finds_a_delivery_that_was_dropped() -> Result<()> {
    let report = spoiled(Sabotage::Drop).await?;
    assert!(matches!(&report.violations[..], [Violation::Missing(client, _)] if client == "spoiled-3"), "{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checker_finds_a_delivery_that_was_doubled() -> Result<()> {
    let report = spoiled(Sabotage::Double).await?;
    assert!(matches!(&report.violations[..], [Violation::Doubled(client, _)] if client == "spoiled-3"), "{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checker_finds_deliveries_that_were_swapped() -> Result<()> {
    let report = spoiled(Sabotage::Swap).await?;
    assert!(matches!(&report.violations[..], [Violation::OutOfOrder(client, _)] if client == "spoiled-3"), "{report:?}");
    Ok(())
}
