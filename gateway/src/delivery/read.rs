//! Reads back what a topic had after a position: a few events from the stream itself; else from SQL
//! up to how far SQL has come, then from the stream. Nothing where neither can prove to have all.

use std::time::Duration;

use natter_shared::{
    broker::{BrokerError, Stored},
    id::{GroupId, UserId},
    position::Position,
    rpc::{self, EventsAfter},
    subject::Topic,
};
use tokio::time::Instant;

use super::{
    GroupMeta, JoinError,
    encode::readable,
    hub::Hub,
    missed::{Missed, MissedLimits},
};

/// Events asked of SQL at once.
const PAGE: u32 = 500;

/// Events read from the stream one by one before SQL is asked for the most of them.
const FEW: usize = 16;

/// Over so many sequences a search in the stream is cheap.
const NEAR: u64 = 50_000;

/// Events read from the stream one by one after SQL; more than so few would stall its ingest.
const STREAM_EVENTS: usize = 256;

/// So many times more than a session may be told is read to find the newest of it.
const TIMES: usize = 4;

/// Before an event that is known to be there is asked for again, and how often it is.
const LAGGING: Duration = Duration::from_millis(20);
const LAGGING_TIMES: usize = 256;

/// What is read.
pub(super) struct Reading<'a> {
    pub(super) hub: &'a Hub,
    pub(super) topic: Topic,
    /// The group and what must be known of it, where it is a group's topic.
    pub(super) group: Option<(GroupId, &'a GroupMeta)>,
    /// Whose topic it is, where it is none of a group.
    pub(super) user: Option<UserId>,
    /// Events after this.
    pub(super) from: Position,
    /// Up to this; live delivery has what follows.
    pub(super) floor: Position,
}

impl Reading<'_> {
    /// Reads it; none where it is not sure to be all.
    pub(super) async fn run(&self) -> Result<Option<Missed>, JoinError> {
        let limits = &self.hub.limits;
        let limits = MissedLimits { events: limits.recovery_events, bytes: 4 * limits.backlog_bytes };
        let mut missed = Missed::new(self.from, limits, self.group.map(|(_, meta)| meta.clone()));
        let is_near = self.floor.epoch == self.from.epoch && self.floor.seq.saturating_sub(self.from.seq) <= NEAR;
        if is_near && let Some(events) = self.stream(self.from, FEW).await? {
            add(events, &mut missed);
            return Ok(Some(missed));
        }
        let Some(reached) = self.sql(&mut missed).await? else { return Ok(None) };
        if reached >= self.floor {
            return Ok(Some(missed));
        }
        // An epoch may have ended that SQL has not caught up with: its rest cannot be told from here.
        let Some(events) = self.stream(reached, STREAM_EVENTS).await? else { return Ok(None) };
        add(events, &mut missed);
        Ok(Some(missed))
    }

    /// Returns how far SQL has come, or nothing where it does not hold everything.
    async fn sql(&self, missed: &mut Missed) -> Result<Option<Position>, JoinError> {
        let shard = self.hub.broker.shards().of(self.topic);
        let (mut after, mut read) = (self.from, 0);
        loop {
            let call = EventsAfter { user: self.user.clone(), group: self.group.map(|(group, _)| group), after, limit: PAGE };
            let answer = rpc::call(&*self.hub.broker, call, None).await?;
            let (applied, page) = (answer.applied(shard), answer.reply);
            read += page.events.len();
            if !page.complete || read > TIMES * self.hub.limits.recovery_events {
                return Ok(None);
            }
            for recovered in page.events {
                if recovered.position > self.floor {
                    // Live delivery brings it.
                    return Ok(Some(applied.max(self.floor)));
                }
                after = recovered.position;
                missed.push(recovered.event, recovered.position, recovered.stored_at);
            }
            if !page.more {
                return Ok(Some(applied.max(after)));
            }
        }
    }

    /// The events after `after`, if they are no more than `most` and the stream has all of them.
    async fn stream(&self, after: Position, most: usize) -> Result<Option<Vec<Stored>>, JoinError> {
        if after.epoch != self.floor.epoch {
            return Ok(None);
        }
        let (broker, shard) = (&*self.hub.broker, self.hub.broker.shards().of(self.topic));
        // A single event may be read from a replica that lags; that the last one was reached shows
        // that none is missing.
        let tails = broker.tails(shard, &[self.topic], after, self.floor).await.map_err(unavailable)?;
        let mut events: Vec<Stored> = Vec::new();
        if let Some((_, last)) = tails.changed.first().copied() {
            let (mut at, mut lagging) = (after, 0);
            while at.seq < last {
                match broker.next_of(self.topic, at).await.map_err(unavailable)? {
                    Some(stored) if stored.position > self.floor => break,
                    Some(_) if events.len() == most => return Ok(None),
                    Some(stored) => {
                        at = stored.position;
                        events.push(stored);
                    }
                    None if lagging == LAGGING_TIMES => return Ok(None),
                    None => {
                        lagging += 1;
                        tokio::time::sleep(LAGGING).await;
                    }
                }
            }
        }
        // What was evicted while we read may have been ours.
        let held = self.hub.log_states.held(broker, shard, after, Instant::now()).await.map_err(unavailable)?;
        Ok(held.then_some(events))
    }
}

fn add(events: Vec<Stored>, missed: &mut Missed) {
    for stored in events {
        if let Some(event) = readable(&stored) {
            missed.push(event, stored.position, stored.stored_at);
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what errors are mapped by")]
fn unavailable(error: BrokerError) -> JoinError {
    JoinError::Unavailable(error.to_string())
}
