//! What a session missed before delivery reaches it: from SQL up to how far SQL has come, then
//! from the stream; or `reset`, said explicitly, where neither can prove to have everything.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use futures::TryFutureExt;
use natter_shared::{
    broker::Stored,
    event::Event,
    frame::{ResetFrame, ServerFrame},
    id::GroupId,
    position::Position,
    rpc::{EventsAfter, FindMembership, RpcError, ShardPosition},
    subject::{Shard, Topic},
    timestamp::Timestamp,
};

use super::{
    GroupMeta, Insistence, JoinError, Start,
    encode::{Effect, encode_event},
    hub::Hub,
};
use crate::{
    session::{Notice, Protocol, SessionHandle},
    socket::wire,
};

/// Events asked of SQL at once.
const PAGE: u32 = 500;

/// Events read from the stream one by one; more than so few would stall its ingest.
const STREAM_EVENTS: usize = 256;

/// Before an event that is known to be there is asked for again.
const LAGGING: Duration = Duration::from_millis(20);

/// Whose events.
#[derive(Clone, Copy)]
pub(super) enum Whose<'a> {
    /// A group's.
    Group { group: GroupId, meta: &'a GroupMeta },
    /// The session's user's own.
    Inbox,
}

/// What came of it.
pub(super) struct Recovered {
    /// Everything up to the floor was written; else `reset` was.
    pub(super) complete: bool,
}

struct Recovery<'a> {
    hub: &'a Hub,
    session: &'a Arc<SessionHandle>,
    /// What is asked is asked again, and not the whole recovery begun anew: what was written is written.
    insistence: &'a Insistence<'a>,
    whose: Whose<'a>,
    topic: Topic,
    shard: Shard,
    /// Events after this are written.
    from: Position,
    /// Events after this are looked at for a removal.
    known: Position,
    /// Live delivery has everything after this.
    floor: Position,
    written: usize,
    removed: bool,
}

/// Writes to `session` what it missed between `start` and `floor`, and looks whether its user was
/// removed from the group between `known` and `floor`.
pub(super) async fn recover(
    hub: &Hub,
    session: &Arc<SessionHandle>,
    insistence: &Insistence<'_>,
    whose: Whose<'_>,
    start: Start,
    known: Position,
    floor: Position,
) -> Result<Recovered, JoinError> {
    let topic = match whose {
        Whose::Group { group, .. } => Topic::Group(group),
        Whose::Inbox => Topic::User(session.key),
    };
    let from = match start {
        Start::Now => floor,
        Start::After(position) => position,
    };
    let known = if matches!(whose, Whose::Inbox) { floor } else { known };
    let shard = hub.broker.shards().of(topic);
    let _permit = hub.recoveries.acquire().await.map_err(|_| JoinError::Unavailable("shutting down".to_owned()))?;
    hub.metrics.recoveries.inc();
    let mut recovery = Recovery { hub, session, insistence, whose, topic, shard, from, known, floor, written: 0, removed: false };
    let complete = recovery.run().await?;
    if !complete {
        if let Whose::Group { group, .. } = whose {
            // What could not be read may have been the user's removal.
            let call = FindMembership { user: session.user.clone(), group };
            let at = ShardPosition { shard: shard.0, position: floor };
            let member = insistence.call(&*hub.broker, call, Some(at)).await?.reply;
            if member.is_none_or(|member| member.since > floor) {
                return Err(JoinError::NotMember);
            }
        }
        say_reset(hub, session, whose);
    } else if recovery.removed {
        return Err(JoinError::NotMember);
    }
    Ok(Recovered { complete })
}

impl Recovery<'_> {
    async fn run(&mut self) -> Result<bool, JoinError> {
        let mut reached = self.known;
        if self.from < self.floor {
            match self.read_sql().await? {
                Some(applied) => reached = applied,
                None => return Ok(false),
            }
        }
        if reached >= self.floor {
            return Ok(true);
        }
        self.read_stream(reached).await
    }

    /// Reads SQL; returns how far it has come, or nothing where it does not hold everything.
    async fn read_sql(&mut self) -> Result<Option<Position>, JoinError> {
        let group = match self.whose {
            Whose::Group { group, .. } => Some(group),
            Whose::Inbox => None,
        };
        let mut after = self.from.min(self.known);
        // Of a group SQL must have come to where the membership was known: a hint is told before the
        // rows it follows from are there, and who is no member then is none.
        let known = group.map(|_| ShardPosition { shard: self.shard.0, position: self.known });
        loop {
            let call = EventsAfter { user: self.session.user.clone(), group, after, limit: PAGE };
            let answer = self.insistence.call(&*self.hub.broker, call, known).await?;
            let applied = answer.applied(self.shard);
            let page = answer.reply;
            if !page.complete {
                return Ok(None);
            }
            let mut frames = BytesMut::new();
            for recovered in page.events {
                if recovered.position > self.floor {
                    // Live delivery brings it.
                    return Ok(self.write(frames).then(|| applied.max(self.floor)));
                }
                after = recovered.position;
                self.add(recovered.event, recovered.position, recovered.stored_at, &mut frames);
            }
            if !self.write(frames) {
                return Ok(None);
            }
            if !page.more {
                return Ok(Some(applied.max(after)));
            }
        }
    }

    /// Reads the stream after `reached`, which SQL has; false where it no longer holds that.
    async fn read_stream(&mut self, reached: Position) -> Result<bool, JoinError> {
        if reached.epoch != self.floor.epoch {
            // An epoch ended that SQL has not caught up with: its rest cannot be told from here.
            return Ok(false);
        }
        if !self.stream_holds(reached).await? {
            return Ok(false);
        }
        // A single event may be read from a replica that lags; that the last one was reached shows
        // that none is missing.
        let topics = [self.topic];
        let tails = || self.hub.broker.tails(self.shard, &topics, reached, self.floor);
        let tails = self.insistence.ask(|| tails().map_err(RpcError::from)).await?;
        let Some((_, last)) = tails.changed.first().copied() else { return self.stream_holds(reached).await };
        let (mut after, mut frames) = (reached, BytesMut::new());
        for _ in 0..STREAM_EVENTS {
            match self.next_of(after).await? {
                Some(stored) if stored.position <= self.floor => {
                    after = stored.position;
                    if !stored.is_void() {
                        match Event::decode(&stored.payload) {
                            Ok(event) => self.add(event, stored.position, stored.stored_at, &mut frames),
                            Err(error) => tracing::warn!(position = %stored.position, %error, "event_unreadable"),
                        }
                    }
                    if after.seq < last {
                        continue;
                    }
                }
                Some(_) => {}
                None => {
                    tokio::time::sleep(LAGGING).await;
                    continue;
                }
            }
            // What was evicted while we read may have been ours.
            return Ok(self.stream_holds(reached).await? && self.write(frames));
        }
        Ok(false)
    }

    async fn stream_holds(&self, reached: Position) -> Result<bool, JoinError> {
        let log = self.insistence.ask(|| self.hub.broker.log_state(self.shard).map_err(RpcError::from)).await?;
        Ok(log.epoch == reached.epoch && log.first <= reached.seq + 1)
    }

    async fn next_of(&self, after: Position) -> Result<Option<Stored>, JoinError> {
        Ok(self.insistence.ask(|| self.hub.broker.next_of(self.topic, after).map_err(RpcError::from)).await?)
    }

    fn add(&mut self, event: Event, position: Position, stored_at: Timestamp, frames: &mut BytesMut) {
        let meta = match self.whose {
            Whose::Group { meta, .. } => Some(meta),
            Whose::Inbox => None,
        };
        if let Event::MemberAdded(added) = &event
            && added.user == self.session.user
        {
            self.removed = false;
        }
        let chat = self.session.protocol == Protocol::ChatRoom;
        let encoded = encode_event(event, position, stored_at, meta, chat);
        match encoded.effect {
            Effect::Removed(user) if user == self.session.user && position > self.known => self.removed = true,
            Effect::Joined(joined) => self.session.notice(Notice::Joined(joined)),
            Effect::Left(left) => self.session.notice(Notice::Left(left)),
            Effect::Removed(_) | Effect::None => {}
        }
        let frame = if chat { encoded.chat.filter(|_| encoded.origin != Some(self.session.id)) } else { encoded.v1 };
        if let Some(frame) = frame.filter(|_| position > self.from && !self.removed) {
            wire::put_text(frames, &frame);
            self.written += 1;
        }
    }

    /// False if it is more than a connection may be sent at once.
    fn write(&self, frames: BytesMut) -> bool {
        let fits = self.written <= self.hub.limits.recovery_events && self.session.outlet.has_room_for_missed(frames.len());
        if fits && !frames.is_empty() {
            self.session.outlet.push_missed(&frames.freeze());
        }
        fits
    }
}

/// Tells `session` that what it missed cannot be told.
pub(super) fn say_reset(hub: &Hub, session: &SessionHandle, whose: Whose<'_>) {
    hub.metrics.resets.inc();
    if session.protocol == Protocol::V1 {
        let group = match whose {
            Whose::Group { group, .. } => Some(group),
            Whose::Inbox => None,
        };
        session.outlet.push(&wire::json(&ServerFrame::Reset(ResetFrame { group })), 1);
    }
}
