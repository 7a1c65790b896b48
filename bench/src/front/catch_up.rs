//! A persister that catches up: so many messages are published into Natter's streams while none runs, then one
//! starts. It is done when SQL has them all.

use std::time::Instant;

use anyhow::{Context as _, Result};
use natter_tests::cluster::Store;
use serde_json::{Value, json};

use super::{
    events::{Events, Lane},
    natter::{Natter, Sync},
    projection::Projection,
    scenario::ROWS,
};
use crate::procs;

/// Groups that the messages are spread over.
const GROUPS: usize = 1000;

/// Runs it.
pub(super) async fn run(store: Store) -> Result<Value> {
    // Only what is published depends on how NATS syncs, and that is not measured here.
    let mut natter = Natter::start(Sync::Default, 0, store, &[]).await?;
    for mut persister in std::mem::take(&mut natter.cluster.persisters) {
        persister.process.terminate()?;
    }
    let projection = Projection::of(&natter).await?;
    let rows = i64::try_from(ROWS)?;
    // At the earliest: the persister's own canaries are in the streams, too.
    let until = projection.applied().await? + rows;
    publish(&natter).await?;
    let begun = Instant::now();
    natter.cluster.add_persister()?;
    let watched = natter.watched()?;
    let before = procs::look(&watched);
    let stored = async || projection.sql.count("SELECT COUNT(*) FROM messages").await;
    projection.reach(&natter, until).await?;
    while stored().await? < rows {
        let further = projection.applied().await? + 1;
        projection.reach(&natter, further).await?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let costs = procs::costs(&watched, &before, &procs::look(&watched), ROWS);
    Ok(json!({
        "rows_per_s": ROWS as f64 / seconds, "seconds": seconds, "costs": costs,
        "missing": rows - stored().await?, "dead_letters": projection.sql.count("SELECT COUNT(*) FROM dead_letters").await?,
    }))
}

async fn publish(natter: &Natter) -> Result<()> {
    let events = Events::connect(&natter.cluster).await?;
    let lanes = (0..GROUPS).map(|number| events.lane(number)).collect::<Result<Vec<Lane>>>()?;
    let message = |number: usize| lanes.get(number % GROUPS).context("a lane")?.message();
    events.publish_all((0..usize::try_from(ROWS)?).map(message)).await
}
