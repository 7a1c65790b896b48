//! From where on the shards' logs still hold everything, asked once for all who want to know at the
//! same time: it decides whether what was read of a log is all there was.

use natter_shared::{
    broker::{Broker, BrokerError},
    position::Position,
    subject::{Shard, Shards},
};
use tokio::{sync::Mutex, time::Instant};

/// The last answer of a shard, and when it was asked for.
type Slot = Mutex<Option<(Instant, Position)>>;

pub(super) struct LogStates {
    firsts: Vec<Slot>,
    /// Positions that the logs had come to; a log is never shorter again in the same epoch.
    ends: Vec<Mutex<Position>>,
}

impl LogStates {
    pub(super) fn new(shards: Shards) -> Self {
        let firsts = shards.iter().map(|_| Mutex::new(None)).collect();
        Self { firsts, ends: shards.iter().map(|_| Mutex::new(Position::START)).collect() }
    }

    /// Whether the log of `after`'s epoch still had everything after `after` at some time after
    /// `since`: then nothing after it can have been there and gone.
    pub(super) async fn held(&self, broker: &dyn Broker, shard: Shard, after: Position, since: Instant) -> Result<bool, BrokerError> {
        Ok(self.first(broker, shard, after, since).await?.is_some_and(|first| first <= after.seq + 1))
    }

    /// Whether the log has come to `position`.
    pub(super) async fn reaches(&self, broker: &dyn Broker, shard: Shard, position: Position) -> Result<bool, BrokerError> {
        let slot = self.ends.get(usize::from(shard.0)).ok_or(BrokerError::NoLog(shard))?;
        let mut end = slot.lock().await;
        if position > *end {
            let state = broker.log_state(shard).await?;
            *end = Position::new(state.epoch, state.last);
        }
        Ok(position <= *end)
    }

    /// The first sequence that the log of `at`'s epoch had at some time after `since`.
    pub(super) async fn first(&self, broker: &dyn Broker, shard: Shard, at: Position, since: Instant) -> Result<Option<u64>, BrokerError> {
        let slot = self.firsts.get(usize::from(shard.0)).ok_or(BrokerError::NoLog(shard))?;
        // Who waits here is answered by the question after the one that is under way.
        let mut last = slot.lock().await;
        if let Some((asked, first)) = *last
            && asked >= since
            && first.epoch == at.epoch
        {
            return Ok(Some(first.seq));
        }
        let asked = Instant::now();
        let first = broker.first(shard, at.epoch).await?;
        *last = first.map(|first| (asked, Position::new(at.epoch, first)));
        Ok(first)
    }
}
