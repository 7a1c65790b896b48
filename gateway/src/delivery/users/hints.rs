//! The hints of memberships that were heard of late.

use std::{collections::VecDeque, time::Duration};

use natter_shared::{
    event::{Event, GroupJoined},
    id::UserKey,
};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::session::{Notice, SessionHandle};

/// How the payloads of hints begin; a test of the events' encoding keeps it true.
const HINTS: [&[u8]; 2] = [br#"{"type":"group_joined""#, br#"{"type":"group_left""#];

/// How many are kept of a shard's users, and for how long.
const RECENT: usize = 4096;
pub(in crate::delivery) const RECENT_FOR: Duration = Duration::from_secs(10);

/// The last hints of users, connected or not: a hint is told before its rows are committed, and a
/// session that signs in between finds it here. Copies: the originals hold a read buffer each.
#[derive(Default)]
pub(super) struct RecentHints(VecDeque<(Instant, UserKey, Box<[u8]>)>);

impl RecentHints {
    /// Keeps the event of `user`, if it is a hint.
    pub(super) fn keep(&mut self, user: UserKey, payload: &[u8]) {
        while self.0.len() >= RECENT || self.0.front().is_some_and(|(at, ..)| at.elapsed() > RECENT_FOR) {
            self.0.pop_front();
        }
        if HINTS.iter().any(|hint| payload.starts_with(hint)) {
            self.0.push_back((Instant::now(), user, payload.into()));
        }
    }

    /// Tells a session of its user's memberships that began lately and go on.
    pub(super) fn tell(&self, session: &SessionHandle) {
        let mut begun: SmallVec<[GroupJoined; 4]> = SmallVec::new();
        for (.., payload) in self.0.iter().filter(|(_, user, _)| *user == session.key) {
            match Event::decode(payload) {
                Ok(Event::GroupJoined(joined)) => begun.push(joined),
                Ok(Event::GroupLeft(left)) => begun.retain(|joined| joined.group != left.group || joined.since >= left.until),
                Ok(_) | Err(_) => {}
            }
        }
        for joined in begun {
            session.notice(Notice::Joined(Box::new(joined)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use natter_shared::{
        event::{GroupKind, GroupLeft, Role},
        id::{GroupId, UserId},
        position::Position,
    };

    use super::*;

    #[test]
    fn a_hint_is_known_by_its_beginning() {
        let (group, user) = (GroupId(uuid::Uuid::now_v7()), UserId::new("ann").unwrap());
        let left = Event::GroupLeft(GroupLeft { group, user: user.clone(), until: Position::START });
        let joined = Event::GroupJoined(GroupJoined {
            group,
            user,
            kind: GroupKind::Open,
            name: None,
            display_name: "lobby".to_owned(),
            role: Role::Member,
            since: Position::START,
        });
        for (hint, begins) in [joined, left].into_iter().zip(HINTS) {
            assert!(hint.encode().unwrap().starts_with(begins));
        }
    }
}
