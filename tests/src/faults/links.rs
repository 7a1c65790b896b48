//! Links to NATS that are slow, cut, or half open.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::run::Run;
use crate::{
    cluster::Cluster,
    node::Node,
    proxy::{Condition, Link, Proxy, Select},
};

pub(super) fn nats_of(node: &Node) -> Result<&Proxy> {
    node.nats.as_ref().context("the cluster is proxied")
}

/// How much later what goes to NATS or comes from it arrives.
const SLOW_MS: Range<u64> = 50..300;

/// How long it takes until a new connection hears from NATS.
async fn greeted_after(proxy: &Proxy) -> Result<Duration> {
    let began = Instant::now();
    TcpStream::connect(proxy.address()).await?.read_u8().await?;
    Ok(began.elapsed())
}

/// Every gateway has another delay every second.
pub(super) async fn slow(cluster: &Cluster, run: &mut Run) -> Result<()> {
    for _ in 0..run.rounds(4, 12, 60) {
        for gateway in &cluster.gateways {
            let mut link = || Link::Delayed(Duration::from_millis(run.dice.random_range(SLOW_MS)));
            let condition = Condition { up: link(), down: link(), refusing: false };
            nats_of(gateway)?.set(Select::All, condition);
            let took = greeted_after(nats_of(gateway)?).await?;
            ensure!(took >= Duration::from_millis(SLOW_MS.start), "NATS was slow, and its first word was here after {took:.1?}");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    cluster.gateways.iter().try_for_each(|gateway| nats_of(gateway).map(Proxy::heal))
}

/// What is published is stored, but its ack does not come: the connection is gone before.
pub(super) async fn lose_acks(cluster: &Cluster, run: &mut Run) -> Result<()> {
    let publish = Select::named("publish");
    let mut cut = 0;
    for round in 0..run.rounds(8, 15, 60) {
        let proxy = nats_of(&cluster.gateways[round % cluster.gateways.len()])?;
        proxy.set(publish.clone(), Condition { down: Link::Silent, ..Condition::default() });
        tokio::time::sleep(Duration::from_millis(run.dice.random_range(100..400))).await;
        cut += proxy.cut(&publish);
        proxy.heal();
        tokio::time::sleep(Duration::from_millis(run.dice.random_range(200..600))).await;
    }
    ensure!(cut > 0, "no connection for publishing was there to be cut");
    Ok(())
}

/// One kind of connection after the other is half open; its end has to find out by itself, and make another.
pub(super) async fn half_open(cluster: &Cluster, run: &mut Run) -> Result<()> {
    let kinds = ["gateway-subscribe", "gateway-publish", "persister", "gateway-recovery", "gateway-calls"];
    for kind in kinds.iter().cycle().take(run.rounds(1, kinds.len(), 2 * kinds.len())) {
        let (kind, mut frozen) = (Select::named(kind), Vec::new());
        for node in cluster.gateways.iter().chain(&cluster.persisters) {
            let proxy = nats_of(node)?;
            if proxy.freeze(&kind) > 0 {
                frozen.push(proxy);
            }
        }
        ensure!(!frozen.is_empty(), "no connection of the kind {kind:?} was there to fall silent");
        tokio::time::sleep(Duration::from_secs(12)).await;
        ensure!(frozen.iter().all(|proxy| proxy.alive(&kind) > 0), "no other connection of the kind {kind:?} was made");
    }
    Ok(())
}
