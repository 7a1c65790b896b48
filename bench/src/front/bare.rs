//! The bare loop as a process of its own, fresh for each run.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use natter_tests::process::binary;

/// It ends with this value.
pub(super) struct Bare {
    child: Child,
    addr: String,
}

impl Bare {
    /// Starts it on a free port.
    pub(super) fn start() -> Result<Self> {
        let child = Command::new(binary("natter-limit")).args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn()?;
        let mut bare = Self { child, addr: String::new() };
        let stdout = bare.child.stdout.take().context("its stdout")?;
        BufReader::new(stdout).read_line(&mut bare.addr)?;
        bare.addr.truncate(bare.addr.trim_end().len());
        Ok(bare)
    }

    /// What the generator is told.
    pub(super) fn args(&self) -> Vec<String> {
        // It stands where the gateway does.
        vec!["--addr".to_owned(), self.addr.clone(), "--pid".to_owned(), format!("gateway={}", self.child.id())]
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
