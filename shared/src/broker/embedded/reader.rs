//! Reads a shard's log in order: from memory near its end, from the file elsewhere.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    super::{BrokerError, LogReader, Stored},
    file::File,
    log::Logs,
    unavailable,
};
use crate::{position::Position, subject::Shard};

/// Reads one epoch of one shard.
pub(super) struct EmbeddedReader {
    file: File,
    logs: Arc<Logs>,
    shard: Shard,
    /// The last event returned.
    at: Position,
    end: watch::Receiver<Option<Position>>,
}

impl EmbeddedReader {
    pub(super) async fn open(file: File, logs: Arc<Logs>, shard: Shard, after: Position) -> Result<Self, BrokerError> {
        let end = logs.end(shard)?;
        let reader = Self { file, logs, shard, at: after, end };
        let last = reader.last()?;
        // Memory knows first what is being forgotten.
        if let Ok(state) = reader.logs.state(shard)
            && state.epoch == after.epoch
            && state.first > after.seq + 1
        {
            return Err(reader.evicted(state.first));
        }
        if after.seq > last {
            // Newer than the log ever was: it has been rewound.
            return Err(reader.evicted(last + 1));
        }
        if after.seq < last {
            let next = Position::new(after.epoch, after.seq + 1);
            let first = reader.file.from(shard, next, 1).await.map_err(unavailable)?;
            if let Some(first) = first.first().filter(|first| first.position != next) {
                return Err(reader.evicted(first.position.seq));
            }
        }
        Ok(reader)
    }

    fn evicted(&self, first: u64) -> BrokerError {
        BrokerError::Evicted { shard: self.shard, first: Position::new(self.at.epoch, first) }
    }

    /// The last sequence of the epoch that is read.
    fn last(&self) -> Result<u64, BrokerError> {
        if let Some(last) = self.logs.ended(self.shard, self.at.epoch) {
            return Ok(last);
        }
        let current = self.logs.state(self.shard)?;
        if current.epoch == self.at.epoch {
            return Ok(current.last);
        }
        Err(BrokerError::Epoch { shard: self.shard, current: current.epoch })
    }
}

#[async_trait]
impl LogReader for EmbeddedReader {
    async fn next_batch(&mut self, max: usize, wait: Duration) -> Result<Vec<Stored>, BrokerError> {
        let deadline = Instant::now() + wait;
        loop {
            self.end.borrow_and_update();
            let last = self.last()?;
            if self.at.seq < last {
                let next = Position::new(self.at.epoch, self.at.seq + 1);
                let events = match self.logs.recent(self.shard, next, max) {
                    Some(events) => events,
                    None => self.file.from(self.shard, next, max).await.map_err(unavailable)?,
                };
                let first = events.first().map_or(last + 1, |first| first.position.seq);
                if first != next.seq {
                    return Err(self.evicted(first));
                }
                self.at.seq = events.last().map_or(self.at.seq, |last| last.position.seq);
                return Ok(events);
            }
            let current = self.logs.state(self.shard)?.epoch;
            if current != self.at.epoch {
                return Err(BrokerError::Epoch { shard: self.shard, current });
            }
            match timeout_at(deadline, self.end.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(unavailable("closed")),
                Err(_) => return Ok(Vec::new()),
            }
        }
    }
}
