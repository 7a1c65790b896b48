//! Notices that wait: for a session's loop, or for what one before them leads to. Bounded, and nothing
//! while there is none.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Notice;

/// Notices that wait at most; a session that lags behind so far is closed.
pub(super) const NOTICES: usize = 1024;

/// So much waits that the session cannot be up to date for long.
#[derive(Debug)]
pub(super) struct TooMany;

/// Notices in their order.
#[derive(Debug, Default)]
pub(super) struct Notices {
    queue: Mutex<VecDeque<Notice>>,
    pushed: Notify,
}

impl Notices {
    /// Appends one.
    pub(super) fn push(&self, notice: Notice) -> Result<(), TooMany> {
        let mut queue = self.queue.lock();
        if queue.len() >= NOTICES {
            return Err(TooMany);
        }
        queue.push_back(notice);
        drop(queue);
        self.pushed.notify_one();
        Ok(())
    }

    /// The first, if there is one.
    pub(super) fn pop(&self) -> Option<Notice> {
        let mut queue = self.queue.lock();
        let first = queue.pop_front();
        if queue.is_empty() {
            // An idle session keeps no queue.
            *queue = VecDeque::new();
        }
        first
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.lock().is_empty()
    }

    /// Waits for the first. Cancel-safe; of one waiter at a time.
    pub(super) async fn next(&self) -> Notice {
        loop {
            if let Some(notice) = self.pop() {
                return notice;
            }
            self.pushed.notified().await;
        }
    }
}
