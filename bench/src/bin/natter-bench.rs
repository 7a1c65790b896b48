//! `make bench`: Natter and the bare loop in turn, several times, as tables of medians.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use natter_bench::front::{self, RAISED, scenario};
use natter_tests::process;

/// Measures Natter and the least that any server could do (natter-limit) in turn, several times, each on a
/// fresh start, and prints medians and ratios as tables in Markdown. Progress goes to stderr.
///
/// Natter is one gateway and one persister, built for release, over real NATS under deploy/nats.conf as it
/// is shipped (every write synced before it is acked) and PostgreSQL with fsync.
///
/// Examples:
///   make bench                                   all scenarios but full, five rounds each
///   ROUNDS=3 SCENARIOS=fanout,rooms make bench   two of them, three rounds
///   make bench DEFAULT_SYNC=1                    a second column: NATS that syncs every two minutes
///   natter-bench --serve                         only Natter, for another generator
#[derive(Debug, Parser)]
#[command(name = "natter-bench", version, verbatim_doc_comment)]
struct Cli {
    /// Which; all but `full` if none is named, which takes twenty minutes and 10 GB of disk and memory
    scenarios: Vec<String>,
    /// Names them and what they do
    #[arg(long)]
    list: bool,
    /// How often each is run
    #[arg(long, env = "ROUNDS", default_value_t = 5)]
    rounds: usize,
    /// Measures Natter also over a NATS that syncs as it does by default
    #[arg(long)]
    default_sync: bool,
    /// Starts Natter as the scenarios do, prints where its gateways listen and which its processes are, as a generator's --addr
    /// and --pid, and waits to be interrupted
    #[arg(long, conflicts_with = "scenarios")]
    serve: bool,
    /// Gateways that are served
    #[arg(long, requires = "serve", default_value_t = 1)]
    gateways: usize,
    /// A variable of the served processes (repeat), NATTER_AUTH__SECRET=… for example
    #[arg(long, requires = "serve", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
}

fn variable(text: &str) -> Result<(String, String), &'static str> {
    text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or("NAME=VALUE")
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if cli.list {
        for scenario in scenario::all() {
            println!("{:<12} {}", scenario.name, scenario.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(cli.rounds > 0, "a round at least");
    let named = |name: &String| {
        let found = scenario::all().find(|scenario| scenario.name == name);
        found.with_context(|| format!("no scenario {name:?}; --list names them"))
    };
    let mut chosen = cli.scenarios.iter().map(named).collect::<Result<Vec<_>>>()?;
    if chosen.is_empty() {
        chosen = scenario::USUAL.to_vec();
    }
    process::be_quiet();
    let raised = RAISED.map(|(key, value)| format!("{key}={value}\n")).concat();
    if cli.serve {
        eprint!("Limits of one connection raised:\n{raised}");
    } else {
        print!("Medians of {} rounds. Limits of one connection raised for this:\n{raised}", cli.rounds);
    }
    let work = async {
        if cli.serve {
            match front::serve(cli.default_sync, cli.gateways, &cli.env).await? {}
        }
        for scenario in chosen {
            eprintln!("{}: {}", scenario.name, scenario.about);
            print!("{}", front::run(scenario, cli.rounds, cli.default_sync).await?);
        }
        Ok(ExitCode::SUCCESS)
    };
    tokio::select! {
        biased;
        // Whatever was started ends with what is dropped here.
        () = process::interrupted() => Ok(ExitCode::from(130)),
        done = work => done,
    }
}
