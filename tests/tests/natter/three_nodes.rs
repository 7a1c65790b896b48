//! Three NATS servers, three copies of each stream: the loss of any one of them shows as a pause.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use natter_shared::{
    id::{GroupId, Nonce},
    subject::{Shards, Topic},
};
use natter_tests::{
    client::Client,
    cluster::{Builder, Cluster},
    token::User,
};

use super::faults::under_traffic;

/// From a leader's end until its streams accept again. It is 5 to 8 s; the rest is for a machine that
/// has more to do than to elect a leader.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(20);

fn three() -> Builder {
    Cluster::builder().gateways(2).nats_nodes(3)
}

/// Someone who wants to be heard, in a group of one shard.
struct Probe {
    client: Client,
    group: GroupId,
}

impl Probe {
    async fn new(cluster: &Cluster) -> Result<Self> {
        let client = Client::connect(cluster.gateway(0), &User::named("probe")).await?;
        let group = client.join("probe").await?;
        cluster.nats.wait_healthy().await?;
        Ok(Self { client, group })
    }

    /// The stream of the group's shard.
    fn stream(&self, cluster: &Cluster) -> Result<String> {
        let shard = Shards::new(4).context("shards")?.of(Topic::Group(self.group));
        let names = cluster.nats.stream_names();
        names.into_iter().find(|name| name.starts_with(&format!("EVENTS_{}_", shard.0))).context("its stream")
    }

    async fn leader(&self, cluster: &Cluster) -> Result<usize> {
        cluster.nats.wait_leader_of(&self.stream(cluster)?).await
    }

    /// Until a message is accepted it takes no longer than promised.
    async fn is_accepted(&mut self, cluster: &Cluster) -> Result<()> {
        let begun = Instant::now();
        let patience = 2 * ACCEPTED_WITHIN;
        self.client.send_until_accepted(Nonce::now(), self.group, "again", &cluster.addrs(), patience).await?;
        let pause = begun.elapsed();
        eprintln!("accepted again after {pause:?}");
        assert!(pause < ACCEPTED_WITHIN, "{pause:?}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_costs_a_pause_and_nothing_else() -> Result<()> {
    let mut cluster = three().start().await?;
    let mut probe = Probe::new(&cluster).await?;
    let trouble = async |cluster: &mut Cluster| {
        let leader = probe.leader(cluster).await?;
        cluster.nats.node_mut(leader).kill()?;
        probe.is_accepted(cluster).await?;
        cluster.nats.node_mut(leader).restart()?;
        cluster.nats.wait_healthy().await
    };
    let report = under_traffic(&mut cluster, "leader", trouble).await?;
    report.assert_clean();
    assert_eq!(report.resets, 0, "nothing is lost from a stream");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stands_still_is_replaced_and_comes_back() -> Result<()> {
    let mut cluster = three().start().await?;
    let mut probe = Probe::new(&cluster).await?;
    let trouble = async |cluster: &mut Cluster| {
        let leader = probe.leader(cluster).await?;
        cluster.nats.node(leader).pause()?;
        let accepted = probe.is_accepted(cluster).await;
        cluster.nats.node(leader).go_on()?;
        accepted?;
        cluster.nats.wait_healthy().await
    };
    let report = under_traffic(&mut cluster, "still", trouble).await?;
    report.assert_clean();
    assert_eq!(report.resets, 0, "nothing is lost from a stream");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_is_replaced_and_comes_back() -> Result<()> {
    let Some(mut cluster) = Cluster::builder().gateways(2).nats_apart(3).start_if_allowed().await? else { return Ok(()) };
    let mut probe = Probe::new(&cluster).await?;
    let trouble = async |cluster: &mut Cluster| {
        let leader = probe.leader(cluster).await?;
        cluster.nats.cut(leader)?;
        let accepted = probe.is_accepted(cluster).await;
        cluster.nats.heal(leader)?;
        accepted?;
        cluster.nats.wait_healthy().await
    };
    let report = under_traffic(&mut cluster, "cut", trouble).await?;
    report.assert_clean();
    assert_eq!(report.resets, 0, "nothing is lost from a stream");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_servers_restarted_one_after_another_lose_nothing() -> Result<()> {
    let mut cluster = three().start().await?;
    let mut probe = Probe::new(&cluster).await?;
    let trouble = async |cluster: &mut Cluster| {
        for node in 0..cluster.nats.count() {
            cluster.nats.node_mut(node).stop()?;
            cluster.nats.node_mut(node).restart()?;
            cluster.nats.wait_healthy().await?;
            probe.is_accepted(cluster).await?;
        }
        let stream = probe.stream(cluster)?;
        cluster.nats.step_down(&stream).await
    };
    let report = under_traffic(&mut cluster, "rolling", trouble).await?;
    report.assert_clean();
    assert_eq!(report.resets, 0, "nothing is lost from a stream");
    Ok(())
}
