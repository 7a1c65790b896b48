//! The hints of memberships that were heard of late.

use std::{collections::VecDeque, time::Duration};

use natter_shared::{
    event::{Event, GroupJoined, GroupLeft},
    id::{GroupId, UserKey},
    position::Position,
    subject::{Shard, Topic},
};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::{
    delivery::hub::Hub,
    session::{Notice, SessionHandle},
};

/// How the payloads of hints begin; a test of the events' encoding keeps it true.
const HINTS: [&[u8]; 2] = [br#"{"type":"group_joined""#, br#"{"type":"group_left""#];

/// How many are kept of a shard's users at most, and for how long at least, where there is room.
const RECENT: usize = 4096;
const RECENT_FOR: Duration = Duration::from_secs(10);

/// The last hints of users, connected or not: a hint is told before its rows are committed, however long that takes, and a
/// session that signs in between finds it here.
pub(super) struct RecentHints {
    /// Of which users.
    shard: Shard,
    hints: VecDeque<(Instant, UserKey, Hint)>,
    /// When it was looked last which need not be kept.
    looked: Instant,
}

enum Hint {
    Joined(Box<GroupJoined>),
    Left(GroupLeft),
}

impl Hint {
    /// Of the event of which group it is, and where that stands.
    fn of(&self) -> (GroupId, Position) {
        match self {
            Self::Joined(joined) => (joined.group, joined.since),
            Self::Left(left) => (left.group, left.until),
        }
    }
}

impl RecentHints {
    /// None, of the users of `shard`.
    pub(super) fn new(shard: Shard) -> Self {
        Self { shard, hints: VecDeque::new(), looked: Instant::now() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hints.is_empty()
    }

    /// When to look which need not be kept, though no other comes.
    pub(super) fn look_at(&self) -> Instant {
        self.hints.front().map_or(self.looked, |(at, ..)| self.looked.max(*at)) + RECENT_FOR
    }

    /// Forgets those that need not be kept. One that is no longer kept is in SQL, or whoever lists groups has to know of it.
    pub(super) fn forget(&mut self, hub: &Hub) {
        self.looked = Instant::now();
        while let Some((at, _, hint)) = self.hints.front() {
            let (group, position) = hint.of();
            let shard = hub.broker.shards().of(Topic::Group(group));
            let is_full = self.hints.len() >= RECENT;
            if !is_full && (at.elapsed() <= RECENT_FOR || !hub.lists.is_applied(shard, position)) {
                break;
            }
            if is_full {
                hub.lists.hint_forgotten(self.shard, shard, position);
            }
            self.hints.pop_front();
        }
        if self.hints.is_empty() {
            // For who came all at once, and then nobody.
            self.hints.shrink_to(64);
        }
    }

    /// Keeps the event of `user`, if it is a hint.
    pub(super) fn keep(&mut self, hub: &Hub, user: UserKey, payload: &[u8]) {
        self.forget(hub);
        if HINTS.iter().any(|hint| payload.starts_with(hint)) {
            let hint = match Event::decode(payload) {
                Ok(Event::GroupJoined(joined)) => Hint::Joined(Box::new(joined)),
                Ok(Event::GroupLeft(left)) => Hint::Left(left),
                Ok(_) | Err(_) => return,
            };
            self.hints.push_back((Instant::now(), user, hint));
        }
    }

    /// Tells a session of its user's memberships that began lately and go on.
    pub(super) fn tell(&self, session: &SessionHandle) {
        let mut begun: SmallVec<[&GroupJoined; 4]> = SmallVec::new();
        for (.., hint) in self.hints.iter().filter(|(_, user, _)| *user == session.key) {
            match hint {
                Hint::Joined(joined) => begun.push(joined),
                Hint::Left(left) => begun.retain(|joined| joined.group != left.group || joined.since >= left.until),
            }
        }
        for joined in begun {
            session.notice(Notice::Joined(Box::new(joined.clone())));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use natter_shared::{
        event::{GroupKind, Role},
        id::UserId,
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
