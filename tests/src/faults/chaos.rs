//! Every second something at random, from the seed.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;

use super::{links::nats_of, run::Run};
use crate::{
    cluster::Cluster,
    proxy::{Condition, Link, Proxy, Select},
};

/// Makes one thing after the other; in the end all is well again.
pub(super) async fn make(cluster: &mut Cluster, run: &mut Run) -> Result<()> {
    let seconds = run.seconds(15, 60, 600).as_secs();
    let mut told = Vec::new();
    for _ in 0..seconds {
        told.push(one(cluster, run)?);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for node in cluster.gateways.iter().chain(&cluster.persisters) {
        nats_of(node)?.heal();
        node.database.iter().for_each(Proxy::heal);
    }
    cluster.postgres.as_mut().context("PostgreSQL")?.start_again()?;
    told.sort_unstable();
    let counted = told.chunk_by(|one, other| one == other).filter_map(|same| Some(format!("{} {}", same.len(), same.first()?)));
    run.note(counted.collect::<Vec<_>>().join(", "));
    cluster.wait_ready().await
}

fn one(cluster: &mut Cluster, run: &mut Run) -> Result<&'static str> {
    let gateway = run.dice.random_range(0..cluster.gateways.len());
    let persister = run.dice.random_range(0..cluster.persisters.len());
    let delay = Link::Delayed(Duration::from_millis(run.dice.random_range(20..400)));
    let lane = ["publish", "subscribe", "recovery", "calls"][run.dice.random_range(0..4)];
    Ok(match run.dice.random_range(0..12) {
        0 => {
            cluster.gateways[gateway].process.kill_and_start()?;
            "gateway killed"
        }
        1 | 2 => {
            cluster.persisters[persister].process.kill_and_start()?;
            "persister killed"
        }
        3 => {
            cluster.nats.restart()?;
            "NATS restarted"
        }
        4 => {
            nats_of(&cluster.gateways[gateway])?.cut(&Select::All);
            "gateway cut"
        }
        5 => {
            nats_of(&cluster.gateways[gateway])?.cut(&Select::named(lane));
            "one connection of a gateway cut"
        }
        6 => {
            nats_of(&cluster.gateways[gateway])?.set(Select::named(lane), Condition::both(delay));
            "one connection of a gateway slow"
        }
        7 => {
            nats_of(&cluster.gateways[gateway])?.freeze(&Select::named(lane));
            "one connection of a gateway half open"
        }
        8 => {
            nats_of(&cluster.persisters[persister])?.cut(&Select::All);
            "persister cut"
        }
        9 => {
            let postgres = cluster.postgres.as_mut().context("PostgreSQL")?;
            postgres.kill()?;
            postgres.start_again()?;
            "PostgreSQL killed"
        }
        10 => {
            let proxy = cluster.persisters[persister].database.as_ref().context("the cluster is proxied")?;
            proxy.set(Select::All, Condition::both(delay));
            "PostgreSQL slow"
        }
        _ => {
            for node in cluster.gateways.iter().chain(&cluster.persisters) {
                nats_of(node)?.heal();
                node.database.iter().for_each(Proxy::heal);
            }
            "links healed"
        }
    })
}
