//! The checker of the promises: once, in order, no silent gap, in SQL once, only members.
//! A pure function over what clients recorded and what SQL holds, so that it is itself tested: `rows`
//! looks at SQL, `view` at what each client got, `following` at what it takes itself for a member of, and at whether
//! memberships are as they were commanded. Inboxes are judged by `inboxes`.

mod following;
mod rows;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use natter_shared::{
    id::{GroupId, MessageId},
    position::Position,
};

pub use self::following::{check_commanded, check_following};
use crate::inboxes::InboxViolation;

/// What one client recorded, in the order it arrived.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Delivery of a group goes on from here: everything after it is this member's.
    Joined(GroupId, Position),
    /// The same, and it was told unasked that this event began the membership.
    Began(GroupId, Position),
    /// The membership ended with this event.
    Left(GroupId, Position),
    /// Signing in, the client was not told of the group any more: the membership ended while it was away, and it is not told what
    /// came before that.
    Gone(GroupId),
    /// The server declared that something of the group is missing.
    Reset(GroupId),
    /// A message arrived.
    Delivered(Fact),
}

impl Entry {
    /// The group it is about.
    pub fn group(&self) -> GroupId {
        match self {
            Self::Joined(group, _) | Self::Began(group, _) | Self::Left(group, _) | Self::Gone(group) | Self::Reset(group) => *group,
            Self::Delivered(fact) => fact.group,
        }
    }
}

/// What a message says and who says it, as a hash: of millions of messages there is no room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Content(u64);

impl Content {
    /// Of `sender`, a user's id, and `body`.
    pub fn of(sender: &str, body: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (sender, body).hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// A message, its group, its position and its content: as accepted, delivered or stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fact {
    /// The message.
    pub message: MessageId,
    /// Its group.
    pub group: GroupId,
    /// Its position.
    pub position: Position,
    /// Its sender and body.
    pub content: Content,
}

/// After the first position, up to and with the second.
pub type Time = (Position, Option<Position>);

/// When each user was a member of each group, by the group's own order.
pub type Memberships = HashMap<(GroupId, String), Vec<Time>>;

/// Everything a run left behind.
#[derive(Debug, Default)]
pub struct Observation {
    /// Per client: its name and its record.
    pub clients: Vec<(String, Vec<Entry>)>,
    /// Who the clients are: their users' ids.
    pub users: HashMap<String, String>,
    /// When they were members; without, as they were told themselves.
    pub memberships: Option<Memberships>,
    /// What was answered to who removed members and added them: whether each is one.
    pub commanded: Vec<(GroupId, String, bool)>,
    /// Where the memberships of those began, as that was answered, with an answered removal between each two.
    pub added: Vec<(GroupId, String, Vec<Position>)>,
    /// Per client that is connected at the end: the groups that it takes itself for a member of, and up to where it has them.
    pub following: HashMap<String, HashMap<GroupId, Position>>,
    /// Per sender: what was accepted, in the order it was sent.
    pub sent: Vec<(String, Vec<Fact>)>,
    /// Ids of dead letters.
    pub dead: HashSet<MessageId>,
    /// What was tried, whatever came of it.
    pub attempted: HashSet<MessageId>,
    /// What the server said it accepted.
    pub accepted: Vec<Fact>,
    /// What SQL holds.
    pub rows: Vec<Fact>,
    /// Last messages of groups that were waited for in vain.
    pub in_vain: Vec<InVain>,
}

/// A group's last message that a client waited for in vain.
#[derive(Debug, Clone)]
pub struct InVain {
    /// The client, by its name.
    pub client: String,
    /// The group.
    pub group: GroupId,
    /// How the client stood.
    pub state: String,
    /// It was told last that something of the group is missing, which may have been just that.
    pub is_declared: bool,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Accepted, and not in SQL, not even as a dead letter.
    NotInSql(Fact),
    /// An event that SQL would not take.
    DeadLetter(MessageId),
    /// A removal of the user from the group, or an addition, was answered as done, and the group's own order says otherwise.
    CommandLost(GroupId, String),
    /// In SQL more than once, by id or by position.
    TwiceInSql(Fact),
    /// In SQL, and nobody sent it.
    NeverSent(Fact),
    /// Accepted with one position or group and stored with another.
    Moved(Fact, Fact),
    /// Accepted with another content than is stored.
    AlteredInSql(Fact),
    /// A client was not told that its membership ended, or heard of a group after that.
    Lingers(String, GroupId),
    /// A client was not told that it is a member.
    Unaware(String, GroupId),
    /// A client was told that its membership of a group began at the first position; it was the second, and what lies
    /// between was not told.
    JoinedLate(String, GroupId, Position, Position),
    /// A client was told that its membership of a group ended here, and it did not.
    EndedWrongly(String, GroupId, Position),
    /// After a gap of a group was declared to a client it got nothing more of the group, though there was something.
    Stuck(String, GroupId),
    /// A gap of a group was declared to a client, and nothing had been lost.
    Reset(String, GroupId),
    /// A member did not get a message of its time.
    Missing(String, Fact),
    /// A client waited in vain for the last message of a group, and was not told that something is missing.
    LastMissing(String, GroupId),
    /// A member got a message twice.
    Doubled(String, Fact),
    /// A member got a message after a later one.
    OutOfOrder(String, Fact),
    /// A client got a message of a group at a time when it was no member.
    NotMember(String, Fact),
    /// A client got something that SQL does not hold like this.
    Unknown(String, Fact),
    /// A client got a message with another content than SQL holds.
    Altered(String, Fact),
    /// A sender's message stands before one that it sent earlier to the same group.
    Overtook(String, Fact),
    /// Something about an inbox.
    Inbox(InboxViolation),
}

/// What the checker found.
#[derive(Debug, Default)]
pub struct Report {
    /// Broken promises; empty is good.
    pub violations: Vec<Violation>,
    /// Deliveries looked at.
    pub deliveries: usize,
    /// Messages accepted.
    pub accepted: usize,
    /// Declared gaps, of groups and inboxes.
    pub resets: usize,
    /// Those of groups: to whom they were declared, and of which.
    pub declared: Vec<(String, GroupId)>,
    /// Messages that declared gaps left out.
    pub excused: usize,
    /// Messages in SQL.
    pub stored: usize,
    /// Groups and inboxes that went on after a reconnect with all that was missed.
    pub recovered: usize,
    /// Where in its client's record each missing message would have been.
    pub notes: Vec<String>,
    /// Who was waited for in vain at the end.
    pub in_vain: Vec<String>,
    /// Messages that went several at once.
    pub together: usize,
    /// Those of them that were accepted after one before them was not: what is sent again may come before or behind them.
    pub unjudged: usize,
}

impl Report {
    /// Takes every declared gap of a group for a broken promise: after a run in which nothing was lost that would explain one.
    pub fn forbid_resets(&mut self) {
        let declared = self.declared.iter().cloned();
        self.violations.extend(declared.map(|(client, group)| Violation::Reset(client, group)));
    }

    /// Panics with the first violations unless there are none.
    pub fn assert_clean(&self) {
        let count = self.violations.len();
        let (first, notes) = (&self.violations[..count.min(10)], &self.notes[..self.notes.len().min(10)]);
        assert!(count == 0, "{count} violations, the first: {first:?}\nnotes: {notes:#?}");
    }
}

/// Looks at everything.
pub fn check(seen: &Observation) -> Report {
    let mut report = Report { accepted: seen.accepted.len(), stored: seen.rows.len(), ..Report::default() };
    rows::check_sql(seen, &mut report);
    for (sender, sent) in &seen.sent {
        rows::check_sender(sender, sent, &mut report);
    }
    let mut truth: HashMap<GroupId, BTreeMap<Position, Fact>> = HashMap::new();
    for row in &seen.rows {
        truth.entry(row.group).or_default().insert(row.position, *row);
    }
    for (client, record) in &seen.clients {
        view::check_client(client, record, &truth, seen, &mut report);
    }
    for missed in &seen.in_vain {
        report.in_vain.push(missed.state.clone());
        if !missed.is_declared {
            report.violations.push(Violation::LastMissing(missed.client.clone(), missed.group));
        }
    }
    report.violations.extend(check_following(seen));
    report.violations.extend(check_commanded(seen));
    report
}
