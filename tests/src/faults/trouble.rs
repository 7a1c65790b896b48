//! Makes the trouble of each fault; what it needs before, and what must have happened after it.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use natter_shared::config::Config;
use rand::RngExt;
use reqwest::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use super::{Fault, chaos, database, disk, links, run::Run, watchers::Watchers};
use crate::{
    checker::Report,
    clock,
    cluster::Cluster,
    leaders::Absence,
    partition,
    token::{self, User},
};

/// Why `fault` cannot be made on this machine, if so.
pub(super) fn cannot(fault: Fault) -> Option<String> {
    match fault {
        Fault::NatsDiskFull | Fault::DatabaseFull if !disk::can_mount() => Some("needs root, to mount a tmpfs".to_owned()),
        Fault::NatsPartition if !disk::can_mount() => Some("needs root, for network namespaces".to_owned()),
        Fault::NatsPartition if !partition::has_command() => Some("needs ip (apt-get install iproute2)".to_owned()),
        Fault::ClockJump if clock::library().is_none() => Some("needs libfaketime (apt-get install libfaketime)".to_owned()),
        _ => None,
    }
}

/// What our processes are told beforehand.
pub(super) fn env(fault: Fault, run: &mut Run) -> Result<Vec<(String, String)>> {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    Ok(match fault {
        Fault::ClockJump => {
            let file = clock_file(run.clock.insert(tempfile::tempdir()?));
            clock::set(&file, "+0")?;
            clock::env(&file)?.map(|(key, value)| pair(key, &value)).into()
        }
        // Small, so that it is found full, and lets go, within seconds.
        Fault::NatsDiskFull => vec![pair("NATTER_NATS__MAX_BYTES_PER_SHARD", "64MiB")],
        _ => Vec::new(),
    })
}

fn clock_file(folder: &TempDir) -> PathBuf {
    folder.path().join("clock")
}

/// What lasts as long as the run.
pub(super) struct Prepared {
    _disk: Option<disk::Tmpfs>,
}

/// Before anybody signs in.
pub(super) async fn prepare(fault: Fault, cluster: &mut Cluster) -> Result<Prepared> {
    let disk = match fault {
        Fault::NatsDiskFull => {
            cluster.nats.kill()?;
            let disk = disk::Tmpfs::over(&cluster.nats.node(0).store(), 96)?;
            cluster.nats.restart()?;
            cluster.wait_ready().await?;
            Some(disk)
        }
        Fault::DatabaseFull => Some(disk::move_database(cluster).await?),
        _ => None,
    };
    Ok(Prepared { _disk: disk })
}

/// Makes it.
pub(super) async fn make(fault: Fault, cluster: &mut Cluster, run: &mut Run) -> Result<()> {
    match fault {
        Fault::Calm => tokio::time::sleep(run.seconds(4, 10, 60)).await,
        Fault::LateCopy => tokio::time::sleep(run.seconds(1, 3, 10)).await,
        Fault::GatewayKill => gateway_kill(cluster, run).await?,
        Fault::Drain => drain(cluster, run).await?,
        Fault::NatsRestart => nats_restart(cluster, run).await?,
        Fault::NatsStoreLost => nats_store_lost(cluster, run).await?,
        Fault::NatsDiskFull => disk::fill_nats(cluster, run).await?,
        Fault::NatsLeaderKill => nats_leader(cluster, run, Loss::Killed).await?,
        Fault::NatsPartition => nats_leader(cluster, run, Loss::CutOff).await?,
        Fault::NatsSlow => links::slow(cluster, run).await?,
        Fault::LostAcks => links::lose_acks(cluster, run).await?,
        Fault::HalfOpen => links::half_open(cluster, run).await?,
        // It makes its own trouble.
        Fault::Joins => {}
        Fault::PersisterKill => persister_kill(cluster, run).await?,
        Fault::DatabaseDown => database::down(cluster, run).await?,
        Fault::DatabaseSlow => database::slow(cluster, run).await?,
        Fault::DatabaseLocked => database::locked(cluster, run).await?,
        Fault::DatabaseFull => disk::fill_database(cluster, run).await?,
        Fault::SlowReaders => tokio::time::sleep(run.seconds(8, 15, 60)).await,
        Fault::ClockJump => clock_jump(cluster, run).await?,
        Fault::Chaos => chaos::make(cluster, run).await?,
    }
    Ok(())
}

/// How long at least a message waits whose sender finds the disk of NATS full, which it is for longer.
const DISK_FULL_AT_LEAST: Duration = Duration::from_secs(3);

/// One in so many of what goes several at once may come behind something that was refused.
const UNJUDGED_AT_MOST: usize = 4;

/// Whether what was to happen did happen.
pub(super) async fn look_back(fault: Fault, cluster: &Cluster, run: &mut Run, (report, longest): (&Report, Duration)) -> Result<()> {
    ensure!(!fault.recovers() || report.recovered > 0, "nobody who came back recovered anything: {report:?}");
    ensure!(fault != Fault::NatsStoreLost || report.resets > 0, "nobody was told a reset after the store was lost: {report:?}");
    ensure!(
        fault != Fault::NatsDiskFull || longest > DISK_FULL_AT_LEAST,
        "the full disk kept nobody waiting for longer than {longest:.1?}"
    );
    ensure!(
        report.unjudged * UNJUDGED_AT_MOST <= report.together,
        "of {} messages that went several at once the order of {} cannot be judged, for something before each was refused",
        report.together,
        report.unjudged
    );
    if fault == Fault::SlowReaders {
        let mut closed = 0.0;
        for gateway in &cluster.gateways {
            closed += gateway.metric("natter_gateway_closes_total{code=\"4408\"}").await?.unwrap_or_default();
        }
        run.note(format!("{closed:.0} slow readers were closed (4408)"));
        ensure!(closed > 0.0, "nobody read so slowly that it mattered");
    }
    Ok(())
}

async fn pause(run: &mut Run, from_ms: u64, to_ms: u64) {
    let pause = Duration::from_millis(run.dice.random_range(from_ms..to_ms));
    tokio::time::sleep(pause).await;
}

/// The first kill is measured by clients that only listen; the others happen.
async fn gateway_kill(cluster: &mut Cluster, run: &mut Run) -> Result<()> {
    let watchers = Watchers::connect(300, cluster.gateway(0), cluster.gateway(1)).await.context("watchers")?;
    cluster.gateways[0].process.kill()?;
    let back = watchers.come_back(&[cluster.gateway(1), cluster.gateway(2)]).await?;
    let p99 = back[back.len() * 99 / 100];
    run.note(format!("{} clients of a killed gateway: 99 % back and caught up after {p99:.1?}", back.len()));
    ensure!(p99 < Duration::from_secs(10), "99 % were back only after {p99:?}");
    cluster.gateways[0].process.start_again()?;
    cluster.gateways[0].wait_ready().await?;
    for round in 1..run.rounds(1, 3, 10) {
        let index = round % cluster.gateways.len();
        cluster.gateways[index].process.kill_and_start()?;
        cluster.gateways[index].wait_ready().await?;
        pause(run, 100, 800).await;
    }
    Ok(())
}

/// A process that has nothing more to do is gone by then.
const ENDED_WITHIN: Duration = Duration::from_secs(2);

async fn drain(cluster: &mut Cluster, run: &mut Run) -> Result<()> {
    // As it is unless configured, which the cluster's is not.
    let may_take = Config::default().gateway.drain_timeout + ENDED_WITHIN;
    let mut longest = Duration::ZERO;
    for round in 0..run.rounds(1, 3, 10) {
        let index = round % cluster.gateways.len();
        let began = Instant::now();
        cluster.gateways[index].process.signal(libc::SIGTERM)?;
        // It drains while the traffic goes on.
        while cluster.gateways[index].process.is_running() {
            ensure!(began.elapsed() < may_take, "it has not ended {may_take:.0?} after SIGTERM");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        longest = longest.max(began.elapsed());
        let status = cluster.gateways[index].process.wait(Duration::from_secs(1))?;
        ensure!(status.success(), "SIGTERM is no mistake: {status}");
        cluster.gateways[index].process.start_again()?;
        cluster.gateways[index].wait_ready().await?;
        pause(run, 200, 1000).await;
    }
    run.note(format!("drained within {longest:.1?}"));
    Ok(())
}

async fn nats_restart(cluster: &mut Cluster, run: &mut Run) -> Result<()> {
    for _ in 0..run.rounds(2, 5, 20) {
        cluster.nats.kill()?;
        if run.dice.random_bool(0.3) {
            pause(run, 200, 2000).await;
        }
        cluster.nats.restart()?;
        pause(run, 300, 2500).await;
    }
    Ok(())
}

/// How a server is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Killed,
    CutOff,
}

/// How long a server that leads is lost.
const LOST_FOR: Duration = Duration::from_secs(10);

/// Before the next one: what waited is accepted by then. Two at once are another trouble.
const BETWEEN: Duration = Duration::from_secs(3);

/// A shard's leader is lost for a while, and comes back.
async fn nats_leader(cluster: &mut Cluster, run: &mut Run, loss: Loss) -> Result<()> {
    let watch = cluster.nats.watch_leaders();
    let done = lose_leaders(cluster, run, loss).await;
    let Absence { stream, jetstream } = tokio::task::spawn_blocking(|| watch.end()).await?;
    run.elected = stream;
    run.note(format!("no shard was without a leader for longer than {stream:.1?} at a time, JetStream itself for {jetstream:.1?}"));
    // A leader that takes lost ids for in flight is asked to hand over, which takes a leader of JetStream itself.
    if cluster.gateways.iter().any(|gateway| gateway.process.log().contains("leader_with_lost_ids_asked_to_step_down")) {
        run.note("a leader with lost ids was asked to hand over".to_owned());
        run.elected = stream.max(jetstream);
    }
    done
}

async fn lose_leaders(cluster: &mut Cluster, run: &mut Run, loss: Loss) -> Result<()> {
    for _ in 0..run.rounds(1, 2, 10) {
        let streams = cluster.nats.stream_names();
        let stream = streams.get(run.dice.random_range(0..streams.len().max(1))).context("a stream")?;
        let leader = cluster.nats.wait_leader_of(stream).await?;
        let led = cluster.nats.led_by(leader);
        let since = Instant::now();
        match loss {
            Loss::Killed => cluster.nats.node_mut(leader).kill()?,
            Loss::CutOff => cluster.nats.cut(leader)?,
        }
        cluster.nats.wait_led_without(leader, &led).await?;
        let elected = since.elapsed();
        run.note(format!("{} of {} shards were led again after {elected:.1?}", led.len(), streams.len()));
        tokio::time::sleep(LOST_FOR.saturating_sub(elected)).await;
        match loss {
            Loss::Killed => cluster.nats.node_mut(leader).restart()?,
            Loss::CutOff => cluster.nats.heal(leader)?,
        }
        if let Err(error) = cluster.nats.wait_healthy().await {
            // Two of three copies are enough; but no other may be lost now.
            run.note(format!("no further round, for a copy of NATS does not catch up: {error:#}"));
            break;
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(())
}

/// Messages that are not in SQL yet may be lost with the only copy of the log; so nobody may publish
/// while SQL catches up.
async fn nats_store_lost(cluster: &mut Cluster, run: &mut Run) -> Result<()> {
    let sql = cluster.sql().await?;
    let epoch = async || sql.count("SELECT MAX(epoch) FROM applied").await;
    for _ in 0..run.rounds(1, 2, 5) {
        pause(run, 500, 1500).await;
        for gateway in &cluster.gateways {
            gateway.process.signal(libc::SIGSTOP)?;
        }
        let settled = caught_up(cluster).await;
        let before = epoch().await?;
        cluster.nats.wipe()?;
        cluster.nats.restart()?;
        for gateway in &cluster.gateways {
            gateway.process.signal(libc::SIGCONT)?;
        }
        settled?;
        let until = Instant::now() + Duration::from_secs(20);
        while epoch().await? <= before {
            ensure!(Instant::now() < until, "no new epoch after the store was lost");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    Ok(())
}

/// Waits until nothing has come into SQL for a while.
async fn caught_up(cluster: &Cluster) -> Result<()> {
    let sql = cluster.sql().await?;
    let count = "SELECT (SELECT COUNT(*) FROM messages) + (SELECT COUNT(*) FROM group_events) + (SELECT COUNT(*) FROM notifications)";
    let until = Instant::now() + Duration::from_secs(30);
    let (mut last, mut same) = (sql.count(count).await?, 0);
    while same < 8 {
        ensure!(Instant::now() < until, "SQL does not catch up");
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = sql.count(count).await?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    Ok(())
}

async fn persister_kill(cluster: &mut Cluster, run: &mut Run) -> Result<()> {
    for round in 0..run.rounds(10, 20, 100) {
        pause(run, 200, 400).await;
        cluster.persisters[round % 2].process.kill_and_start()?;
    }
    Ok(())
}

/// How far clocks jump, and how far a gateway may be from that to be said to have jumped, in seconds.
const JUMP: i64 = 600;
const HALF_A_JUMP: i64 = 300;

async fn clock_jump(cluster: &Cluster, run: &mut Run) -> Result<()> {
    let pause = run.seconds(2, 5, 20);
    let file = clock_file(run.clock.as_ref().context("a clock")?);
    for offset in [JUMP, -JUMP, 0] {
        clock::set(&file, &format!("{offset:+}"))?;
        for gateway in cluster.addrs() {
            wait_for_clock(gateway, offset).await?;
        }
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

/// Waits until the gateway's clock is so many seconds ahead, by what it takes for expired: tokens are judged by that clock.
async fn wait_for_clock(gateway: SocketAddr, offset: i64) -> Result<()> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
    let takes = async |expires: i64| {
        let mut claims = User::named("f-0").claims();
        (claims["iat"], claims["exp"]) = (json!(0), json!(token::now().saturating_add_signed(expires)));
        let me = http.get(format!("http://{gateway}/api/v1/me")).bearer_auth(token::sign(&claims, token::SECRET));
        anyhow::Ok(me.send().await?.status() != StatusCode::UNAUTHORIZED)
    };
    let until = Instant::now() + Duration::from_secs(5);
    while (takes(offset - HALF_A_JUMP).await?, takes(offset + HALF_A_JUMP).await?) != (false, true) {
        ensure!(Instant::now() < until, "the clock of {gateway} is not {offset:+} s from ours: libfaketime does not reach it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
