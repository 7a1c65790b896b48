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

/// A position that a shard's log had come to, and when it was asked for last; a log is never shorter again in the same epoch.
type End = Mutex<(Position, Option<Instant>)>;

pub(super) struct LogStates {
    firsts: Vec<Slot>,
    ends: Vec<End>,
}

impl LogStates {
    pub(super) fn new(shards: Shards) -> Self {
        let firsts = shards.iter().map(|_| Mutex::new(None)).collect();
        Self { firsts, ends: shards.iter().map(|_| Mutex::new((Position::START, None))).collect() }
    }

    /// Whether the log of `after`'s epoch still had everything after `after` at some time after
    /// `since`: then nothing after it can have been there and gone.
    pub(super) async fn held(&self, broker: &dyn Broker, shard: Shard, after: Position, since: Instant) -> Result<bool, BrokerError> {
        Ok(self.first(broker, shard, after, since).await?.is_some_and(|first| first <= after.seq + 1))
    }

    /// Whether the log has come to `position`, as of `came` or later: who asks has had the position since then. That it has not is said as of a write of our own: right after an election a log may
    /// look shorter than it is.
    pub(super) async fn reaches(&self, broker: &dyn Broker, shard: Shard, position: Position, came: Instant) -> Result<bool, BrokerError> {
        let slot = self.ends.get(usize::from(shard.0)).ok_or(BrokerError::NoLog(shard))?;
        let mut known = slot.lock().await;
        let (end, asked) = &mut *known;
        // Whoever came before it was asked last is answered by that.
        if position > *end && asked.is_none_or(|asked| asked < came) {
            let now = Instant::now();
            let state = broker.log_state(shard).await?;
            *end = Position::new(state.epoch, state.last);
            if position > *end {
                *end = broker.fence(shard).await?;
                *asked = Some(now);
            }
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
