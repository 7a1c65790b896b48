//! `make faults`: everything that can go wrong happens to real processes, and the promises hold.
#![allow(clippy::expect_used, reason = "a tool of tests fails by panicking")]

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use natter_tests::{
    faults::{Fault, Finding, NOTHING_SHOWN, Outcome, Sabotage, Size, run, status_of_all, status_of_one, table, verdict},
    process,
};

/// Makes things go wrong under traffic, and checks what is promised: nothing accepted is lost or
/// doubled, everybody sees one order, nobody sees what they may not.
///
/// It ends with a table, and with exit status 1 if a promise was broken, 2 if nothing of it can run here. With --sabotage the server
/// itself breaks one on purpose (it has to be built with the feature `failpoints`): exit status 1 says
/// that this was found, 0 that it was not, and 2 that nothing was shown, for it could not run or failed.
///
/// Examples:
///   make faults                                    all of them, some minutes
///   SEED=7 FAULTS=chaos,drain make faults          two of them, by other dice
///   LONG=1 FAULTS=database-down make faults        five minutes without a database
///   make faults SABOTAGE=drop                      has to fail
#[derive(Debug, Parser)]
#[command(name = "natter-faults", version, verbatim_doc_comment)]
struct Cli {
    /// Which; all of them if none is named
    faults: Vec<String>,
    /// Names them and what they do
    #[arg(long)]
    list: bool,
    /// From which all dice roll
    #[arg(long, env = "SEED", default_value_t = 20_261_124)]
    seed: u64,
    /// How often each fault happens, instead of what it does by itself
    #[arg(long, env = "ROUNDS")]
    rounds: Option<usize>,
    /// As short as makes sense
    #[arg(long)]
    short: bool,
    /// The long variants
    #[arg(long)]
    long: bool,
    /// Spoils the server in this way, or in each (`all`: exit status 0 if each is found, 1 if one is not)
    #[arg(long)]
    sabotage: Option<String>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if cli.list {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    process::be_quiet();
    let size = match (cli.short, cli.long) {
        (true, true) => bail!("short or long"),
        (true, false) => Size::Short,
        (false, true) => Size::Long,
        (false, false) => Size::Usual,
    };
    let work = async {
        match &cli.sabotage {
            Some(name) => Ok(sabotages(&cli, name).await.unwrap_or_else(|error| {
                eprintln!("Error: {error:#}");
                NOTHING_SHOWN.into()
            })),
            None => faults(&cli, size).await,
        }
    };
    tokio::select! {
        biased;
        // Whatever was started ends with what is dropped here.
        () = process::interrupted() => Ok(ExitCode::from(130)),
        done = work => done,
    }
}

fn list() {
    println!("faults:");
    for fault in Fault::ALL {
        println!("  {:<16} {}", fault.name(), fault.about());
    }
    println!("sabotages:");
    for sabotage in Sabotage::ALL {
        println!("  {:<16} {}", sabotage.name(), sabotage.about());
    }
}

async fn faults(cli: &Cli, size: Size) -> Result<ExitCode> {
    let named = |name: &String| Fault::named(name).with_context(|| format!("no fault {name:?}; --list names them"));
    let mut chosen: Vec<Fault> = cli.faults.iter().map(named).collect::<Result<_>>()?;
    if chosen.is_empty() {
        chosen = Fault::ALL.to_vec();
    }
    // What is measured is what is released.
    ensure!(cfg!(debug_assertions) || !has_failpoints()?, "the gateway beside this has failpoints in it");
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    for fault in chosen {
        println!("{}: {}", fault.name(), fault.about());
        match run(fault, cli.seed, size, cli.rounds, None).await {
            Outcome::Skipped(reason) => {
                println!("{}: skipped: {reason}", fault.name());
                skipped.push(fault.name());
            }
            Outcome::Ran(row) => {
                let verdict = if row.is_good() { "ok" } else { "BROKEN" };
                print!("{}", row.remarks());
                println!("{}: {verdict}, {:.0?}", fault.name(), row.took);
                rows.push(row);
            }
        }
    }
    print!("\n{}", table(&rows));
    let (text, status) = verdict(&rows, &skipped, cli.seed);
    println!("{text}");
    Ok(status.into())
}

async fn sabotages(cli: &Cli, name: &str) -> Result<ExitCode> {
    ensure!(cli.faults.is_empty(), "a sabotage has a fault of its own");
    let all = name == "all";
    let chosen = match Sabotage::named(name) {
        _ if all => Sabotage::ALL.to_vec(),
        Some(sabotage) => vec![sabotage],
        None => bail!("no sabotage {name:?}; --list names them"),
    };
    ensure!(has_failpoints()?, "the gateway beside this was built without failpoints: --features failpoints");
    let (mut rows, mut findings) = (Vec::new(), Vec::new());
    for sabotage in &chosen {
        println!("{}: {}, under {}", sabotage.name(), sabotage.about(), sabotage.fault().name());
        let rounds = cli.rounds.or(sabotage.rounds());
        let outcome = run(sabotage.fault(), cli.seed, Size::Short, rounds, Some(sabotage.failpoints())).await;
        let finding = Finding::of(*sabotage, &outcome);
        findings.push(finding);
        match outcome {
            Outcome::Skipped(reason) => println!("{}: {}: skipped: {reason}", sabotage.name(), finding.text()),
            Outcome::Ran(mut row) => {
                sabotage.name().clone_into(&mut row.name);
                print!("{}", row.remarks());
                println!("{}: {}, {:.0?}", sabotage.name(), finding.text(), row.took);
                rows.push(row);
            }
        }
    }
    print!("\n{}", table(&rows));
    if findings.iter().all(|finding| *finding == Finding::Found) {
        println!("every sabotage was found");
    }
    for other in [Finding::Missed, Finding::Nothing] {
        let names = chosen.iter().zip(&findings).filter(|(_, finding)| **finding == other).map(|(sabotage, _)| sabotage.name());
        let names: Vec<&str> = names.collect();
        if !names.is_empty() {
            println!("{}: {} (seed {})", other.text(), names.join(", "), cli.seed);
        }
    }
    let status = match findings[..] {
        [finding] if !all => status_of_one(finding),
        _ => status_of_all(&findings),
    };
    Ok(status.into())
}

/// Whether the gateway that is run has failpoints in it.
fn has_failpoints() -> Result<bool> {
    let program = std::fs::read(process::binary("natter-gateway"))?;
    let mark = natter_tests::FAILPOINTS_MARK.as_bytes();
    Ok(program.windows(mark.len()).any(|bytes| bytes == mark))
}
