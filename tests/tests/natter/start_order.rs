//! Processes that come up before what they stand on: they live, say that they are not ready, and
//! work as soon as they can.

use std::time::{Duration, Instant};

use anyhow::Result;
use natter_tests::{
    client::Client,
    cluster::{Cluster, Store},
    token::User,
};

use super::chat::wait_until;

super::on_both_stores!(who_starts_before_nats_and_the_database_waits_for_them);

async fn who_starts_before_nats_and_the_database_waits_for_them(store: Store) -> Result<()> {
    let mut cluster = Cluster::builder().store(store).start_too_early()?;
    all_wait(&cluster).await;
    cluster.nats.restart()?;
    if store == Store::Postgres {
        all_wait(&cluster).await;
    }
    if let Some(postgres) = &mut cluster.postgres {
        postgres.start_again()?;
    }
    cluster.wait_ready().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    ann.send(group, "at last").await?;
    ben.wait_for_body("at last").await?;
    let sql = cluster.sql().await?;
    wait_until("a row", async || sql.message_count().await.unwrap_or_default() == 1).await;
    Ok(())
}

/// All live, and none calls itself ready, for longer than those take that have what they need.
async fn all_wait(cluster: &Cluster) {
    let nodes = || cluster.persisters.iter().chain(&cluster.gateways);
    for node in nodes() {
        wait_until("a sign of life", async || node.status("/healthz").await == Some(200)).await;
    }
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        for node in nodes() {
            assert_eq!((node.status("/healthz").await, node.status("/readyz").await), (Some(200), Some(503)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
