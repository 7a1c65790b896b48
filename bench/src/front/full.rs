//! Traffic where much is stored: messages in very many groups, a few of which have most of them (Zipf), and then
//! `rooms` and `publish` in some of these groups, while messages to any of them go on.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use natter_tests::cluster::Store;
use rand_distr::{Distribution as _, Zipf};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::{
    events::{Events, Publication},
    generator,
    natter::{Natter, Sync},
    projection::Projection,
    scenario::{FULL_GROUPS, FULL_MESSAGES, FULL_PUBLISH, FULL_ROOMS, TRICKLE},
};
use crate::procs;

/// Messages between two lines of progress.
const PROGRESS: usize = 1_000_000;

/// Messages of [`TRICKLE`] that go at once.
const AT_ONCE: u32 = 10;

/// Between storing and measuring: NATS knows the id of each message for two minutes, and has its blocks in memory for a
/// while, and an installation of this size did not get all it has in the last minutes.
const SETTLE: Duration = Duration::from_secs(150);

/// Groups by how much is said in them: the n-th has a share of 1/n.
#[derive(Clone, Copy)]
struct Groups(Zipf<f64>);

impl Groups {
    fn new() -> Result<Self> {
        Ok(Self(Zipf::new(FULL_GROUPS as f64, 1.0).context("a distribution")?))
    }

    /// A message to one of them.
    fn message(self, events: &Events) -> Result<Publication> {
        events.lane(self.0.sample(&mut rand::rng()) as usize - 1)?.message()
    }
}

/// Runs it, over what is stored or over nothing.
pub(super) async fn run(is_full: bool) -> Result<Value> {
    // With a sync for each of so many messages it would take half an hour to store them.
    let natter = Natter::start(Sync::Default, 1, Store::SyncedPostgres, &[]).await?;
    let (events, projection, groups) = (Events::connect(&natter.cluster).await?, Projection::of(&natter).await?, Groups::new()?);
    let (watched, begun) = (natter.watched()?, Instant::now());
    let idle = procs::look(&watched);
    let stored = if is_full { FULL_MESSAGES } else { 0 };
    fill(&natter, &events, &projection, groups, stored).await?;
    let filled_per_s = stored as f64 / begun.elapsed().as_secs_f64();
    let filled = procs::costs(&watched, &idle, &procs::look(&watched), 1);
    if is_full {
        tokio::time::sleep(SETTLE).await;
    }
    let rested = procs::costs(&watched, &idle, &procs::look(&watched), 1);
    let database_mb = projection.sql.count("SELECT pg_database_size(current_database())").await? as f64 / 1e6;

    let traffic = async { anyhow::Ok((generator(FULL_ROOMS, natter.args()?).await?, generator(FULL_PUBLISH, natter.args()?).await?)) };
    let (rooms, publish) = tokio::select! {
        measured = traffic => measured?,
        stopped = trickle(&events, groups) => match stopped? {},
    };
    Ok(json!({
        "stored": stored, "filled_per_s": filled_per_s, "filled": filled, "rested": rested, "database_mb": database_mb, "rooms": rooms, "publish": publish,
        "dead_letters": projection.sql.count("SELECT COUNT(*) FROM dead_letters").await?,
    }))
}

/// Stores so many messages, and waits until SQL has them.
async fn fill(natter: &Natter, events: &Events, projection: &Projection, groups: Groups, count: usize) -> Result<()> {
    let until = projection.applied().await? + i64::try_from(count)?;
    let begun = Instant::now();
    let messages = (0..count).map(|number| {
        if number % PROGRESS == 0 {
            eprintln!("full: {number} of {count} messages after {:.0} s", begun.elapsed().as_secs_f64());
        }
        groups.message(events)
    });
    events.publish_all(messages).await?;
    projection.reach(natter, until).await
}

/// Messages at a steady rate, for as long as it is polled.
async fn trickle(events: &Events, groups: Groups) -> Result<Infallible> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) * AT_ONCE / TRICKLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        events.publish_all((0..AT_ONCE).map(|_| groups.message(events))).await?;
    }
}
