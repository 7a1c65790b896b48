//! Traffic where much is stored: messages in very many groups, a few of which have most of them (Zipf), and then
//! `rooms` and `publish` in some of these groups, while messages to any of them go on.

use std::{
    convert::Infallible,
    fmt,
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

/// Messages that are stored before it is looked how far SQL is.
const CHUNK: usize = 100_000;

/// What the streams keep, beside their default (nats.max_bytes_per_shard): what fits into NATS's memory as a whole.
const SHORT: (&str, &str) = ("NATTER_NATS__MAX_BYTES_PER_SHARD", "64MiB");

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

/// What has been stored before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// All of it, in streams that keep nearly all of it.
    All,
    /// All of it, in streams that keep a twentieth.
    AllInShortStreams,
    /// Nothing.
    Nothing,
}

/// For a column's head.
impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all of it stored"),
            Self::AllInShortStreams => write!(f, "the same, streams of {}", SHORT.1),
            Self::Nothing => f.write_str("nothing stored"),
        }
    }
}

/// Runs it.
pub(super) async fn run(before: Stored) -> Result<Value> {
    let env = (before == Stored::AllInShortStreams).then(|| (SHORT.0.to_owned(), SHORT.1.to_owned()));
    // With a sync for each of so many messages it would take half an hour to store them.
    let natter = Natter::start(Sync::Default, 1, Store::SyncedPostgres, env.as_slice()).await?;
    let (events, projection, groups) = (Events::connect(&natter.cluster).await?, Projection::of(&natter).await?, Groups::new()?);
    let (watched, begun) = (natter.watched()?, Instant::now());
    let idle = procs::look(&watched);
    let stored = if before == Stored::Nothing { 0 } else { FULL_MESSAGES };
    fill(&natter, &events, &projection, groups, stored).await?;
    let filled_per_s = stored as f64 / begun.elapsed().as_secs_f64();
    let filled = procs::costs(&watched, &idle, &procs::look(&watched), 1);
    if stored > 0 {
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

/// Stores so many messages, and waits until SQL has them. Streams that keep little must not lose what SQL does not have yet: it is
/// never more than two chunks behind.
async fn fill(natter: &Natter, events: &Events, projection: &Projection, groups: Groups, count: usize) -> Result<()> {
    let (from, begun) = (projection.applied().await?, Instant::now());
    for done in (0..count).step_by(CHUNK) {
        if done % PROGRESS == 0 {
            eprintln!("full: {done} of {count} messages after {:.0} s", begun.elapsed().as_secs_f64());
        }
        events.publish_all((0..CHUNK.min(count - done)).map(|_| groups.message(events))).await?;
        projection.reach(natter, from + i64::try_from(done)?).await?;
    }
    projection.reach(natter, from + i64::try_from(count)?).await
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
