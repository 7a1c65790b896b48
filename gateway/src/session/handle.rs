//! What others hold of a session: its outlet, its notices, its groups.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use natter_shared::{
    event::{GroupJoined, GroupLeft},
    frame::{CloseCode, GroupState},
    id::{GroupId, SessionId, UserId, UserKey},
    position::Position,
    rpc::{ShardPosition, applied_in},
    subject::{Shard, Shards, Topic},
    timestamp::Timestamp,
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time};

use super::{nonces::Nonces, notices::Notices, send::Outgoing, work::Work};
use crate::{
    auth::Identity,
    delivery::{GroupMeta, Joined, Unheard},
    socket::Outlet,
};

/// Groups of a `ready` that are remembered at most, and for how long: no longer than SQL lags behind at ease, which would be
/// asked else.
const TOLD: usize = 8;
const TOLD_FOR: Duration = Duration::from_millis(100);

/// Between two looks at whether all is answered.
const LOOK: Duration = Duration::from_millis(20);

/// Memberships that a session remembers the end of: SQL may be asked, and a hint be read again, that
/// do not know of it yet.
const ENDS: usize = 64;

/// Which protocol a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `natter.v1.json`.
    V1,
    /// The chat-room protocol.
    ChatRoom,
}

/// What others tell a session.
#[derive(Debug)]
pub enum Notice {
    /// The user is a member of a group now.
    Joined(Box<GroupJoined>),
    /// The user is no member of a group now.
    Left(GroupLeft),
    /// Delivery of a group ended under the session: join it again.
    GroupLost {
        /// The group.
        group: GroupId,
        /// What delivery must know of it.
        meta: GroupMeta,
        /// Where.
        lost: Lost,
    },
    /// Something of the user's own topic was missed: recover, then join it again.
    InboxLost {
        /// Everything up to here was delivered.
        after: Position,
    },
    /// SQL may have known of a membership too late to list it: list the user's groups again.
    Unlisted,
}

/// Where delivery of a group ended under a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Everything up to here was delivered, or told to be missing.
    pub after: Position,
    /// The user was a member as of here.
    pub known: Position,
}

/// A group the session is, or is becoming, a live member of. One membership after the other: the next
/// begins when this one has ended in the group's own order.
#[derive(Debug, Clone)]
pub(super) struct LiveGroup {
    /// Which join this is of: one that ends late must not touch what a newer one made.
    pub(super) attempt: u64,
    /// None while it is becoming one. A second join waits for the first: two at once would each
    /// write what was missed.
    pub(super) joined: Option<Joined>,
    /// The event that began the membership.
    pub(super) since: Position,
    /// The membership is known to end: nothing may be done in the group any more, while what stands
    /// before its end is still delivered.
    pub(super) ends: bool,
    /// Where the membership ended in the group's own order, while a join is under way. Seldom, so on the heap: every
    /// session has room for it in each of its groups.
    pub(super) ended: Option<Box<Position>>,
    /// Delivery has ended without that; whoever comes first joins it again.
    pub(super) lost: Option<Box<Lost>>,
    /// The last message that this connection sent: its history shows it.
    pub(super) sent: Position,
    /// Since when SQL had the membership, where it had to be asked.
    pub(super) found: Option<Instant>,
}

impl LiveGroup {
    /// Begins to join again what was lost, by this attempt; nothing is lost, or a join is under way.
    pub(super) fn begin_again(&mut self, attempt: u64) -> Option<Lost> {
        self.joined?;
        let lost = self.lost.take()?;
        (self.joined, self.attempt) = (None, attempt);
        Some(*lost)
    }
}

/// What `ready` told of groups, each with the event that began the membership.
struct Told {
    at: Instant,
    groups: Vec<(Position, GroupState)>,
}

/// One connection of one user, as the rest of the gateway sees it.
pub struct SessionHandle {
    /// This connection.
    pub id: SessionId,
    /// Whose.
    pub user: UserId,
    /// The user's key in subjects and tables.
    pub key: UserKey,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Where its frames go.
    pub outlet: Arc<Outlet>,
    notices: Notices,
    closed: AtomicBool,
    /// The user's groups are to be listed once more, when SQL has come behind this.
    pub(super) unheard: Mutex<Option<Box<Unheard>>>,
    /// Pages of its groups are still to be told.
    pub(super) has_pages: AtomicBool,
    /// When the token that it stands on ends, and when that was issued.
    token: Mutex<(Timestamp, Timestamp)>,
    pub(super) in_flight: AtomicUsize,
    /// Told to leave: nothing new is begun.
    leaving: AtomicBool,
    /// What was begun and is not answered yet.
    pub(super) unanswered: AtomicUsize,
    pub(super) nonces: Mutex<Nonces>,
    pub(super) groups: Mutex<HashMap<GroupId, LiveGroup>>,
    attempts: AtomicU64,
    told: Mutex<Option<Box<Told>>>,
    /// The last memberships that ended, and where.
    ends: Mutex<Vec<(GroupId, Position)>>,
    /// How far SQL had come when it listed the user's groups.
    signed_in: OnceLock<Arc<[ShardPosition]>>,
    /// Where the client goes on in groups that it was told of beyond that.
    ahead: OnceLock<Box<[(GroupId, Position)]>>,
    /// A join of a group has ended, well or not.
    pub(super) join_ended: Notify,
    /// Sends that wait for the one before them in the same group.
    pub(super) lanes: Mutex<HashMap<GroupId, VecDeque<(Outgoing, Work)>>>,
}

impl SessionHandle {
    pub(crate) fn new(identity: &Identity, protocol: Protocol, outlet: Arc<Outlet>) -> Arc<Self> {
        Arc::new(Self {
            id: SessionId::random(),
            key: identity.user.key(),
            user: identity.user.clone(),
            protocol,
            outlet,
            notices: Notices::default(),
            closed: AtomicBool::new(false),
            unheard: Mutex::new(None),
            has_pages: AtomicBool::new(false),
            token: Mutex::new((identity.expires_at, identity.issued_at)),
            in_flight: AtomicUsize::new(0),
            leaving: AtomicBool::new(false),
            unanswered: AtomicUsize::new(0),
            nonces: Mutex::default(),
            groups: Mutex::new(HashMap::new()),
            attempts: AtomicU64::new(0),
            told: Mutex::new(None),
            ends: Mutex::default(),
            signed_in: OnceLock::new(),
            ahead: OnceLock::new(),
            join_ended: Notify::new(),
            lanes: Mutex::new(HashMap::new()),
        })
    }

    /// Tells the session something; one that does not listen fast enough is
    /// closed and comes back. That a group is lost holds at once, whoever asks for it next.
    pub fn notice(&self, notice: Notice) {
        if let Notice::GroupLost { group, lost, .. } = &notice {
            if let Some(live) = self.groups.lock().get_mut(group) {
                live.lost.get_or_insert_with(|| Box::new(*lost));
            }
            self.join_ended.notify_waiters();
        }
        if !self.is_closed() && self.notices.push(notice).is_err() {
            self.outlet.close(CloseCode::TryAgain);
        }
    }

    /// Waits for the next notice. Cancel-safe.
    pub(crate) async fn next_notice(&self) -> Notice {
        self.notices.next().await
    }

    /// The next notice, if there is one.
    #[cfg(test)]
    pub(crate) fn pop_notice(&self) -> Option<Notice> {
        self.notices.pop()
    }

    /// Whether the session has ended; what is registered after that must be unregistered by who
    /// registers it.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// A number for a join.
    pub(super) fn next_attempt(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::Relaxed)
    }

    /// The membership that the session has in `group`, if it began before `until`, is known to end
    /// there; whether there is one.
    pub(super) fn end_group(&self, group: GroupId, until: Position) -> bool {
        let mut groups = self.groups.lock();
        let live = groups.get_mut(&group).filter(|live| live.since < until);
        live.map(|live| live.ends = true).is_some()
    }

    /// Delivery of `group` has come to the end of the membership, at `at`, and told it.
    pub(crate) fn end_in_order(&self, group: GroupId, at: Position) {
        self.remember_end(group, at);
        let mut groups = self.groups.lock();
        match groups.get_mut(&group) {
            Some(live) if live.since < at && live.joined.is_none() => live.ended = Some(Box::new(at)),
            Some(live) if live.since < at => drop(groups.remove(&group)),
            Some(_) | None => {}
        }
        self.join_ended.notify_waiters();
    }

    /// Whoever still knows of a membership from before `at` is late.
    pub(super) fn remember_end(&self, group: GroupId, at: Position) {
        let mut ends = self.ends.lock();
        ends.retain(|(other, _)| *other != group);
        if ends.len() == ENDS {
            ends.remove(0);
        }
        ends.push((group, at));
    }

    /// Where the membership that began with `since` has ended, if it has, and not long ago.
    pub(super) fn end_of(&self, group: GroupId, since: Position) -> Option<Position> {
        let ends = self.ends.lock();
        ends.iter().find(|(other, at)| *other == group && *at > since).map(|(_, at)| *at)
    }

    /// SQL had come to `applied` when it listed the groups, of which it knows no memberships that are newer. Those may begin any
    /// time, of groups on the list as well; up to where the client was told of them by an earlier connection is remembered for as
    /// long as the session lives, of `most` at most.
    pub(super) fn note_sign_in(&self, shards: Shards, applied: Arc<[ShardPosition]>, resume: &HashMap<GroupId, Position>, most: usize) {
        let is_ahead = |group: GroupId, at: Position| at > applied_in(&applied, shards.of(Topic::Group(group)));
        let ahead: Box<[_]> =
            resume.iter().map(|(group, at)| (*group, *at)).filter(|(group, at)| is_ahead(*group, *at)).take(most).collect();
        // Once: a session signs in once.
        if !ahead.is_empty() {
            let _ = self.ahead.set(ahead);
        }
        let _ = self.signed_in.set(applied);
    }

    /// Up to where an earlier connection of the client was told of `group`, as the client says, where that is beyond what SQL had at
    /// sign-in.
    pub(super) fn told_ahead(&self, group: GroupId) -> Option<Position> {
        let mut ahead = self.ahead.get().into_iter().flatten();
        ahead.find(|(id, _)| *id == group).map(|(_, position)| *position)
    }

    /// Whether the list at sign-in came after a membership of `since`: if that was not on it, it had
    /// ended.
    pub(super) fn was_listed(&self, shard: Shard, since: Position) -> bool {
        self.signed_in.get().is_some_and(|all| since <= applied_in(all, shard))
    }

    /// When the session ends, unless a fresh token extends it.
    pub(super) fn expires_at(&self) -> Timestamp {
        self.token.lock().0
    }

    /// When the token was issued that the session stands on.
    pub(crate) fn issued_at(&self) -> Timestamp {
        self.token.lock().1
    }

    /// The session stands on a fresh token of its user, and no more on the one before: what revokes that is of no
    /// concern any more. One that ends before the session does, or was issued before what it stands on, takes nothing away, and
    /// is not what it stands on.
    pub(super) fn extend(&self, identity: &Identity) {
        let mut token = self.token.lock();
        if identity.expires_at >= token.0 && identity.issued_at >= token.1 {
            *token = (identity.expires_at, identity.issued_at);
        }
    }

    pub(super) fn mark_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// From now on nothing is begun.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// Whether the session was told to leave.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// Whether all that was begun is answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.unanswered.load(Ordering::SeqCst) == 0
    }

    /// Waits until all that was begun is answered.
    pub(crate) async fn idle(&self) {
        while !self.is_idle() {
            time::sleep(LOOK).await;
        }
    }

    /// The group, if the session is a live member of it.
    pub(super) fn group(&self, group: GroupId) -> Option<LiveGroup> {
        let is_live = |live: &&LiveGroup| live.joined.is_some() && live.lost.is_none() && !live.ends;
        self.groups.lock().get(&group).filter(is_live).cloned()
    }

    /// Remembers for a moment what `ready` tells: many a client joins at once what it is a member of.
    pub(super) fn remember_told(&self, groups: Vec<GroupState>) {
        if groups.is_empty() || groups.len() > TOLD {
            return;
        }
        let groups = {
            let live = self.groups.lock();
            groups.into_iter().filter_map(|state| Some((live.get(&state.id)?.since, state))).collect()
        };
        *self.told.lock() = Some(Box::new(Told { at: Instant::now(), groups }));
    }

    /// The group as `ready` told it a moment ago, if the session still follows it.
    pub(super) fn told_of(&self, group: GroupId) -> Option<GroupState> {
        let live = self.group(group)?;
        let mut told = self.told.lock();
        told.take_if(|told| told.at.elapsed() >= TOLD_FOR);
        let told = told.as_ref()?;
        let (_, state) = told.groups.iter().find(|(since, state)| state.id == group && *since == live.since)?;
        Some(GroupState { recovered: false, ..state.clone() })
    }

    /// What `ready` told does not hold any more, or is of no use.
    pub(super) fn forget_told(&self) {
        *self.told.lock() = None;
    }
}
