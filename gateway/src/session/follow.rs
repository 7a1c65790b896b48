//! What notices lead to that takes time: joining groups, recovering what delivery lost. Beside the
//! session's loop, one after another, and only so many.

use std::sync::Arc;

use natter_shared::{
    frame::CloseCode,
    id::GroupId,
    position::Position,
    subject::{Shard, Topic},
};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::{Notice, SessionHandle, handle::NOTICES, membership::Followed, reply::Refusal};
use crate::{
    app::App,
    delivery::{GroupMeta, JoinError, Start, Telling},
};

/// Work that waits for the work before it: memberships that follow each other must not overtake.
pub(super) struct FollowUps {
    last: Option<JoinHandle<()>>,
    /// Held by all that has not ended, however it ends.
    pending: Arc<()>,
}

/// So much waits that the session cannot be up to date for long.
#[derive(Debug)]
pub(super) struct TooMany;

impl FollowUps {
    pub(super) fn new() -> Self {
        Self { last: None, pending: Arc::default() }
    }

    /// Begins `work` when all before it has ended.
    pub(super) fn push(&mut self, tasks: &TaskTracker, work: impl Future<Output = ()> + Send + 'static) -> Result<(), TooMany> {
        // One of the holders is ourselves.
        if Arc::strong_count(&self.pending) > NOTICES {
            return Err(TooMany);
        }
        let pending = Arc::clone(&self.pending);
        let before = self.last.take().filter(|before| !before.is_finished());
        self.last = Some(tasks.spawn(async move {
            if let Some(before) = before {
                // How it ended is its own affair.
                let _ = before.await;
            }
            work.await;
            drop(pending);
        }));
        Ok(())
    }
}

impl App {
    /// Does what a notice asks for; a session that cannot is closed, and comes back.
    pub(super) async fn follow(&self, session: &Arc<SessionHandle>, notice: Notice) {
        let followed = match notice {
            // A hint is told again to who resumes, and its membership may be over long since.
            Notice::Joined(joined) if session.was_listed(self.shard_of(joined.group), joined.since) => Ok(()),
            Notice::Joined(joined) => {
                let membership = Followed {
                    group: joined.group,
                    meta: GroupMeta { kind: joined.kind, display_name: joined.display_name.as_str().into() },
                    since: joined.since,
                    known: joined.since,
                    start: session.start_of(self.shard_of(joined.group), joined.group, joined.since),
                    telling: Telling::all(session, *joined),
                };
                match self.go_live(session, &membership).await {
                    Ok(_) | Err(JoinError::NotMember(_) | JoinError::TooMany(_)) => Ok(()),
                    Err(error @ JoinError::Unavailable(_)) => Err(Refusal::from(error)),
                }
            }
            Notice::GroupLost { group, meta, .. } => self.find_again(session, group, &meta).await,
            Notice::InboxLost { after } => self.hear_again(session, after).await,
            // Done with when it came.
            Notice::Left(_) => Ok(()),
        };
        if let Err(refusal) = followed {
            // What cannot be proved complete is not left half done: the session comes back.
            tracing::info!(session = %session.id, reason = refusal.message, "session_cannot_follow");
            session.outlet.close(CloseCode::TryAgain);
        }
    }

    fn shard_of(&self, group: GroupId) -> Shard {
        self.broker.shards().of(Topic::Group(group))
    }

    async fn hear_again(&self, session: &Arc<SessionHandle>, after: Position) -> Result<(), Refusal> {
        self.hub.join_inbox(session, Start::After(after)).await?;
        if session.is_closed() {
            self.hub.leave_inbox(session).await;
            return Ok(());
        }
        self.relist(session).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn work_is_done_in_order_and_only_so_much_waits() {
        let (tasks, mut follow_ups) = (TaskTracker::new(), FollowUps::new());
        let (gate, done) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let work = |number: usize| {
            let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
            async move {
                // Never closed: a permit comes.
                let _ = gate.acquire().await.map(tokio::sync::SemaphorePermit::forget);
                done.lock().push(number);
            }
        };
        for number in 0..NOTICES {
            assert!(follow_ups.push(&tasks, work(number)).is_ok(), "{number}");
        }
        assert!(follow_ups.push(&tasks, work(NOTICES)).is_err());
        gate.add_permits(1);
        let room = async {
            while Arc::strong_count(&follow_ups.pending) > NOTICES {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(10), room).await.is_ok(), "room again after one has ended");
        assert!(follow_ups.push(&tasks, work(NOTICES)).is_ok());
        gate.add_permits(NOTICES);
        tasks.close();
        tasks.wait().await;
        assert!(done.lock().iter().copied().eq(0..=NOTICES));
    }
}
