//! `make bench`: each `scenario` is run against Natter (`natter`) and against the bare loop (`bare`) in
//! turn, several times, and its medians go into a `table`.

mod bare;
mod jetstream;
mod natter;
pub mod scenario;
mod table;

use std::{fmt, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use natter_tests::process::binary;
use serde_json::Value;
use tokio::process::Command;

pub use self::natter::RAISED;
use self::{
    bare::Bare,
    natter::{Natter, Sync},
    scenario::Scenario,
    table::Column,
};

/// What a column is of.
#[derive(Debug, Clone, Copy)]
enum Measured {
    Natter(Sync),
    Limit,
    JetStream,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Natter(Sync::AsShipped) => "Natter",
            Self::Natter(Sync::Default) => "Natter, NATS's default sync",
            Self::Limit => "limit",
            Self::JetStream => "bare JetStream",
        })
    }
}

/// Runs a scenario `rounds` times and returns its table. With `default_sync`, Natter is run once more in
/// each round, over a NATS that syncs as it does by default.
pub async fn run(scenario: &Scenario, rounds: usize, default_sync: bool) -> Result<String> {
    let mut measured = vec![Measured::Natter(Sync::AsShipped)];
    measured.extend(default_sync.then_some(Measured::Natter(Sync::Default)));
    measured.push(Measured::Limit);
    measured.extend(scenario.jetstream.then_some(Measured::JetStream));
    let mut columns: Vec<Column> = measured.into_iter().map(Column::new).collect();
    for round in 1..=rounds {
        for Column { measured, reports } in &mut columns {
            let report = match *measured {
                Measured::Natter(sync) => natter(scenario, sync).await,
                Measured::Limit => limit(scenario).await,
                Measured::JetStream => jetstream::run().await,
            };
            let report = report.with_context(|| format!("{measured} of {}", scenario.name))?;
            eprintln!("{} {round}/{rounds}, {measured}: {}", scenario.name, table::line(scenario, &report));
            reports.push(report);
        }
    }
    Ok(table::table(scenario, &columns))
}

async fn natter(scenario: &Scenario, sync: Sync) -> Result<Value> {
    let natter = Natter::start(sync).await?;
    load(scenario, natter.args()?).await
}

async fn limit(scenario: &Scenario) -> Result<Value> {
    let bare = Bare::start()?;
    load(scenario, bare.args()).await
}

/// Runs the generator, and reads what it says.
async fn load(scenario: &Scenario, target: Vec<String>) -> Result<Value> {
    let mut command = Command::new(binary("natter-load"));
    command.args(scenario.load).args(target).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.output().await?;
    ensure!(output.status.success(), "natter-load: {}", output.status);
    serde_json::from_slice(&output.stdout).context("what natter-load says")
}
