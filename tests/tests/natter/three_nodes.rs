//! Three NATS servers, three copies of each stream: the loss of any one of them shows as a pause.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use natter_shared::{
    id::{GroupId, Nonce},
    subject::{Shards, Topic},
};
use natter_tests::{
    checker::Report,
    client::Client,
    cluster::{Builder, Cluster},
    token::User,
};

use super::faults::under_traffic;

/// How long a gateway may stay with a server that has fallen silent.
const LEFT_WITHIN: Duration = Duration::from_secs(4);

/// From the election of a stream's next leader until it accepts again, with the gateways at servers that live. How long NATS
/// takes to elect one is not ours: 3 to 10 s, and as long again if the first round elects nobody.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(2);

/// How long delivery may be held until a group has been checked; past that, groups may be told `reset`.
const HELD_AT_MOST: Duration = Duration::from_secs(5);

/// How long anybody waits for anything.
const PATIENCE: Duration = Duration::from_secs(40);

fn three() -> Builder {
    Cluster::builder().gateways(2).nats_nodes(3)
}

/// Someone who wants to be heard, in a group of one shard.
struct Probe {
    client: Client,
    group: GroupId,
    /// How long something was not accepted.
    pause: Duration,
}

impl Probe {
    async fn new(cluster: &Cluster) -> Result<Self> {
        let client = Client::connect(cluster.gateway(0), &User::named("probe")).await?;
        let group = client.join("probe").await?;
        cluster.nats.wait_healthy().await?;
        Ok(Self { client, group, pause: Duration::ZERO })
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

    /// Now that server `lost` is, which led the stream, a message is accepted no later after the next election than promised.
    async fn is_accepted_without(&mut self, lost: usize, cluster: &Cluster) -> Result<()> {
        let begun = Instant::now();
        let streams = [self.stream(cluster)?];
        let elected = async { cluster.nats.wait_led_without(lost, &streams).await.map(|()| begun.elapsed()) };
        let accepted = async { self.send(cluster).await.map(|()| begun.elapsed()) };
        // Of the others that it led, too.
        let all = cluster.nats.stream_names();
        let all_elected = async { cluster.nats.wait_led_without(lost, &all).await.map(|()| begun.elapsed()) };
        let (elected, accepted, all_elected) = tokio::try_join!(elected, accepted, all_elected)?;
        self.pause = accepted.max(all_elected);
        eprintln!("led again after {elected:.1?}, accepted again after {accepted:.1?}");
        assert!(accepted < elected.max(LEFT_WITHIN) + ACCEPTED_WITHIN, "led again after {elected:?}, accepted after {accepted:?}");
        Ok(())
    }

    /// Nothing was lost, doubled or out of order; and after a pause that delivery can wait for, nobody had to start anew.
    fn assert_kept(&self, report: &Report) {
        report.assert_clean();
        if self.pause < HELD_AT_MOST {
            assert_eq!(report.resets, 0, "nothing is lost from a stream");
        }
    }

    async fn send(&mut self, cluster: &Cluster) -> Result<()> {
        self.client.send_until_accepted(Nonce::now(), self.group, "again", &cluster.addrs(), PATIENCE).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_costs_a_pause_and_nothing_else() -> Result<()> {
    let mut cluster = three().start().await?;
    let mut probe = Probe::new(&cluster).await?;
    let trouble = async |cluster: &mut Cluster| {
        let leader = probe.leader(cluster).await?;
        cluster.nats.node_mut(leader).kill()?;
        probe.is_accepted_without(leader, cluster).await?;
        cluster.nats.node_mut(leader).restart()?;
        cluster.nats.wait_healthy().await
    };
    let report = under_traffic(&mut cluster, "leader", trouble).await?;
    probe.assert_kept(&report);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stands_still_is_replaced_and_comes_back() -> Result<()> {
    let mut cluster = three().start().await?;
    let mut probe = Probe::new(&cluster).await?;
    let trouble = async |cluster: &mut Cluster| {
        let leader = probe.leader(cluster).await?;
        cluster.nats.node(leader).pause()?;
        let accepted = probe.is_accepted_without(leader, cluster).await;
        cluster.nats.node(leader).go_on()?;
        accepted?;
        cluster.nats.wait_healthy().await
    };
    let report = under_traffic(&mut cluster, "still", trouble).await?;
    probe.assert_kept(&report);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_is_replaced_and_comes_back() -> Result<()> {
    let Some(mut cluster) = Cluster::builder().gateways(2).nats_apart(3).start_if_allowed().await? else { return Ok(()) };
    let mut probe = Probe::new(&cluster).await?;
    let trouble = async |cluster: &mut Cluster| {
        let leader = probe.leader(cluster).await?;
        cluster.nats.cut(leader)?;
        let accepted = probe.is_accepted_without(leader, cluster).await;
        cluster.nats.heal(leader)?;
        accepted?;
        cluster.nats.wait_healthy().await
    };
    let report = under_traffic(&mut cluster, "cut", trouble).await?;
    probe.assert_kept(&report);
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
            probe.send(cluster).await?;
        }
        let stream = probe.stream(cluster)?;
        cluster.nats.step_down(&stream).await
    };
    let report = under_traffic(&mut cluster, "rolling", trouble).await?;
    probe.assert_kept(&report);
    Ok(())
}
