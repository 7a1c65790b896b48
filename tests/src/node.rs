//! One of our processes that serves HTTP.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    process::{PATIENCE, Process},
    proxy::Proxy,
};

/// One of our processes and where it serves HTTP.
pub struct Node {
    /// The process.
    pub process: Process,
    /// Its HTTP.
    pub addr: SocketAddr,
    /// What it reaches NATS through, where the cluster is proxied.
    pub nats: Option<Proxy>,
    /// What it reaches PostgreSQL through, likewise.
    pub database: Option<Proxy>,
}

impl Node {
    /// One without proxies.
    pub fn new(process: Process, addr: SocketAddr) -> Self {
        Self { process, addr, nats: None, database: None }
    }

    /// Waits until `/readyz` says so.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let url = format!("http://{}/readyz", self.addr);
        let mut last = String::new();
        while Instant::now() < until {
            match reqwest::get(&url).await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => last = format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
                Err(error) => last = error.to_string(),
            }
            if !self.process.is_running() {
                bail!("ended while starting; its log:\n{}", self.process.log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("not ready within {PATIENCE:?}: {last}; its log:\n{}", self.process.log())
    }

    /// What `/readyz` says now.
    pub async fn is_ready(&self) -> bool {
        self.status("/readyz").await == Some(200)
    }

    /// A sample of its metrics, named with its labels; none where it is not there (yet).
    pub async fn metric(&self, sample: &str) -> Result<Option<f64>> {
        let text = reqwest::get(format!("http://{}/metrics", self.addr)).await?.text().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        Ok(value.map(str::parse).transpose()?)
    }

    /// The status of a GET, if it is answered.
    pub async fn status(&self, path: &str) -> Option<u16> {
        let answer = reqwest::get(format!("http://{}{path}", self.addr)).await.ok()?;
        Some(answer.status().as_u16())
    }
}

/// This port on loopback.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
