//! A persister that catches up: so many messages are published into Natter's streams while none runs, then one
//! starts. It is done when SQL has them all.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use natter_tests::cluster::Store;
use serde_json::{Value, json};

use super::{
    jetstream::{self, Lane},
    natter::{Natter, Sync},
    scenario::ROWS,
};
use crate::procs;

/// Groups that the messages are spread over.
const GROUPS: usize = 1000;

/// Messages on their way to the streams at once.
const IN_FLIGHT: usize = 2000;

/// Between two looks at how far SQL has come.
const LOOK: Duration = Duration::from_millis(100);

/// Without any progress for so long there will be none.
const STALLED: Duration = Duration::from_mins(1);

/// Runs it.
pub(super) async fn run(store: Store) -> Result<Value> {
    // Only what is published depends on how NATS syncs, and that is not measured here.
    let mut natter = Natter::start(Sync::Default, 0, store, &[]).await?;
    for mut persister in std::mem::take(&mut natter.cluster.persisters) {
        persister.process.terminate()?;
    }
    let sql = natter.cluster.sql().await?;
    let applied = async || sql.count("SELECT CAST(SUM(seq) AS BIGINT) FROM applied").await;
    let from = applied().await?;
    publish(&natter).await?;
    // At the earliest: the persister's own canaries are in the streams, too.
    let until = from + i64::try_from(ROWS)?;
    let begun = Instant::now();
    natter.cluster.add_persister()?;
    let watched = natter.watched()?;
    let before = procs::look(&watched);
    let rows = i64::try_from(ROWS)?;
    let stored = async || sql.count("SELECT COUNT(*) FROM messages").await;
    let (mut at, mut moved) = (from, Instant::now());
    while at < until || stored().await? < rows {
        tokio::time::sleep(LOOK).await;
        let now = applied().await?;
        if now > at {
            (at, moved) = (now, Instant::now());
        }
        ensure!(moved.elapsed() < STALLED, "the persister stands still at {at} of {until}; {}", {
            natter.cluster.persisters.first().map(|node| node.process.log()).unwrap_or_default()
        });
    }
    let seconds = begun.elapsed().as_secs_f64();
    let costs = procs::costs(&watched, &before, &procs::look(&watched), ROWS);
    Ok(json!({
        "rows_per_s": ROWS as f64 / seconds, "seconds": seconds, "costs": costs,
        "missing": rows - stored().await?, "dead_letters": sql.count("SELECT COUNT(*) FROM dead_letters").await?,
    }))
}

async fn publish(natter: &Natter) -> Result<()> {
    let context = jetstream::connect(&natter.cluster).await?;
    let lanes = (0..GROUPS).map(|number| Lane::new(&natter.cluster, number)).collect::<Result<Vec<_>>>()?;
    let lanes: Vec<&Lane> = lanes.iter().collect();
    let numbers = stream::iter(0..usize::try_from(ROWS)?);
    let acks = numbers.map(|number| {
        let (context, lane) = (context.clone(), lanes.get(number % GROUPS));
        async move {
            let lane = lane.context("a lane")?;
            let (headers, payload) = lane.message()?;
            context.publish_with_headers(lane.subject.clone(), headers, payload).await?.await?;
            anyhow::Ok(())
        }
    });
    acks.buffer_unordered(IN_FLIGHT).try_for_each(|()| std::future::ready(Ok(()))).await
}
