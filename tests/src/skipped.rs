//! What cannot run here: a test that is skipped passes, so `make test` says at its end which were.

use std::{fs::OpenOptions, io::Write};

/// Says that the test of this thread is skipped, and why: on stderr, and in the file that `NATTER_TEST_SKIPPED` names.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}", thread.name().unwrap_or("a test"));
    eprintln!("skipped: {line}");
    let Some(file) = std::env::var_os("NATTER_TEST_SKIPPED") else { return };
    let written = OpenOptions::new().create(true).append(true).open(file).and_then(|mut file| writeln!(file, "{line}"));
    written.expect("a file to write to in NATTER_TEST_SKIPPED");
}
