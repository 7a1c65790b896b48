//! `make bench`: each `scenario` is run against Natter (`natter`) and against the bare loop (`bare`) in
//! turn, several times, and its medians go into a `table`.

mod bare;
mod catch_up;
mod events;
mod full;
mod herd;
mod jetstream;
mod natter;
mod projection;
pub mod scenario;
mod table;

use std::{convert::Infallible, fmt, future, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use natter_tests::{cluster::Store, process::binary};
use serde_json::Value;
use tokio::process::Command;

pub use self::natter::RAISED;
use self::{
    bare::Bare,
    events::Events,
    full::Stored,
    natter::{Natter, Sync},
    projection::Projection,
    scenario::{Against, Scenario},
    table::Column,
};

/// What a column is of.
#[derive(Debug, Clone, Copy)]
enum Measured {
    Natter(Sync),
    Gateways(Sync, usize),
    Limit,
    JetStream(Sync),
    CatchUp(Store),
    Herd(Sync, usize),
    Full(Stored),
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Natter(sync) => write!(f, "Natter{sync}"),
            Self::Gateways(sync, 1) | Self::Herd(sync, 1) => write!(f, "1 gateway{sync}"),
            Self::Gateways(sync, count) | Self::Herd(sync, count) => write!(f, "{count} gateways{sync}"),
            Self::Limit => f.write_str("limit"),
            Self::JetStream(sync) => write!(f, "bare JetStream{sync}"),
            Self::CatchUp(Store::Sqlite) => f.write_str("SQLite"),
            Self::CatchUp(Store::Postgres | Store::SyncedPostgres) => f.write_str("PostgreSQL"),
            Self::Full(stored) => stored.fmt(f),
        }
    }
}

/// What a scenario measures. With `default_sync`, also over a NATS that syncs as it does by default.
fn measured(scenario: &Scenario, default_sync: bool) -> Vec<Measured> {
    let syncs = if default_sync { &[Sync::AsShipped, Sync::Default][..] } else { &[Sync::AsShipped] };
    let each = |measured: fn(Sync) -> Measured| syncs.iter().map(move |sync| measured(*sync));
    let per_count = |counts: &[usize], measured: fn(Sync, usize) -> Measured| {
        counts.iter().flat_map(|count| syncs.iter().map(move |sync| measured(*sync, *count))).collect()
    };
    match scenario.against {
        Against::Limit => each(Measured::Natter).chain([Measured::Limit]).collect(),
        Against::Broker => each(Measured::Natter).chain(each(Measured::JetStream)).chain([Measured::Limit]).collect(),
        Against::Gateways(counts) => per_count(counts, Measured::Gateways),
        Against::Herd(counts) => per_count(counts, Measured::Herd),
        Against::Less => [Stored::All, Stored::AllInShortStreams, Stored::Nothing].map(Measured::Full).into(),
        // A persister only reads what NATS has.
        Against::Stores => vec![Measured::CatchUp(Store::SyncedPostgres), Measured::CatchUp(Store::Sqlite)],
    }
}

/// Runs a scenario `rounds` times and returns its table. With `default_sync`, Natter is run once more in
/// each round, over a NATS that syncs as it does by default.
pub async fn run(scenario: &Scenario, rounds: usize, default_sync: bool) -> Result<String> {
    let mut columns: Vec<Column> = measured(scenario, default_sync).into_iter().map(Column::new).collect();
    for round in 1..=rounds {
        for Column { measured, reports } in &mut columns {
            let report = match *measured {
                Measured::Natter(sync) => natter(scenario, sync, 1).await,
                Measured::Gateways(sync, count) => natter(scenario, sync, count).await,
                Measured::Limit => limit(scenario).await,
                Measured::JetStream(sync) => jetstream::run(sync).await,
                Measured::CatchUp(store) => catch_up::run(store).await,
                Measured::Herd(sync, count) => herd::run(sync, count).await,
                Measured::Full(stored) => full::run(stored).await,
            };
            let report = report.with_context(|| format!("{measured} of {}", scenario.name))?;
            eprintln!("{} {round}/{rounds}, {measured}: {}", scenario.name, table::line(scenario, &report));
            reports.push(report);
        }
    }
    Ok(table::table(scenario, &columns))
}

/// Starts Natter with these variables besides, prints where it listens and its processes as one line of arguments, and stays.
pub async fn serve(default_sync: bool, gateways: usize, env: &[(String, String)]) -> Result<Infallible> {
    let sync = if default_sync { Sync::Default } else { Sync::AsShipped };
    let natter = Natter::start(sync, gateways, Store::SyncedPostgres, env).await?;
    println!("{}", natter.targets()?.join(" "));
    future::pending().await
}

async fn natter(scenario: &Scenario, sync: Sync, gateways: usize) -> Result<Value> {
    let natter = Natter::start(sync, gateways, Store::SyncedPostgres, &[]).await?;
    let (events, projection) = (Events::connect(&natter.cluster).await?, Projection::of(&natter).await?);
    let mut report = generator(scenario.load, natter.args()?).await?;
    // A persister that puts off its work must not look cheap.
    let behind = events.stored().await? - projection.applied().await?;
    report.as_object_mut().context("a report is an object")?.insert("not_in_sql".to_owned(), behind.max(0).into());
    Ok(report)
}

async fn limit(scenario: &Scenario) -> Result<Value> {
    let bare = Bare::start()?;
    generator(scenario.load, bare.args()).await
}

/// Runs the generator, and reads what it says.
async fn generator(load: &[&str], target: Vec<String>) -> Result<Value> {
    let mut command = Command::new(binary("natter-load"));
    command.args(load).args(target).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.output().await?;
    ensure!(output.status.success(), "natter-load: {}", output.status);
    serde_json::from_slice(&output.stdout).context("what natter-load says")
}
