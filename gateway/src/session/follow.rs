//! What notices lead to that takes time: joining groups, recovering what delivery lost. Beside the
//! session's loop, one after another, and only so many.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use natter_shared::{
    event::GroupJoined,
    frame::CloseCode,
    id::GroupId,
    position::Position,
    rpc::TellInboxes,
    subject::{Shard, Topic},
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{
    Notice, SessionHandle,
    membership::{Followed, telling},
    notices::{Notices, TooMany},
    reply::Refusal,
};
use crate::{
    app::App,
    delivery::{GroupMeta, Insistence, JoinError, Start},
};

/// Notices that wait for what the one before them leads to: memberships that follow each other must not
/// overtake. One task works them off while there are any, and is gone afterwards.
#[derive(Default)]
pub(super) struct FollowUps(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    notices: Notices,
    /// Set while a task is at work.
    at_work: AtomicBool,
}

/// Clears `at_work` when the task ends, however it ends.
struct AtWork<'a>(&'a Waiting);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.at_work.store(false, Ordering::SeqCst);
    }
}

impl FollowUps {
    /// Has `work` follow `notice` when it has followed all before.
    pub(super) fn push<Following: Future<Output = ()> + Send>(
        &self,
        tasks: &TaskTracker,
        notice: Notice,
        work: impl Fn(Notice) -> Following + Send + Sync + 'static,
    ) -> Result<(), TooMany> {
        self.0.notices.push(notice)?;
        if !self.0.at_work.swap(true, Ordering::SeqCst) {
            let waiting = Arc::clone(&self.0);
            tasks.spawn(async move {
                loop {
                    let working = AtWork(&waiting);
                    while let Some(notice) = waiting.notices.pop() {
                        work(notice).await;
                    }
                    drop(working);
                    // One that came in between found somebody at work, and began nobody.
                    if waiting.notices.is_empty() || waiting.at_work.swap(true, Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
        Ok(())
    }

    /// Whether nothing waits and nobody is at work, who might begin anew: then nothing is lost with it.
    pub(super) fn are_done(&self) -> bool {
        Arc::strong_count(&self.0) == 1 && self.0.notices.is_empty()
    }
}

impl App {
    /// Does what a notice asks for; a session that cannot is closed, and comes back.
    pub(super) async fn follow(&self, session: &Arc<SessionHandle>, notice: Notice) {
        let followed = match notice {
            // A hint is told again to who resumes, and its membership may be over long since.
            Notice::Joined(joined) if session.was_listed(self.shard_of(joined.group), joined.since) => Ok(()),
            Notice::Joined(joined) => self.begin_joined(session, *joined).await,
            Notice::GroupLost { group, meta, .. } => self.find_again(session, group, &meta).await,
            Notice::InboxLost { after } => self.hear_again(session, after).await,
            Notice::Unlisted => match self.relist(session, None).await {
                // It chats on, and is tried again: that the database is away ends no session.
                Err(refusal) if refusal.code.is_retryable() => {
                    self.list_later(session, self.hub.unheard(session.key));
                    Ok(())
                }
                listed => listed,
            },
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

    async fn begin_joined(&self, session: &Arc<SessionHandle>, joined: GroupJoined) -> Result<(), Refusal> {
        let start = self.start_of(session, joined.group, joined.since).await?;
        let membership = Followed {
            group: joined.group,
            meta: GroupMeta { kind: joined.kind, display_name: joined.display_name.as_str().into(), at: joined.since },
            since: joined.since,
            known: joined.since,
            start,
            telling: telling(session, joined, start),
        };
        match self.go_live(session, &membership).await {
            Ok(_) | Err(JoinError::NotMember(_)) => Ok(()),
            Err(JoinError::TooMany(_)) => {
                self.hub.say_reset(session, membership.group);
                Ok(())
            }
            Err(error @ JoinError::Unavailable(_)) => Err(error.into()),
        }
    }

    async fn hear_again(&self, session: &Arc<SessionHandle>, after: Position) -> Result<(), Refusal> {
        let heard = self.hear(session, after).await;
        if session.is_closed() {
            self.hub.leave_inbox(session.key, session.id).await;
            return Ok(());
        }
        heard?;
        self.relist(session, Some(self.hub.unheard(session.key))).await?;
        // Counts are told once, and not stored.
        let (session, broker) = (Arc::clone(session), Arc::clone(&self.broker));
        self.tasks.spawn(async move {
            let again = TellInboxes { users: vec![session.user.clone()] };
            if let Err(error) = Insistence::of(&session).call(&*broker, again, None).await {
                tracing::info!(session = %session.id, %error, "inbox_counts_not_told_again");
            }
        });
        Ok(())
    }

    async fn hear(&self, session: &Arc<SessionHandle>, after: Position) -> Result<(), Refusal> {
        let own = Topic::User(session.key);
        if Insistence::of(session).ask(|| self.is_stored(own, after, Instant::now())).await? {
            self.hub.join_inbox(session, Start::After(after)).await?;
        } else {
            // A position that was never given out, with which the session heard its user until its sign-in found that.
            let joined = self.hub.join_inbox(session, Start::Now).await?;
            self.hub.declare_inbox(session, joined.position).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use natter_shared::position::Epoch;
    use parking_lot::Mutex;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::session::notices::NOTICES;

    #[tokio::test]
    async fn work_is_done_in_order_and_only_so_much_waits() {
        let (tasks, follow_ups) = (TaskTracker::new(), FollowUps::default());
        let (gate, done) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let push = |number: usize| {
            let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
            let notice = Notice::InboxLost { after: Position::new(Epoch(1), number as u64) };
            follow_ups.push(&tasks, notice, move |notice| {
                let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
                async move {
                    // Never closed: a permit comes.
                    let _ = gate.acquire().await.map(tokio::sync::SemaphorePermit::forget);
                    if let Notice::InboxLost { after } = notice {
                        done.lock().push(after.seq as usize);
                    }
                }
            })
        };
        let until = async |is: &dyn Fn() -> bool| {
            let waited = async {
                while !is() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            assert!(tokio::time::timeout(Duration::from_secs(10), waited).await.is_ok());
        };
        assert!(follow_ups.are_done());
        assert!(push(0).is_ok());
        // That one is at work, and waits no more.
        until(&|| follow_ups.0.notices.is_empty()).await;
        assert!(!follow_ups.are_done(), "what follows it may take long");
        for number in 1..=NOTICES {
            assert!(push(number).is_ok(), "{number}");
        }
        assert!(push(NOTICES + 1).is_err());
        gate.add_permits(1);
        until(&|| done.lock().len() == 1).await;
        // Room again after one has ended, once the next is at work.
        until(&|| push(NOTICES + 1).is_ok()).await;
        gate.add_permits(NOTICES + 1);
        until(&|| done.lock().len() == NOTICES + 2).await;
        assert!(done.lock().iter().copied().eq(0..=NOTICES + 1));
        until(&|| tasks.is_empty()).await;
        assert!(follow_ups.are_done());
        // And nobody is at work until the next comes.
        assert!(push(0).is_ok());
        gate.add_permits(1);
        until(&|| done.lock().len() == NOTICES + 3).await;
    }
}
