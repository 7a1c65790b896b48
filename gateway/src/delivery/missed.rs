//! Events of a topic that somebody missed, read once and framed once, for as many as missed them.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use natter_shared::{
    event::{Event, GroupJoined},
    id::{MessageId, SessionId, UserId},
    position::Position,
    timestamp::Timestamp,
};

use super::{
    GroupMeta, Telling,
    encode::{Effect, encode_event},
};
use crate::{
    session::{Notice, Protocol, SessionHandle},
    socket::wire,
};

/// How much is kept of what is read; of more, the newest.
#[derive(Debug, Clone, Copy)]
pub(super) struct MissedLimits {
    pub(super) events: usize,
    /// Of protocol v1's frames alone.
    pub(super) bytes: usize,
}

struct One {
    position: Position,
    v1: Bytes,
    chat: Bytes,
    by: By,
    effect: Effect,
}

/// Which connection said it: the chat-room protocol does not echo.
enum By {
    /// None: it is no message.
    Nobody,
    Connection(SessionId),
    /// The one that sent the message of this id: SQL does not keep which.
    WhoSent(MessageId),
}

impl By {
    fn of(event: &Event) -> Self {
        let Event::Message(message) = event else { return Self::Nobody };
        message.origin.map_or(Self::WhoSent(message.id), Self::Connection)
    }

    fn is(&self, session: &SessionHandle) -> bool {
        match self {
            Self::Nobody => false,
            Self::Connection(id) => *id == session.id,
            Self::WhoSent(message) => session.has_sent((*message).into()),
        }
    }
}

/// Everything of a topic after a position.
pub(super) struct Missed {
    /// From here on it was read.
    start: Position,
    /// From here on the events are kept.
    from: Position,
    events: VecDeque<One>,
    /// Who was removed before that: what is not kept may still end a membership.
    removed: Vec<(Position, UserId)>,
    bytes: usize,
    limits: MissedLimits,
    /// The group, as it is called after the last of them; none of an inbox.
    meta: Option<GroupMeta>,
}

/// What became of it for one session.
pub(super) struct Told {
    /// Everything after the session's position, up to the floor, was written.
    pub(super) complete: bool,
    /// Where its user was removed; nothing after that was written.
    pub(super) ended: Option<Position>,
    /// Anything was.
    pub(super) written: bool,
}

impl Missed {
    pub(super) fn new(from: Position, limits: MissedLimits, meta: Option<GroupMeta>) -> Self {
        Self { start: from, from, events: VecDeque::new(), removed: Vec::new(), bytes: 0, limits, meta }
    }

    /// What is known of the group after it.
    pub(super) fn meta(&self) -> Option<&GroupMeta> {
        self.meta.as_ref()
    }

    /// Adds the next event.
    pub(super) fn push(&mut self, event: Event, position: Position, stored_at: Timestamp) {
        if let (Event::GroupRenamed(renamed), Some(meta)) = (&event, &mut self.meta) {
            meta.rename(&renamed.display_name, position);
        }
        let by = By::of(&event);
        let encoded = encode_event(event, position, stored_at, self.meta.as_ref(), true);
        let framed = |frame: Option<Vec<u8>>| frame.map_or_else(Bytes::new, |frame| wire::text(&frame));
        let one = One { position, v1: framed(encoded.v1), chat: framed(encoded.chat), by, effect: encoded.effect };
        self.bytes += one.v1.len();
        self.events.push_back(one);
        while self.events.len() > self.limits.events || self.bytes > self.limits.bytes {
            let Some(oldest) = self.events.pop_front() else { return };
            self.bytes -= oldest.v1.len();
            self.from = oldest.position;
            if let Effect::Removed(user) = oldest.effect {
                self.removed.push((oldest.position, user));
            }
        }
    }

    /// Whether a membership that is hinted at ended before `floor`: nothing of it is told any more.
    fn ends(&self, joined: &GroupJoined, floor: Position) -> bool {
        let mut hints = self.events.iter().take_while(|one| one.position <= floor);
        hints.any(|one| matches!(&one.effect, Effect::Left(left) if left.group == joined.group && left.until > joined.since))
    }

    /// Bytes that it takes to keep it.
    pub(super) fn cost(&self) -> usize {
        let events = self.events.iter().map(|one| one.v1.len() + one.chat.len() + size_of::<One>());
        events.sum::<usize>() + self.removed.len() * size_of::<(Position, UserId)>()
    }

    /// Writes to `session` what it missed after `from`, up to `floor` or to the end of its user's
    /// membership, which held as of `known`; and what it is to be told of the membership itself. What
    /// hints of its user say, it must be told of.
    pub(super) fn tell(&self, session: &SessionHandle, from: Position, known: Position, floor: Position, telling: &mut Telling) -> Told {
        let chat = session.protocol == Protocol::ChatRoom;
        let removed = self.removed.iter().find(|(at, user)| *user == session.user && *at > known && *at <= floor);
        let mut ended = removed.map(|(at, _)| *at);
        let mut frames = BytesMut::new();
        for one in self.events.iter().take_while(|one| one.position <= floor) {
            if ended.is_some() {
                break;
            }
            match &one.effect {
                Effect::Joined(joined) if self.ends(joined, floor) => continue,
                Effect::Joined(joined) if one.position > from => session.notice(Notice::Joined(joined.clone())),
                Effect::Left(left) if one.position > from => session.notice(Notice::Left(left.clone())),
                Effect::Removed(user) if *user == session.user && one.position > known => ended = Some(one.position),
                Effect::Removed(_) | Effect::Joined(_) | Effect::Left(_) | Effect::None => {}
            }
            if one.position > from && !(chat && one.by.is(session)) {
                frames.extend_from_slice(if chat { &one.chat } else { &one.v1 });
            }
        }
        let kept = self.from <= from || ended.is_some_and(|at| at <= from);
        // Of a membership that is over nothing is told where its beginning is not.
        let is_told = ended.is_none_or(|at| telling.tells(at));
        if !is_told {
            frames.clear();
        }
        let complete = self.start <= from.min(known) && kept && session.outlet.reserve_missed(frames.len());
        let written = complete && is_told && (!telling.is_nothing() || !frames.is_empty());
        if written {
            telling.begin(session);
            if !frames.is_empty() {
                session.outlet.push_missed(&frames.freeze());
            }
        }
        Told { complete, ended, written }
    }
}
