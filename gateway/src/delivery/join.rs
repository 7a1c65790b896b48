//! What is asked of a topic's task, and what it answers.

use std::sync::Arc;

use natter_shared::{event::GroupKind, position::Position, rpc::RpcError};
use tokio::sync::oneshot;

use crate::session::SessionHandle;

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
}

/// A session wants to be a member.
pub(super) struct Join {
    pub(super) session: Arc<SessionHandle>,
    pub(super) start: Start,
    /// The session's user is known to be a member as of here; a removal after it must be looked for.
    pub(super) known: Position,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// What a topic's task says to [`Join`].
#[derive(Debug)]
pub(super) enum Answer {
    /// Delivery is live from here.
    Live(Position),
    /// What was asked lies before the ring's floor: recover up to it, then ask again.
    Behind(Position),
    /// More was missed than the connection may be sent at once.
    TooMuch,
    /// The user was removed after `known`.
    NotMember,
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

/// Why a session did not become a member of a topic's delivery.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Removed meanwhile.
    #[error("no member any more")]
    NotMember,
    /// The connection has as many groups as it may.
    #[error("a connection has at most {0} groups")]
    TooMany(usize),
    /// Something behind is away.
    #[error("{0}")]
    Unavailable(String),
}

impl From<RpcError> for JoinError {
    fn from(error: RpcError) -> Self {
        if error.code == natter_shared::frame::ErrorCode::NotFound { Self::NotMember } else { Self::Unavailable(error.message) }
    }
}
