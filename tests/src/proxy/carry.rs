//! One direction of a connection: what comes waits until its link lets it go on.

use std::sync::{Arc, atomic::Ordering};

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{ReadHalf, WriteHalf},
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    Connection, Shared,
    rules::{Link, Rules, condition},
};

/// Chunks on their way in one direction of a connection.
const IN_FLIGHT: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

/// One direction of one connection.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) direction: Direction,
    pub(super) connection: Arc<Connection>,
    pub(super) shared: Arc<Shared>,
}

impl Way {
    fn link(&self, rules: &Rules) -> Link {
        if self.connection.frozen.load(Ordering::Relaxed) {
            return Link::Silent;
        }
        let condition = condition(rules, self.connection.name.lock().as_deref());
        match self.direction {
            Direction::Up => condition.up,
            Direction::Down => condition.down,
        }
    }

    /// Returns when what came in at `came` may go on.
    async fn until_due(&self, came: Instant, rules: &mut watch::Receiver<Rules>) {
        loop {
            let link = self.link(&rules.borrow_and_update());
            let due = match link {
                Link::Fair => return,
                Link::Delayed(delay) if came.elapsed() >= delay => return,
                Link::Delayed(delay) => Some(came + delay),
                Link::Silent => None,
            };
            tokio::select! {
                // The sender lives as long as this does.
                _ = rules.changed() => {}
                () = tokio::time::sleep_until(due.unwrap_or(came)), if due.is_some() => {}
            }
        }
    }
}

/// Carries one direction until its sender ends; then what is on its way still arrives.
pub(super) async fn carry(way: Way, from: ReadHalf<'_>, to: WriteHalf<'_>) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    tokio::join!(take(&way, from, sender), give(&way, to, receiver));
}

async fn take(way: &Way, mut from: ReadHalf<'_>, sender: mpsc::Sender<(Instant, Bytes)>) {
    let mut start = (way.direction == Direction::Up).then(Vec::new);
    loop {
        let mut chunk = BytesMut::with_capacity(16_384);
        match from.read_buf(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Some(seen) = &mut start {
            seen.extend_from_slice(&chunk);
            if let Some(name) = name_in(seen) {
                *way.connection.name.lock() = Some(name);
                start = None;
            } else if seen.len() > 65_536 {
                start = None;
            }
        }
        if sender.send((Instant::now(), chunk.freeze())).await.is_err() {
            return;
        }
    }
}

async fn give(way: &Way, mut to: WriteHalf<'_>, mut receiver: mpsc::Receiver<(Instant, Bytes)>) {
    let mut rules = way.shared.rules.subscribe();
    while let Some((came, chunk)) = receiver.recv().await {
        way.until_due(came, &mut rules).await;
        if to.write_all(&chunk).await.is_err() {
            return;
        }
        way.shared.carried.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }
}

/// The name in a complete CONNECT line among what a client said first; empty where it gave none.
fn name_in(said: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(said).ok()?;
    let line = text.split_inclusive("\r\n").find(|line| line.starts_with("CONNECT ") && line.ends_with("\r\n"))?;
    let connect: Value = serde_json::from_str(line.strip_prefix("CONNECT ")?.trim_end()).ok()?;
    Some(connect["name"].as_str().unwrap_or_default().to_owned())
}
