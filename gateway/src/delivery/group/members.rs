//! Who is a member of a group's delivery, and how one comes and goes.

use std::sync::Arc;

use bytes::Bytes;
use natter_shared::{frame::CloseCode, id::SessionId, position::Position};
use tokio::time::Instant;

use super::GroupTask;
use crate::{
    delivery::{
        Start,
        join::{Answer, Join, say_left},
    },
    session::{Lost, Notice, Protocol, SessionHandle},
};

/// A member. Its id stands beside it, so that looking for one goes through memory in order.
pub(super) struct Member {
    id: SessionId,
    pub(super) session: Arc<SessionHandle>,
}

impl From<Arc<SessionHandle>> for Member {
    fn from(session: Arc<SessionHandle>) -> Self {
        Self { id: session.id, session }
    }
}

/// A member whose position lies ahead of what was delivered here.
pub(super) struct Ahead {
    pub(super) position: Position,
    /// Its user was a member as of here.
    pub(super) known: Position,
    pub(super) session: Arc<SessionHandle>,
}

impl GroupTask {
    pub(super) fn on_join(&mut self, join: Join) {
        let Join { session, meta, start, known, mut telling, answer } = join;
        if answer.is_closed() {
            return;
        }
        if let Some(meta) = meta {
            self.meta.learn(&meta);
        }
        if let Some(answered) = self.is_member(&session) {
            let _ = answer.send(Answer::Live(answered));
            return;
        }
        let floor = self.ring.floor();
        let chat = session.protocol == Protocol::ChatRoom;
        let start = match start {
            // Delivery here may be behind where the membership began.
            Start::Now => self.cursor.0.max(known),
            Start::After(position) => position,
        };
        let floor = if chat && start < self.cursor.0 { floor.max(self.chat_floor) } else { floor };
        let removal = self.ring.after(known).find(|entry| entry.removed.as_ref() == Some(&session.user));
        let ended = removal.map(|entry| entry.position);
        if let Some(at) = ended
            && !telling.tells(at)
        {
            // Before what lies below the floor is read: nothing of it may be told.
            let _ = answer.send(Answer::NotMember(at));
            return;
        }
        if start < floor || known < floor {
            // Nothing is kept before the floor; only the ring's end may be asked of it.
            let asked = if start < floor { floor } else { self.ring.floor() };
            let _ = answer.send(Answer::Behind(asked));
            return;
        }
        if telling.is_open(known, self.cursor.0) {
            // It is read up to there, by who asks.
            let _ = answer.send(Answer::Behind(start));
            return;
        }
        let missed = || {
            let missed = self.ring.after(start).take_while(|entry| ended.is_none_or(|at| entry.position <= at));
            let told = missed.filter(|entry| !chat || entry.origin != Some(session.id));
            told.map(|entry| if chat { &entry.chat } else { &entry.v1 }).filter(|frames| !frames.is_empty())
        };
        if !session.outlet.reserve_missed(missed().map(Bytes::len).sum()) {
            let _ = answer.send(Answer::TooMuch(self.cursor.0));
            return;
        }
        telling.begin(&session);
        missed().for_each(|frames| session.outlet.push_missed(frames));
        if let Some(at) = ended {
            say_left(&session, self.group, at);
            let _ = answer.send(Answer::NotMember(at));
            return;
        }
        if chat {
            self.chat_members += 1;
        }
        if start > self.cursor.0 {
            if answer.send(Answer::Live(start)).is_ok() {
                self.ahead.push(Ahead { position: start, known, session });
            } else if chat {
                self.chat_members -= 1;
            }
            return;
        }
        if answer.send(Answer::Live(start)).is_ok() {
            self.members.push(session.into());
        } else if chat {
            self.chat_members -= 1;
        }
    }

    /// Where a session that is a member already is live from: nothing is written to it again.
    pub(super) fn is_member(&self, session: &SessionHandle) -> Option<Position> {
        let ahead = self.ahead.iter().find(|ahead| ahead.session.id == session.id);
        let member = || self.members.iter().any(|member| member.id == session.id).then_some(self.cursor.0);
        ahead.map(|ahead| ahead.position).or_else(member)
    }

    /// Removes the session of this id.
    pub(super) fn leave(&mut self, id: SessionId) {
        match self.members.iter().position(|member| member.id == id) {
            Some(place) => {
                let member = self.members.swap_remove(place);
                self.have_gone(&[member.session]);
            }
            None => drop(self.remove(|_| false, |ahead| ahead.session.id == id)),
        }
    }

    /// Removes members, and those ahead, by what they are; returns who was one.
    pub(super) fn remove(&mut self, which: impl Fn(&SessionHandle) -> bool, ahead: impl Fn(&Ahead) -> bool) -> Vec<Arc<SessionHandle>> {
        let members = self.members.extract_if(.., |member| which(&member.session)).map(|member| member.session);
        let ahead = self.ahead.extract_if(.., |waiting| ahead(waiting)).map(|waiting| waiting.session);
        let gone: Vec<_> = members.chain(ahead).collect();
        self.have_gone(&gone);
        gone
    }

    fn have_gone(&mut self, gone: &[Arc<SessionHandle>]) {
        let chat = gone.iter().filter(|session| session.protocol == Protocol::ChatRoom).count();
        self.chat_members = self.chat_members.saturating_sub(chat);
        if self.is_empty() {
            self.empty_since = Instant::now();
        }
    }

    /// Ends everybody's delivery here, who were members as of `known`: whether they still are, each
    /// finds out anew, and goes on with what comes after the cursor.
    pub(super) fn release_all(&mut self, known: Position) {
        let (group, meta, after) = (self.group, self.meta.clone(), self.cursor.0);
        for session in self.remove(|_| true, |_| false) {
            session.notice(Notice::GroupLost { group, meta: meta.clone(), lost: Lost { after, known } });
        }
        for Ahead { position, known, session } in std::mem::take(&mut self.ahead) {
            session.notice(Notice::GroupLost { group, meta: meta.clone(), lost: Lost { after: position, known } });
        }
        (self.chat_members, self.empty_since) = (0, Instant::now());
    }

    /// Nobody knows what was missed, and too much time has passed: everybody comes back.
    pub(super) fn close_all(&mut self) {
        tracing::warn!(group = %self.group, members = self.members.len(), "not_checked_in_time");
        self.hub.metrics.hold_timeouts.inc();
        for session in self.remove(|_| true, |_| true) {
            session.outlet.close(CloseCode::TryAgain);
        }
    }

    /// Once delivery has come to where they are, they are like the others.
    pub(super) fn settle_ahead(&mut self) {
        if self.ahead.is_empty() {
            return;
        }
        let reached = self.cursor.0;
        let (caught_up, still): (Vec<_>, Vec<_>) = self.ahead.drain(..).partition(|ahead| ahead.position <= reached);
        self.ahead = still;
        self.members.extend(caught_up.into_iter().map(|ahead| Member::from(ahead.session)));
    }
}
