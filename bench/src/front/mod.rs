//! `make bench`: each `scenario` is run against Natter (`natter`) and against the bare loop (`bare`) in
//! turn, several times, and its medians go into a `table`.

mod bare;
mod jetstream;
mod natter;
pub mod scenario;
mod table;

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use natter_tests::process::binary;
use serde_json::Value;

pub use self::natter::RAISED;
use self::{
    bare::Bare,
    natter::{Natter, Sync},
    scenario::Scenario,
    table::Column,
};

/// Runs a scenario `rounds` times and returns its table. With `default_sync`, Natter is run once more in
/// each round, over a NATS that syncs as it does by default.
pub async fn run(scenario: &Scenario, rounds: usize, default_sync: bool) -> Result<String> {
    let mut columns = vec![Column::new("Natter")];
    if default_sync {
        columns.push(Column::new("Natter, NATS's default sync"));
    }
    columns.push(Column::new("limit"));
    if scenario.jetstream {
        columns.push(Column::new("bare JetStream"));
    }
    for round in 1..=rounds {
        for column in &mut columns {
            let report = match column.name {
                "Natter" => natter(scenario, Sync::AsShipped).await,
                "limit" => limit(scenario).await,
                "bare JetStream" => jetstream::run().await,
                _ => natter(scenario, Sync::Default).await,
            };
            let report = report.with_context(|| format!("{} of {}", column.name, scenario.name))?;
            eprintln!("{} {round}/{rounds}, {}: {}", scenario.name, column.name, table::line(scenario, &report));
            column.reports.push(report);
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
    command.args(scenario.load).args(target).stderr(Stdio::inherit());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "natter-load: {}", output.status);
    serde_json::from_slice(&output.stdout).context("what natter-load says")
}
