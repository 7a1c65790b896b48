//! Runs one fault: a fresh cluster, traffic, the trouble, then the checkers' verdict as a row.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::{SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{Fault, Row, joins, late, trouble};
use crate::{
    checker::Report,
    cluster::Cluster,
    person::Wait,
    traffic::{SETTLED_WITHIN, Traffic},
};

/// How long a gateway may stay with a server of NATS that has fallen silent.
const LEFT_WITHIN: Duration = Duration::from_secs(4);

/// How long nothing may be accepted after every shard has its next leader, and every gateway is with a server that lives.
const ACCEPTED_AGAIN: Duration = Duration::from_secs(2);

/// Of a message that takes longer its tries are told.
const REMARKABLE: Duration = Duration::from_secs(10);

/// How much of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Enough to see that it holds: CI.
    Short,
    /// Some minutes for all of them.
    Usual,
    /// What the figures in docs/faults.md are of.
    Long,
}

/// What a run goes by, and what it says beside its verdict.
pub(super) struct Run {
    pub(super) size: Size,
    pub(super) rounds: Option<usize>,
    pub(super) dice: StdRng,
    /// What has not come by then is lost.
    pub(super) settled_within: Duration,
    /// The longest that NATS took to have leaders again after it lost one of three servers.
    pub(super) elected: Duration,
    /// Where the clock lies that processes believe, if not the machine's.
    pub(super) clock: Option<TempDir>,
    /// Figures.
    pub(super) notes: Vec<String>,
}

impl Run {
    /// How often something is done: as told, or by size.
    pub(super) fn rounds(&self, short: usize, usual: usize, long: usize) -> usize {
        self.rounds.unwrap_or(match self.size {
            Size::Short => short,
            Size::Usual => usual,
            Size::Long => long,
        })
    }

    /// How long something lasts, in seconds.
    pub(super) fn seconds(&self, short: u64, usual: u64, long: u64) -> Duration {
        Duration::from_secs(match self.size {
            Size::Short => short,
            Size::Usual => usual,
            Size::Long => long,
        })
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }
}

/// What came of a fault.
#[derive(Debug)]
pub enum Outcome {
    /// It ran.
    Ran(Row),
    /// It cannot run here.
    Skipped(String),
}

/// Runs `fault` on a fresh cluster; with `failpoints` set in our processes.
pub async fn run(fault: Fault, seed: u64, size: Size, rounds: Option<usize>, failpoints: Option<&str>) -> Outcome {
    let began = Instant::now();
    let settled_within = if failpoints.is_some() { Duration::from_secs(10) } else { SETTLED_WITHIN };
    let mut context =
        Run { size, rounds, settled_within, elected: Duration::ZERO, clock: None, dice: StdRng::seed_from_u64(seed), notes: Vec::new() };
    if let Some(reason) = trouble::cannot(fault) {
        return Outcome::Skipped(reason);
    }
    // In a task of its own, so that a panic is this fault's failure and not the end of the suite.
    let failpoints = failpoints.map(str::to_owned);
    let task = tokio::spawn(async move {
        let done = inner(fault, seed, &mut context, failpoints.as_deref()).await;
        (done, context.notes)
    });
    let (done, notes) = match task.await {
        Ok((done, notes)) => (done, notes),
        Err(panic) => (Err(anyhow::anyhow!("panicked: {panic}")), Vec::new()),
    };
    let mut row = match done {
        Ok((report, longest)) => Row::of(fault.name(), seed, &report, longest),
        Err(error) => Row::failed(fault.name(), seed, &error),
    };
    row.took = began.elapsed();
    row.notes.splice(0..0, notes);
    Outcome::Ran(row)
}

async fn inner(fault: Fault, seed: u64, context: &mut Run, failpoints: Option<&str>) -> Result<(Report, Option<Duration>)> {
    let mut builder = fault.cluster();
    for (key, value) in trouble::env(fault, context)? {
        builder = builder.env(&key, &value);
    }
    if let Ok(filter) = std::env::var("LOG_FILTER") {
        builder = builder.env("NATTER_TELEMETRY__FILTER", &filter);
    }
    if let Some(failpoints) = failpoints {
        builder = builder.env("FAILPOINTS", failpoints);
    }
    let mut cluster = builder.start().await.context("starting")?;
    let prepared = trouble::prepare(fault, &mut cluster).await.context("preparing")?;
    let mut done = match fault {
        Fault::Joins => joins::run(&cluster, context).await.map(|report| (report, None)),
        _ => under_traffic(fault, seed, context, &mut cluster).await.map(|(report, longest)| (report, Some(longest))),
    };
    if let Ok((report, _)) = &mut done
        && !fault.may_reset()
    {
        report.forbid_resets();
    }
    let good = done.as_ref().is_ok_and(|(report, _)| report.violations.is_empty() && report.in_vain.is_empty());
    if !good
        && failpoints.is_none()
        && let Some(folder) = cluster.keep_logs()
    {
        context.note(format!("logs and data are kept in {}", folder.display()));
    }
    // Whatever is mounted goes before the folders it is mounted on.
    drop(prepared);
    done
}

/// Runs traffic while the trouble goes on, and a little longer; then settles.
async fn under_traffic(fault: Fault, seed: u64, context: &mut Run, cluster: &mut Cluster) -> Result<(Report, Duration)> {
    let (plan, extras) = fault.traffic(seed);
    let mut traffic = Traffic::begin_with(plan, extras, &cluster.addrs()).await.context("signing in")?;
    let stop = CancellationToken::new();
    let (ran, troubled) = tokio::join!(traffic.run(&stop), async {
        let _stop = stop.clone().drop_guard();
        tokio::time::sleep(Duration::from_secs(1)).await;
        tokio::select! {
            troubled = trouble::make(fault, cluster, context) => troubled?,
            // Traffic that failed has stopped by itself.
            () = stop.cancelled() => {}
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        anyhow::Ok(())
    });
    troubled.context("making trouble")?;
    ran.context("traffic")?;
    let Wait { lasted: longest, tries } = traffic.longest_wait();
    if longest > REMARKABLE {
        context.note(format!("a message was accepted after {longest:.1?}: {}", tries.join("; ")));
    }
    let may_take = match fault {
        Fault::NatsLeaderKill => Some(context.elected + ACCEPTED_AGAIN),
        Fault::NatsPartition => Some(context.elected.max(LEFT_WITHIN) + ACCEPTED_AGAIN),
        _ => None,
    };
    anyhow::ensure!(
        may_take.is_none_or(|may_take| longest <= may_take),
        "a message was accepted only after {longest:.1?}, {:.1?} after NATS had leaders again: {}",
        longest.saturating_sub(context.elected),
        tries.join("; ")
    );
    if fault == Fault::LateCopy {
        late::repeat(cluster, context).await.context("repeating what was stored")?;
    }
    let report = traffic.settle_within(&cluster.sql().await?, context.settled_within).await.context("settling")?;
    anyhow::ensure!(report.accepted > 50 && report.deliveries > report.accepted, "there was hardly any traffic: {report:?}");
    trouble::look_back(fault, cluster, context, (&report, longest)).await?;
    Ok((report, longest))
}
