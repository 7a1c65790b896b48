//! The load generator: prints what it measured as one line of JSON.

use anyhow::Result;
use clap::{Parser, Subcommand};
use natter_bench::load::{Churn, Fanout, Herd, Idle, Publish, Rooms};
use serde::Serialize;

/// A light load generator for Natter's protocol v1 (subprotocol natter.v1.json): one thread, so that it
/// takes little of the machine it may share with the server. Linux only.
///
/// Connection i signs in as user u00000i (see --first-user), and joins the open group that is named r and the number of its
/// room. Users stay members: give each run a fresh database, or what was joined before is received as well.
/// One line of JSON goes to stdout; latency counts from when a message was due. A connection is an open
/// file: see `ulimit -n`.
///
/// Examples:
///   natter-load fanout --addr 127.0.0.1:8080 --n 1000 --rate 20 --secret "$SECRET" --pid gateway=4711
///   natter-load fanout --addr 127.0.0.1:8080 --n 1000 --rate 50 --search --max-p99-ms 250
///   natter-load rooms --addr 10.0.0.1:8080 --addr 10.0.0.2:8080 --n 2000 --rooms 100 --rate 1000
///   natter-load idle --addr 127.0.0.1:8080 --n 10000 --groups 3 --pid gateway=4711
///   natter-load churn --addr 127.0.0.1:8080 --n 100
///   natter-load publish --addr 127.0.0.1:8080 --n 64 --groups 64 --in-flight 8
///   natter-load herd --addr 127.0.0.1:8080 --n 10000 --groups 20
#[derive(Debug, Parser)]
#[command(name = "natter-load", version, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Messages in one room
    Fanout(Fanout),
    /// Messages in many rooms
    Rooms(Rooms),
    /// Connections that do nothing: memory, connects per second, CPU while idle
    Idle(Idle),
    /// Connections that sign in, join, close and come again
    Churn(Churn),
    /// Messages as fast as they are accepted
    Publish(Publish),
    /// Connections that are lost at once and come back at once, with what they missed
    Herd(Herd),
}

fn main() -> Result<()> {
    match Cli::parse().scenario {
        Scenario::Fanout(fanout) => print(&fanout.run()?),
        Scenario::Rooms(rooms) => print(&rooms.run()?),
        Scenario::Idle(idle) => print(&idle.run()?),
        Scenario::Churn(churn) => print(&churn.run()?),
        Scenario::Publish(publish) => print(&publish.run()?),
        Scenario::Herd(herd) => print(&herd.run()?),
    }
}

fn print(report: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
