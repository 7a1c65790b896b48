//! What is asked of a topic's task, and what it answers.

use std::sync::Arc;

use bytes::Bytes;
use natter_shared::{
    event::{GroupJoined, GroupKind},
    id::GroupId,
    position::Position,
    rpc::{Membership, RpcError},
};
use tokio::sync::oneshot;

use super::encode::{encode_joined, encode_left};
use crate::{
    session::{Protocol, SessionHandle},
    socket::wire,
};

/// Where a member's delivery starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With what comes next.
    Now,
    /// With everything after a position.
    After(Position),
}

/// What delivery must know of a group to encode its frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMeta {
    /// The group's kind.
    pub kind: GroupKind,
    /// What people see.
    pub display_name: Arc<str>,
    /// As of here.
    pub at: Position,
}

impl GroupMeta {
    /// The group of `membership`, as SQL has it at `at`.
    pub fn of(membership: &Membership, at: Position) -> Self {
        Self { kind: membership.kind, display_name: membership.display_name.as_str().into(), at }
    }

    /// Takes what `other` says, if that is newer. A one-to-one group keeps its name, of which each of its two has one.
    pub(super) fn learn(&mut self, other: &Self) {
        if self.at < other.at && self.kind != GroupKind::Single {
            *self = other.clone();
        }
    }

    /// The group is renamed at `at`, unless a later name is known.
    pub(super) fn rename(&mut self, display_name: &str, at: Position) {
        if self.at < at {
            (self.display_name, self.at) = (display_name.into(), at);
        }
    }
}

/// What a session is told of its membership itself, beside what the group has: in the group's own
/// order, so before the first of it and after the last.
#[derive(Debug, Clone)]
pub enum Telling {
    /// Nothing: what it asked for is answered. If the membership is over, nothing of it is told.
    Nothing,
    /// Its end.
    End,
    /// Its beginning, by a frame, and its end.
    All {
        /// The beginning.
        frame: Bytes,
        /// Where it is told to be, as the client goes on after it: the client knows of an end up to here.
        after: Position,
    },
}

impl Telling {
    /// Of a membership that `session` has not heard of, and whose messages after `after` it is told.
    pub fn all(session: &SessionHandle, joined: GroupJoined, after: Position) -> Self {
        match session.protocol {
            Protocol::V1 => encode_joined(joined, after).map_or(Self::End, |frame| Self::All { frame: wire::text(&frame), after }),
            Protocol::ChatRoom => Self::End,
        }
    }

    /// Tells the beginning, unless that was done.
    pub(super) fn begin(&mut self, session: &SessionHandle) {
        if let Self::All { frame, .. } = self {
            session.outlet.push(frame, 1);
            *self = Self::End;
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// Whether anything is told of a membership that ended at `end`: begun anew, it would stay for who knows of that end.
    pub(super) fn tells(&self, end: Position) -> bool {
        match self {
            Self::Nothing => false,
            Self::End => true,
            Self::All { after, .. } => end > *after,
        }
    }

    /// Whether it is still to be found out if the membership had ended by where its beginning is told to be: it held as of `known`,
    /// and delivery has come to `reached`.
    pub(super) fn is_open(&self, known: Position, reached: Position) -> bool {
        matches!(self, Self::All { after, .. } if *after > known && *after > reached)
    }
}

/// Tells `session` that its user's membership ended with the group's event at `at`.
pub(super) fn say_left(session: &SessionHandle, group: GroupId, at: Position) {
    if session.protocol == Protocol::V1
        && let Some(frame) = encode_left(group, session.user.clone(), at)
    {
        session.outlet.push(&wire::text(&frame), 1);
    }
}

/// A session wants to be a member.
pub(super) struct Join {
    pub(super) session: Arc<SessionHandle>,
    /// What the session knows of the group; none of an inbox.
    pub(super) meta: Option<GroupMeta>,
    pub(super) start: Start,
    /// The session's user is known to be a member as of here; a removal after it must be looked for.
    pub(super) known: Position,
    pub(super) telling: Telling,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// What a topic's task says to [`Join`].
#[derive(Debug)]
pub(super) enum Answer {
    /// Delivery is live from here.
    Live(Position),
    /// What was asked lies before the ring's floor: recover up to it, then ask again.
    Behind(Position),
    /// More was missed, up to here, than the connection may be sent at once.
    TooMuch(Position),
    /// The user was removed after `known`, by the event here.
    NotMember(Position),
    /// The topic cannot be followed now.
    Unavailable(String),
}

/// Delivery is live.
#[derive(Debug, Clone, Copy)]
pub struct Joined {
    /// What was asked: everything after this was written, if complete.
    pub start: Position,
    /// Everything after this follows.
    pub position: Position,
    /// What was missed since the asked position was written, in full.
    pub complete: bool,
}

impl Joined {
    /// Where the client is told that it goes on: what was recovered may reach it before this does, or after, or not at all
    /// where the connection breaks.
    pub fn told(&self) -> Position {
        if self.complete { self.start } else { self.position }
    }
}

/// Why a session did not become a member of a topic's delivery.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Removed meanwhile: the membership ended here, or before where that cannot be known.
    #[error("no member any more")]
    NotMember(Position),
    /// The connection has as many groups as it may.
    #[error("a connection has at most {0} groups")]
    TooMany(usize),
    /// Something behind is away.
    #[error("{0}")]
    Unavailable(String),
}

impl From<RpcError> for JoinError {
    fn from(error: RpcError) -> Self {
        Self::Unavailable(error.message)
    }
}
