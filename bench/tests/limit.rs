//! The generator against the limit: everything that is sent comes, once and in order.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use natter_bench::load::{Outcome, TrafficReport};

/// Ended with this value.
struct Limit(Child);

impl Drop for Limit {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(args: &[&str]) -> TrafficReport {
    let mut limit =
        Limit(Command::new(env!("CARGO_BIN_EXE_natter-limit")).args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap());
    let mut addr = String::new();
    BufReader::new(limit.0.stdout.take().unwrap()).read_line(&mut addr).unwrap();
    let pid = format!("limit={}", limit.0.id());
    let load = Command::new(env!("CARGO_BIN_EXE_natter-load"))
        .args(args)
        .args(["--addr", addr.trim(), "--seconds", "1", "--pid", &pid])
        .output()
        .unwrap();
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    serde_json::from_slice(&load.stdout).unwrap()
}

fn is_whole(outcome: &Outcome, expected: u64) {
    assert_eq!((outcome.expected, outcome.delivered, outcome.lost), (expected, expected, 0), "{outcome:?}");
    assert_eq!((outcome.duplicates, outcome.out_of_order, outcome.refused, outcome.closed), (0, 0, 0, 0), "{outcome:?}");
    assert!(outcome.server_us_each > 0.0 && outcome.latency.p50_ms > 0.0, "{outcome:?}");
}

#[test]
fn all_of_one_room_comes() {
    let report = run(&["fanout", "--n", "100", "--rate", "50"]);
    assert_eq!(report.connected, 100);
    is_whole(&report.outcome, 50 * 100);
}

#[test]
fn all_of_many_rooms_comes() {
    let report = run(&["rooms", "--n", "100", "--rooms", "10", "--rate", "200"]);
    is_whole(&report.outcome, 200 * 10);
}
