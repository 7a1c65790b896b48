//! What bounds a call of many, and its answer.

use natter_shared::{
    frame::ErrorCode,
    rpc::{MANY, RpcError},
};

/// Bytes of an answer to many, about. NATS takes up to 1 MB.
const ANSWER_BYTES: usize = 512 * 1024;

/// Refuses more than one call may ask for.
pub(super) fn check<T>(all: &[T]) -> Result<(), RpcError> {
    if all.len() > MANY {
        return Err(RpcError::new(ErrorCode::TooLarge, format!("more than {MANY} in one call")));
    }
    Ok(())
}

/// What an answer still has room for; who does not fit asks alone.
pub(super) struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(ANSWER_BYTES)
    }
}

impl Room {
    /// Whether so many bytes fit; if so they are taken.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_takes_no_room() {
        let mut room = Room::default();
        assert!(room.take(ANSWER_BYTES - 10));
        assert!(!room.take(11));
        assert!(room.take(10));
        assert!(!room.take(1));
    }
}
