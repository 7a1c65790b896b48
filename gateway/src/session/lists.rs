//! Lists of a user's groups after the one of its sign-in: further pages of that, and those that SQL made too early.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use natter_shared::{
    rpc::{self, Groups},
    subject::Topic,
};

use super::{SessionHandle, handle::Notice, open::GROUPS_PAGE, reply::Refusal};
use crate::{
    app::App,
    delivery::{Insistence, JoinError, Unheard},
};

/// Before it is looked again whether SQL knows of all groups of a user: at first, and at most.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const LOOK_AGAIN_AT_MOST: Duration = Duration::from_secs(5);

/// While further pages of a session's groups are told.
pub(super) struct Paging(Arc<SessionHandle>);

impl Paging {
    pub(super) fn begin(session: Arc<SessionHandle>) -> Self {
        session.has_pages.store(true, Ordering::SeqCst);
        Self(session)
    }
}

impl Drop for Paging {
    fn drop(&mut self) {
        self.0.has_pages.store(false, Ordering::SeqCst);
        self.0.join_ended.notify_waiters();
    }
}

impl SessionHandle {
    /// Waits until no page of its groups is still to be told.
    pub(super) async fn until_listed(&self) {
        loop {
            let ended = self.join_ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !self.has_pages.load(Ordering::SeqCst) {
                return;
            }
            ended.await;
        }
    }

    /// Its groups are to be listed once more, behind this; false where they were to be already.
    fn begin_list(&self, unheard: Unheard) -> bool {
        // A later one has all of an earlier one in it.
        self.unheard.lock().replace(Box::new(unheard)).is_none()
    }

    /// Has them listed if that `is_whole` now.
    fn list_if(&self, is_whole: impl Fn(&Unheard) -> bool) -> bool {
        let listed = self.unheard.lock().take_if(|unheard| is_whole(unheard));
        if listed.is_some() {
            self.notice(Notice::Unlisted);
        }
        listed.is_some()
    }
}

impl App {
    /// Has the session list its user's groups once more when SQL knows of all that was `unheard`: a shard that lags ends nobody's
    /// session.
    pub(super) fn list_later(&self, session: &Arc<SessionHandle>, unheard: Unheard) {
        if !session.begin_list(unheard) {
            return;
        }
        let (hub, closing, session) = (Arc::clone(&self.hub), self.closing.clone(), Arc::downgrade(session));
        self.tasks.spawn(async move {
            let mut pause = LOOK_AGAIN;
            // Who is about to be told to leave needs no list.
            while closing.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                let Some(session) = session.upgrade().filter(|session| !session.is_closed()) else { return };
                if session.list_if(|unheard| hub.has_listed_all(unheard, None)) {
                    return;
                }
                pause = (pause * 2).min(LOOK_AGAIN_AT_MOST);
            }
        });
    }

    /// Lists the user's groups anew, and goes live in those that the session was never told of: hints may have been missed, and SQL
    /// keeps none. Those of its sign-in it was told of, or a page that is under way tells it where it goes on in them; that
    /// one has ended, the group's own order says. Where SQL may not know yet of all that was `unheard`, they are listed once more
    /// when it does.
    pub(super) async fn relist(&self, session: &Arc<SessionHandle>, mut unheard: Option<Unheard>) -> Result<(), Refusal> {
        let mut after = None;
        loop {
            let call = Groups { user: session.user.clone(), after, limit: GROUPS_PAGE };
            let answer = Insistence::of(session).call(&*self.broker, call, None).await?;
            let applied = answer.applied;
            if let Some(unheard) = unheard.take_if(|unheard| !self.hub.has_listed_all(unheard, Some(&applied))) {
                self.list_later(session, unheard);
            }
            for membership in answer.reply.groups {
                let group = membership.group;
                after = Some(group);
                let shard = self.broker.shards().of(Topic::Group(group));
                if session.was_listed(shard, membership.since)
                    || session.groups.lock().get(&group).is_some_and(|live| live.since >= membership.since)
                {
                    continue;
                }
                let followed = self.found(session, &membership, rpc::applied_in(&applied, shard)).await?;
                match self.go_live(session, &followed).await {
                    Ok(_) | Err(JoinError::NotMember(_)) => {}
                    Err(JoinError::TooMany(_)) => self.hub.say_reset(session, group),
                    Err(error @ JoinError::Unavailable(_)) => return Err(error.into()),
                }
            }
            if !answer.reply.more {
                return Ok(());
            }
        }
    }
}
