//! From what a client asks to a stored event, the same way over socket and HTTP: a [`Draft`] says
//! what is to be stored and under which id, [`accept`] gets it stored once, [`intake`] says whether its
//! shard takes it, [`patience`] tries again while the broker is away, [`mark()`] stores a user's own marks and waits until SQL shows them.

mod draft;
mod intake;
mod mark;
mod once;
mod patience;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests;

pub(crate) use draft::check_body;
pub use draft::{Draft, Said};
pub use intake::Intake;
pub use mark::{mark, wait_until_applied};
pub use once::accept;
pub use patience::{PublishError, publish};

use std::time::Duration;

use natter_shared::{frame::ErrorCode, rpc::RpcError};

/// Why something was not stored, as its sender is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NotAccepted {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// When another try may be worth it, where that is known.
    pub retry_after: Option<Duration>,
}

impl NotAccepted {
    /// With a code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// The id stands for something else already.
    pub fn nonce_reused() -> Self {
        Self::new(ErrorCode::NonceReused, "this nonce or idempotency key was used for something else")
    }
}

impl From<RpcError> for NotAccepted {
    fn from(error: RpcError) -> Self {
        Self::new(error.code, error.message)
    }
}

impl From<PublishError> for NotAccepted {
    fn from(error: PublishError) -> Self {
        Self { retry_after: error.retry_after(), ..Self::new(error.code(), error.to_string()) }
    }
}
