//! What a session has begun and not answered yet: bounded, waited for when the session is told to leave, and given back
//! however it ends.

use std::{panic::AssertUnwindSafe, sync::Arc, sync::atomic::Ordering};

use futures::FutureExt;
use natter_shared::frame::{CloseCode, ErrorCode, ReplyBody};

use super::{SessionHandle, reply::Refusal};
use crate::{app::App, limit::Limit, metrics::Busy};

/// Something begun for a session; dropped, it counts as answered.
pub(super) struct Work {
    session: Arc<SessionHandle>,
    /// Whether it takes a place of `limits.in_flight_sends`.
    in_window: bool,
}

impl Work {
    /// Answers it. Its place is free before the client can know of the answer.
    pub(super) fn answer(mut self, id: Option<u32>, outcome: Result<ReplyBody, Refusal>) {
        self.leave_window();
        self.session.answer(id, outcome);
    }

    fn leave_window(&mut self) {
        if std::mem::take(&mut self.in_window) {
            self.session.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.leave_window();
        self.session.unanswered.fetch_sub(1, Ordering::SeqCst);
    }
}

impl SessionHandle {
    /// Begins something that is answered before the session is closed by [`crate::drain`]; refused once it was told to leave, and
    /// where as much is under way as may be.
    pub(super) fn begin(self: &Arc<Self>, app: &App) -> Result<Work, Refusal> {
        // In the opposite order to `leave`: one of the two sees the other.
        self.unanswered.fetch_add(1, Ordering::SeqCst);
        let under_way = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let work = Work { session: Arc::clone(self), in_window: true };
        if self.is_leaving() {
            return Err(Refusal::draining());
        }
        if under_way >= app.config.limits.in_flight_sends {
            app.metrics.refused(Limit::InFlightSends);
            app.metrics.busy(Busy::Connection);
            return Err(Refusal::new(ErrorCode::Busy, "too many requests in flight"));
        }
        Ok(work)
    }

    /// What `work` comes to. Where it panics, a defect of ours that the log tells of, nothing, and the session is closed and comes
    /// back: it begins nothing more until then.
    pub(super) async fn or_close<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let done = AssertUnwindSafe(work).catch_unwind().await;
        if done.is_err() {
            self.leave();
            self.outlet.close(CloseCode::TryAgain);
        }
        done.ok()
    }
}
