//! A bare publisher: what the streams take of the same events, under the same subjects, headers and ids,
//! from as many lanes as Natter has, each of which waits for its ack. No gateway and no persister run.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use natter_tests::cluster::Store;
use serde_json::{Value, json};

use super::{
    events::{Events, Lane},
    natter::{Natter, Sync},
    scenario::{LANES, PUBLISH_SECONDS},
};
use crate::{
    latency::Latency,
    procs::{self, Watched},
};

/// Runs it, and says what the generator would.
pub(super) async fn run(sync: Sync) -> Result<Value> {
    let mut natter = Natter::start(sync, 1, Store::SyncedPostgres, &[]).await?;
    // The streams are made; nobody else shall work on them.
    for node in natter.cluster.gateways.iter_mut().chain(&mut natter.cluster.persisters) {
        node.process.terminate()?;
    }
    let events = Events::connect(&natter.cluster).await?;
    let lanes = (0..LANES).map(|lane| events.lane(lane)).collect::<Result<Vec<_>>>()?;
    let nats = [Watched { name: "nats".to_owned(), pid: natter.cluster.nats.node(0).pid().context("NATS runs")? }];
    let before = procs::look(&nats);
    let begun = Instant::now();
    let lanes: Vec<_> = lanes.into_iter().map(|lane| tokio::spawn(publish(events.clone(), lane, begun))).collect();
    let (mut accepted, mut replied) = (0, Latency::new()?);
    for lane in lanes {
        let times = lane.await??;
        accepted += times.len() as u64;
        for time in times {
            replied.add(time);
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let costs = procs::costs(&nats, &before, &procs::look(&nats), accepted);
    let replied = replied.quantiles();
    Ok(json!({
        "connected": LANES, "accepted": accepted, "accepted_per_s": accepted as f64 / took, "refused": 0, "unanswered": 0,
        "p50_ms": replied.p50_ms, "p99_ms": replied.p99_ms, "costs": costs,
    }))
}

/// One after another into one group, for as long as it is time; how long each took, in nanoseconds.
async fn publish(events: Events, lane: Lane, begun: Instant) -> Result<Vec<u64>> {
    let mut times = Vec::new();
    while begun.elapsed() < Duration::from_secs(PUBLISH_SECONDS) {
        let sent = Instant::now();
        events.publish(lane.message()?).await?;
        times.push(sent.elapsed().as_nanos() as u64);
    }
    Ok(times)
}
