//! How a session answers: each request of protocol v1 gets exactly one `reply` or `error` with its
//! id; the chat-room protocol hears of mistakes only.

use natter_shared::{
    frame::{ErrorCode, ErrorFrame, Reply, ReplyBody, ServerFrame},
    rpc::RpcError,
};
use serde::Serialize;

use super::{Protocol, SessionHandle};
use crate::{delivery::JoinError, publish::NotAccepted, socket::wire};

/// Why a request is not done, as the client is told.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) message: String,
    pub(super) retry_after_ms: Option<u64>,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let retry_after_ms = code.is_retryable().then_some(500);
        Self { code, message: message.into(), retry_after_ms }
    }

    /// The session was told to leave.
    pub(super) fn draining() -> Self {
        Self::new(ErrorCode::Draining, "this gateway is shutting down: try again elsewhere")
    }

    /// Absent and forbidden look alike.
    pub(super) fn no_such_group() -> Self {
        Self::new(ErrorCode::NotFound, "no such group")
    }
}

impl From<RpcError> for Refusal {
    fn from(error: RpcError) -> Self {
        Self::new(error.code, error.message)
    }
}

impl From<NotAccepted> for Refusal {
    fn from(error: NotAccepted) -> Self {
        let known = error.retry_after.map(|after| after.as_millis() as u64);
        let refusal = Self::new(error.code, error.message);
        Self { retry_after_ms: known.or(refusal.retry_after_ms), ..refusal }
    }
}

impl From<JoinError> for Refusal {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::NotMember(_) => Self::no_such_group(),
            JoinError::TooMany(_) => Self::new(ErrorCode::TooManyGroups, error.to_string()),
            JoinError::Unavailable(reason) => Self::new(ErrorCode::Unavailable, reason),
        }
    }
}

#[derive(Serialize)]
struct ChatError<'a> {
    r#type: &'static str,
    code: ErrorCode,
    message: &'a str,
}

impl SessionHandle {
    /// Writes a frame of protocol v1.
    pub(super) fn tell(&self, frame: &ServerFrame) {
        self.outlet.push(&wire::json(frame), 1);
    }

    /// Answers a request; one without an id hears of mistakes only.
    pub(super) fn answer(&self, id: Option<u32>, outcome: Result<ReplyBody, Refusal>) {
        match (outcome, self.protocol) {
            (Ok(body), Protocol::V1) => {
                if let Some(id) = id {
                    self.tell(&ServerFrame::Reply(Reply { id, body }));
                }
            }
            (Ok(_), Protocol::ChatRoom) => {}
            (Err(refusal), Protocol::V1) => self.tell(&ServerFrame::Error(ErrorFrame {
                retry_after_ms: refusal.retry_after_ms,
                ..ErrorFrame::new(id, refusal.code, refusal.message)
            })),
            (Err(refusal), Protocol::ChatRoom) => {
                let frame = ChatError { r#type: "error", code: refusal.code, message: &refusal.message };
                self.outlet.push(&wire::json(&frame), 1);
            }
        }
    }
}
