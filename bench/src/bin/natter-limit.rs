//! The bare loop as a server, to compare with.

use std::{io::Write as _, net::SocketAddr};

use anyhow::Result;
use clap::Parser;
use natter_bench::limit::Limit;

/// The least that a server can do: it answers upgrades, `connect`, `join` and `send` with frames of
/// Natter's shape and size, and writes each message to every socket of its room. One thread; it checks
/// no token and stores nothing. What `natter-load` measures of it is what the machine, the kernel and the
/// generator leave to any server.
///
/// Example:
///   natter-limit --listen 127.0.0.1:9000 &
///   natter-load fanout --addr 127.0.0.1:9000 --n 1000 --rate 20 --pid limit=$!
#[derive(Debug, Parser)]
#[command(name = "natter-limit", version, verbatim_doc_comment)]
struct Cli {
    /// Where to listen; port 0 is any free one. The first line on stdout says which
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
}

fn main() -> Result<()> {
    let mut limit = Limit::bind(Cli::parse().listen)?;
    println!("{}", limit.local_addr()?);
    std::io::stdout().flush()?;
    limit.run()
}
