//! What a fenced check is told of a shard's users, and what it tells.

use std::{cmp::Ordering, collections::HashMap};

use natter_shared::{frame::CloseCode, id::UserKey, position::Position, subject::Topic};
use tokio::time::Instant;

use super::UsersTask;
use crate::{delivery::cursor::Cursor, session::Notice};

/// Which users have sessions here.
#[derive(Default)]
pub(in crate::delivery) struct Listed {
    /// Each of them.
    pub(in crate::delivery) users: Vec<UserKey>,
    /// Where the first of those began whom no check has listed before.
    pub(in crate::delivery) unchecked: Option<Position>,
}

/// What a fenced check knows of a shard's users.
pub(in crate::delivery) struct Checked {
    /// So many interruptions came before it.
    pub(in crate::delivery) interruptions: u64,
    /// Deliveries may have been lost so often before it.
    pub(in crate::delivery) losses: u64,
    /// Something may have been lost before it.
    pub(in crate::delivery) disturbed: bool,
    /// Everything of those who were listed, up to here, is known by it.
    pub(in crate::delivery) upto: Position,
    /// The first event that the log had afterwards.
    pub(in crate::delivery) first: u64,
    /// The last events of those who had any since the check before.
    pub(in crate::delivery) last: HashMap<UserKey, u64>,
}

impl UsersTask {
    /// A check begins; after a disturbance, of everything up to `disturbed`.
    pub(super) fn list(&mut self, disturbed: Option<Position>) -> Listed {
        self.users.values_mut().for_each(|entry| entry.listed = true);
        let unchecked = self.users.values().filter(|entry| entry.unchecked).map(|entry| entry.cursor.0).min();
        // Who comes after this is asked about by no check for what lies before, or by the next at the earliest: that has to be
        // recovered, or read from SQL, for it may have been lost.
        if let Some(upto) = disturbed {
            self.fed = self.fed.max(upto);
            self.hub.lists.hints_missed(self.shard);
        }
        Listed { users: self.users.keys().copied().collect(), unchecked }
    }

    /// Who missed something recovers; then comes what was held back.
    pub(super) async fn on_checked(&mut self, checked: Checked) {
        let Checked { interruptions, losses, disturbed, upto, first, last } = checked;
        self.tell_counts_again(losses);
        let (mut behind, mut unlisted) = (Vec::new(), Vec::new());
        for (user, entry) in &mut self.users {
            let (at, last) = (entry.cursor.0, last.get(user).copied());
            let missed = match at.epoch.cmp(&upto.epoch) {
                Ordering::Less => true,
                Ordering::Greater => false,
                // Came after the list was made: nothing was asked about them.
                Ordering::Equal if !entry.listed => entry.interruptions < interruptions,
                Ordering::Equal => last.is_some_and(|last| last > at.seq) || at.seq + 1 < first,
            };
            if missed {
                behind.push((*user, Position::new(upto.epoch, upto.seq.max(last.unwrap_or_default()))));
            } else if entry.listed {
                entry.cursor = Cursor(at.max(upto));
                if entry.unchecked && disturbed && last.is_some() {
                    unlisted.push(*user);
                }
            }
            entry.unchecked &= !entry.listed;
            entry.listed = false;
        }
        for (user, upto) in behind {
            self.lose(user, upto);
        }
        self.fed = self.fed.max(upto);
        if interruptions > self.interruptions {
            // A hint may have been among what was missed.
            self.interruptions = interruptions;
            self.hub.lists.hints_missed(self.shard);
        }
        if !unlisted.is_empty() {
            // A disturbance may have been noticed after they were listed, and a hint lie behind the check.
            self.hub.lists.hints_missed(self.shard);
        }
        for user in unlisted {
            self.list_anew(user);
        }
        if self.interruptions == self.hub.broker.interruptions()
            && let Some(hold) = self.hold.take()
        {
            let came = Instant::now();
            for stored in hold.into_events() {
                self.on_stored(stored, came).await;
            }
        }
    }

    /// What came of `user` just before its first session may have been a hint that nobody here heard, and of which SQL knew
    /// nothing yet: its sessions list their groups once more.
    fn list_anew(&mut self, user: UserKey) {
        let Some(entry) = self.users.get_mut(&user) else { return };
        let after = entry.cursor.0;
        for listener in std::mem::take(&mut entry.listeners) {
            listener.session.notice(Notice::InboxLost { after: after.max(listener.after) });
        }
    }

    /// Nobody knows what was missed, and too much time has passed: who would be told something comes
    /// back.
    pub(super) fn close_held(&mut self) {
        let Some(hold) = self.hold.take() else { return };
        tracing::warn!(shard = %self.shard, held = hold.events().len(), "not_checked_in_time");
        self.hub.metrics.hold_timeouts.inc();
        for stored in hold.events() {
            if let Topic::User(user) = stored.topic
                && let Some(entry) = self.users.remove(&user)
            {
                entry.listeners.iter().for_each(|listener| listener.session.outlet.close(CloseCode::TryAgain));
            }
        }
    }
}
