//! From where on the shards' logs still hold everything, asked once for all who want to know at the
//! same time: it decides whether what was read of a log is all there was.

use natter_shared::{
    broker::{Broker, BrokerError},
    position::Position,
    subject::{Shard, Shards},
};
use tokio::{sync::Mutex, time::Instant};

/// What a shard's log said last of where it begins.
#[derive(Default)]
struct First {
    /// The first position, and when it was asked for.
    known: Option<(Instant, Position)>,
    failed: Failed,
}

/// What a shard's log said last of where it ends.
struct End {
    /// It had come here: in the same epoch it is never shorter again.
    position: Position,
    /// When that was asked for last.
    asked: Option<Instant>,
    failed: Failed,
}

/// The last question that was not answered, and when that was known.
#[derive(Default)]
struct Failed(Option<(Instant, BrokerError)>);

impl Failed {
    /// Answers who came before that was known: asked again for each, one would wait for all others.
    fn check(&self, came: Instant) -> Result<(), BrokerError> {
        match &self.0 {
            Some((at, error)) if *at >= came => Err(error.clone()),
            Some(_) | None => Ok(()),
        }
    }

    fn remember(&mut self, error: BrokerError) -> BrokerError {
        self.0 = Some((Instant::now(), error.clone()));
        error
    }
}

pub(super) struct LogStates {
    firsts: Vec<Mutex<First>>,
    ends: Vec<Mutex<End>>,
}

impl LogStates {
    pub(super) fn new(shards: Shards) -> Self {
        let end = |_| Mutex::new(End { position: Position::START, asked: None, failed: Failed::default() });
        Self { firsts: shards.iter().map(|_| Mutex::default()).collect(), ends: shards.iter().map(end).collect() }
    }

    /// Whether the log of `after`'s epoch still had everything after `after` at some time after
    /// `since`: then nothing after it can have been there and gone.
    pub(super) async fn held(&self, broker: &dyn Broker, shard: Shard, after: Position, since: Instant) -> Result<bool, BrokerError> {
        Ok(self.first(broker, shard, after, since).await?.is_some_and(|first| first <= after.seq + 1))
    }

    /// Whether the log has come to `position`, as of `came` or later: who asks has had the position since then. That it
    /// has not is said as of a write of our own: right after an election a log may look shorter than it is.
    pub(super) async fn reaches(&self, broker: &dyn Broker, shard: Shard, position: Position, came: Instant) -> Result<bool, BrokerError> {
        let slot = self.ends.get(usize::from(shard.0)).ok_or(BrokerError::NoLog(shard))?;
        let waits = Instant::now();
        let mut end = slot.lock().await;
        // Whoever came before it was asked last is answered by that.
        if position > end.position && end.asked.is_none_or(|asked| asked < came) {
            end.failed.check(waits)?;
            let now = Instant::now();
            let state = broker.log_state(shard).await.map_err(|error| end.failed.remember(error))?;
            end.position = Position::new(state.epoch, state.last);
            if position > end.position {
                end.position = broker.fence(shard).await.map_err(|error| end.failed.remember(error))?;
                end.asked = Some(now);
            }
        }
        Ok(position <= end.position)
    }

    /// The first sequence that the log of `at`'s epoch had at some time after `since`.
    pub(super) async fn first(&self, broker: &dyn Broker, shard: Shard, at: Position, since: Instant) -> Result<Option<u64>, BrokerError> {
        let slot = self.firsts.get(usize::from(shard.0)).ok_or(BrokerError::NoLog(shard))?;
        let waits = Instant::now();
        // Who waits here is answered by the question after the one that is under way.
        let mut last = slot.lock().await;
        if let Some((asked, first)) = last.known
            && asked >= since
            && first.epoch == at.epoch
        {
            return Ok(Some(first.seq));
        }
        last.failed.check(waits)?;
        let asked = Instant::now();
        let first = broker.first(shard, at.epoch).await.map_err(|error| last.failed.remember(error))?;
        last.known = first.map(|first| (asked, Position::new(at.epoch, first)));
        Ok(first)
    }
}
