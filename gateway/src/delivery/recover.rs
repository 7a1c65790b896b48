//! Brings a session up to where delivery reaches it: what it missed is written, or `reset` said
//! explicitly, and whether its user was removed meanwhile is looked for.

use std::{sync::Arc, time::Duration};

use natter_shared::{
    id::GroupId,
    position::Position,
    rpc::{AwaitApplied, FindMembership, ShardPosition},
    subject::Topic,
};

use super::{
    GroupMeta, Insistence, JoinError, Start, Telling, encode::encode_reset, flights, hub::Hub, join::say_left, missed::Missed,
    read::Reading,
};
use crate::{
    session::{Protocol, SessionHandle},
    socket::wire,
};

/// Before what could not be read is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Whose events.
pub(super) enum Whose {
    /// A group's, of which so much is known.
    Group { group: GroupId, meta: GroupMeta },
    /// The session's user's own.
    Inbox,
}

impl Whose {
    /// The group; none is the inbox.
    pub(super) fn group(&self) -> Option<GroupId> {
        match self {
            Self::Group { group, .. } => Some(*group),
            Self::Inbox => None,
        }
    }

    /// What is known of the group.
    pub(super) fn meta(&self) -> Option<&GroupMeta> {
        match self {
            Self::Group { meta, .. } => Some(meta),
            Self::Inbox => None,
        }
    }

    fn learn(&mut self, newer: Option<&GroupMeta>) {
        if let (Self::Group { meta, .. }, Some(newer)) = (self, newer) {
            meta.learn(newer);
        }
    }
}

/// What came of it.
pub(super) struct Recovered {
    /// Everything up to the floor was written; else `reset` was.
    pub(super) complete: bool,
    /// Anything was.
    pub(super) written: bool,
}

/// Writes to `session` what it missed between `start` and `floor`, and looks whether its user was
/// removed from the group between `known` and `floor`.
pub(super) async fn recover(
    hub: &Arc<Hub>,
    insistence: &Insistence<'_>,
    whose: &mut Whose,
    start: Start,
    known: Position,
    floor: Position,
    telling: &mut Telling,
) -> Result<Recovered, JoinError> {
    let session = insistence.session();
    let from = match start {
        Start::Now => floor,
        Start::After(position) => position,
    };
    let read = async || match &*whose {
        Whose::Group { group, meta } => flights::missed(hub, *group, meta, from.min(known), floor).await,
        Whose::Inbox => read_inbox(hub, session, from, floor).await,
    };
    // Nothing was written yet, so all of it may be asked again.
    let missed = loop {
        match read().await {
            Err(JoinError::Unavailable(_)) if insistence.goes_on() => tokio::time::sleep(ASK_AGAIN).await,
            read => break read?,
        }
    };
    whose.learn(missed.as_ref().and_then(|missed| missed.meta()));
    let group = whose.group();
    let known = if group.is_some() { known } else { floor };
    let told = missed.map(|missed| missed.tell(session, from, known, floor, telling)).filter(|told| told.complete);
    match (told, group) {
        (Some(told), Some(group)) if let Some(at) = told.ended => Err(end(session, group, at, telling)),
        (Some(told), _) => Ok(Recovered { complete: true, written: told.written }),
        // Who wants only what comes next has missed nothing.
        (None, Some(group)) if from >= floor => {
            let ended = ended(hub, insistence, (group, whose), known, floor).await?;
            ended.map_or(Ok(Recovered { complete: true, written: false }), |at| Err(end(session, group, at, telling)))
        }
        (None, _) => {
            declare(hub, insistence, whose, known, floor, telling).await?;
            Ok(Recovered { complete: false, written: true })
        }
    }
}

/// Says `reset` of what the session missed up to `floor`, and cannot be told. Who loads it anew then gets all of it, for SQL has
/// come so far. Of the inbox of who signs in, `ready` says it with the position, and waits for nothing.
pub(super) async fn declare(
    hub: &Hub,
    insistence: &Insistence<'_>,
    whose: &mut Whose,
    known: Position,
    floor: Position,
    telling: &mut Telling,
) -> Result<(), JoinError> {
    let session = insistence.session();
    let Some(group) = whose.group() else {
        if session.outlet.is_released() {
            let shard = hub.broker.shards().of(Topic::User(session.key));
            insistence.call(&*hub.broker, AwaitApplied {}, Some(ShardPosition { shard: shard.0, position: floor })).await?;
        }
        say_reset(hub, session, None);
        return Ok(());
    };
    let ended = ended(hub, insistence, (group, whose), known, floor).await?;
    if ended.is_none_or(|at| telling.tells(at)) {
        telling.begin(session);
        say_reset(hub, session, Some(group));
    }
    ended.map_or(Ok(()), |at| Err(end(session, group, at, telling)))
}

/// Where the membership that held as of `known` had ended by `floor`, as SQL knows: what could not be told may have been the
/// user's removal.
async fn ended(
    hub: &Hub,
    insistence: &Insistence<'_>,
    (group, whose): (GroupId, &mut Whose),
    known: Position,
    floor: Position,
) -> Result<Option<Position>, JoinError> {
    let call = FindMembership { user: insistence.session().user.clone(), group };
    let shard = hub.broker.shards().of(Topic::Group(group));
    let answer = insistence.call(&*hub.broker, call, Some(ShardPosition { shard: shard.0, position: floor })).await?;
    let known_now = answer.reply.as_ref().map(|member| GroupMeta::of(member, answer.applied(shard)));
    whose.learn(known_now.as_ref());
    Ok(match &answer.reply {
        None => Some(answer.applied(shard)),
        // This one is another, which is told by itself.
        Some(member) if member.since > known => Some(before(member.since)),
        Some(_) => None,
    })
}

/// The membership is over; where it is told at all, its end is.
fn end(session: &SessionHandle, group: GroupId, at: Position, telling: &mut Telling) -> JoinError {
    if telling.tells(at) {
        telling.begin(session);
        say_left(session, group, at);
    }
    JoinError::NotMember(at)
}

/// The position before `position`.
fn before(position: Position) -> Position {
    Position::new(position.epoch, position.seq.saturating_sub(1))
}

async fn read_inbox(hub: &Hub, session: &SessionHandle, from: Position, floor: Position) -> Result<Option<Arc<Missed>>, JoinError> {
    let (topic, user) = (Topic::User(session.key), Some(session.user.clone()));
    let _place = hub.recoveries.begin(hub.broker.shards().of(topic)).await?;
    hub.metrics.recoveries.inc();
    let missed = Reading { hub, topic, group: None, user, from, floor }.run().await?;
    Ok(missed.map(Arc::new))
}

/// Tells `session` that what it missed cannot be told.
pub(super) fn say_reset(hub: &Hub, session: &SessionHandle, group: Option<GroupId>) {
    hub.metrics.resets.inc();
    if session.protocol == Protocol::V1
        && let Some(frame) = encode_reset(group)
    {
        session.outlet.push(&wire::text(&frame), 1);
    }
}
