//! Links to NATS that are slow, cut, or half open.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::RngExt;

use super::run::Run;
use crate::{
    cluster::Cluster,
    node::Node,
    proxy::{Condition, Link, Proxy, Select},
};

pub(super) fn nats_of(node: &Node) -> Result<&Proxy> {
    node.nats.as_ref().context("the cluster is proxied")
}

/// Every gateway has another delay every second.
pub(super) async fn slow(cluster: &Cluster, run: &mut Run) -> Result<()> {
    for _ in 0..run.rounds(4, 12, 60) {
        for gateway in &cluster.gateways {
            let mut link = || Link::Delayed(Duration::from_millis(run.dice.random_range(50..300)));
            let condition = Condition { up: link(), down: link(), refusing: false };
            nats_of(gateway)?.set(Select::All, condition);
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

/// One kind of connection after the other is half open; its end has to find out by itself.
pub(super) async fn half_open(cluster: &Cluster, run: &mut Run) -> Result<()> {
    let kinds = ["gateway-subscribe", "gateway-publish", "persister", "gateway-recovery", "gateway-calls"];
    for kind in kinds.iter().cycle().take(run.rounds(1, kinds.len(), 2 * kinds.len())) {
        let mut frozen = 0;
        for node in cluster.gateways.iter().chain(&cluster.persisters) {
            frozen += nats_of(node)?.freeze(&Select::named(kind));
        }
        ensure!(frozen > 0, "no connection of the kind {kind} was there to fall silent");
        tokio::time::sleep(Duration::from_secs(12)).await;
    }
    Ok(())
}
