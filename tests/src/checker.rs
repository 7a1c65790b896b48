//! The checker of the promises: once, in order, no silent gap, in SQL once, only members.
//! A pure function over what clients recorded and what SQL holds, so that it is itself tested.
//! Inboxes are judged by `inboxes`.

use std::collections::{BTreeMap, HashMap, HashSet};

use natter_shared::{
    id::{GroupId, MessageId},
    position::Position,
};

use crate::inboxes::InboxViolation;

/// What one client recorded, in the order it arrived.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Delivery of a group goes on from here: everything after it is this member's.
    Joined(GroupId, Position),
    /// The membership ended with this event.
    Left(GroupId, Position),
    /// The membership ended while the client was away: it is not told what came before that.
    Gone(GroupId),
    /// The server declared that something of the group is missing.
    Reset(GroupId),
    /// A message arrived.
    Delivered(Fact),
}

/// A message, its group and its position: as accepted, delivered or stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fact {
    /// The message.
    pub message: MessageId,
    /// Its group.
    pub group: GroupId,
    /// Its position.
    pub position: Position,
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
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Accepted, and not in SQL, not even as a dead letter.
    NotInSql(Fact),
    /// In SQL more than once, by id or by position.
    TwiceInSql(Fact),
    /// In SQL, and nobody sent it.
    NeverSent(Fact),
    /// Accepted with one position or group and stored with another.
    Moved(Fact, Fact),
    /// A client was not told that its membership ended, or heard of a group after that.
    Lingers(String, GroupId),
    /// A client was not told that it is a member.
    Unaware(String, GroupId),
    /// A member did not get a message of its time.
    Missing(String, Fact),
    /// A member got a message twice.
    Doubled(String, Fact),
    /// A member got a message after a later one.
    OutOfOrder(String, Fact),
    /// A client got a message of a group at a time when it was no member.
    NotMember(String, Fact),
    /// A client got something that SQL does not hold like this.
    Unknown(String, Fact),
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
    /// Declared gaps.
    pub resets: usize,
    /// Messages that declared gaps left out.
    pub excused: usize,
    /// Messages in SQL, and dead letters.
    pub stored: usize,
    /// Groups and inboxes that went on after a reconnect with all that was missed.
    pub recovered: usize,
    /// Where in its client's record each missing message would have been.
    pub notes: Vec<String>,
    /// Who was waited for in vain at the end.
    pub in_vain: Vec<String>,
}

impl Report {
    /// Panics with the first violations unless there are none.
    pub fn assert_clean(&self) {
        let count = self.violations.len();
        let (first, notes) = (&self.violations[..count.min(10)], &self.notes[..self.notes.len().min(10)]);
        assert!(count == 0, "{count} violations, the first: {first:?}\nnotes: {notes:#?}");
    }
}

/// Looks at everything.
pub fn check(seen: &Observation) -> Report {
    let stored = seen.rows.len() + seen.dead.len();
    let mut report = Report { accepted: seen.accepted.len(), stored, ..Report::default() };
    check_sql(seen, &mut report);
    for (sender, sent) in &seen.sent {
        check_sender(sender, sent, &mut report);
    }
    let mut truth: HashMap<GroupId, BTreeMap<Position, Fact>> = HashMap::new();
    for row in &seen.rows {
        truth.entry(row.group).or_default().insert(row.position, *row);
    }
    for (client, record) in &seen.clients {
        check_client(client, record, &truth, seen, &mut report);
    }
    report.violations.extend(check_following(seen));
    report
}

/// Whether clients were told which memberships have begun and not ended.
pub fn check_following(seen: &Observation) -> Vec<Violation> {
    let Some(memberships) = &seen.memberships else { return Vec::new() };
    let mut members: HashMap<&str, HashSet<GroupId>> = HashMap::new();
    for ((group, user), times) in memberships {
        if matches!(times.last(), Some((_, None))) {
            members.entry(user).or_default().insert(*group);
        }
    }
    let none = HashSet::new();
    let mut bad = Vec::new();
    for (client, follows) in &seen.following {
        let follows: HashSet<GroupId> = follows.keys().copied().collect();
        let is_in = seen.users.get(client).and_then(|user| members.get(user.as_str())).unwrap_or(&none);
        bad.extend(follows.difference(is_in).map(|group| Violation::Lingers(client.clone(), *group)));
        bad.extend(is_in.difference(&follows).map(|group| Violation::Unaware(client.clone(), *group)));
    }
    bad
}

fn check_sender(sender: &str, sent: &[Fact], report: &mut Report) {
    let mut last: HashMap<GroupId, Position> = HashMap::new();
    for fact in sent {
        let before = last.insert(fact.group, fact.position);
        if before.is_some_and(|before| before >= fact.position) {
            report.violations.push(Violation::Overtook(sender.to_owned(), *fact));
        }
    }
}

fn check_sql(seen: &Observation, report: &mut Report) {
    let mut by_id: HashMap<MessageId, Fact> = HashMap::new();
    let mut places = HashSet::new();
    for row in &seen.rows {
        let first_of_id = by_id.insert(row.message, *row).is_none();
        let first_of_place = places.insert((row.group, row.position));
        if !first_of_id || !first_of_place {
            report.violations.push(Violation::TwiceInSql(*row));
        }
        if !seen.attempted.contains(&row.message) {
            report.violations.push(Violation::NeverSent(*row));
        }
    }
    for accepted in &seen.accepted {
        match by_id.get(&accepted.message) {
            None if seen.dead.contains(&accepted.message) => {}
            None => report.violations.push(Violation::NotInSql(*accepted)),
            Some(row) if seen.dead.contains(&row.message) => report.violations.push(Violation::TwiceInSql(*row)),
            Some(row) if row != accepted => report.violations.push(Violation::Moved(*accepted, *row)),
            Some(_) => {}
        }
    }
}

/// One client's view of one group.
#[derive(Default)]
struct View {
    /// Membership as the client was told.
    times: Vec<Time>,
    /// The same by the group's own order, where that is known.
    truly: Option<Vec<Time>>,
    delivered: Vec<Fact>,
    /// The last end of a membership.
    left: Position,
    /// Declared gaps: after this position, up to the next delivery.
    gaps: Vec<(Position, Option<Position>)>,
    /// What else was told after the last delivery.
    since: Vec<&'static str>,
    /// Up to where the client has the group, at the end.
    stands: Option<Position>,
}

impl View {
    fn last(&self) -> Position {
        self.delivered.last().map_or(Position::START, |fact| fact.position)
    }

    fn is_within(times: &[Time], position: Position) -> bool {
        times.iter().any(|(from, until)| position > *from && until.is_none_or(|until| position <= until))
    }

    fn is_member_at(&self, position: Position) -> bool {
        Self::is_within(self.truly.as_ref().unwrap_or(&self.times), position)
    }

    /// What the client should have: from where it was told that delivery begins.
    fn is_due(&self, position: Position) -> bool {
        self.is_member_at(position) && Self::is_within(&self.times, position)
    }

    fn surroundings(&self, client: &str, position: Position) -> String {
        let facts = || self.delivered.iter().map(|fact| fact.position);
        let (before, after) = (facts().filter(|at| *at < position).max(), facts().filter(|at| *at > position).min());
        let text = |at: Option<Position>| at.map_or("nothing".to_owned(), |at| at.to_string());
        let times: Vec<String> = self.times.iter().map(|(from, until)| format!("({from}, {}]", text(*until))).collect();
        format!(
            "{client} misses {position}: member {times:?}, delivered {} before and {} after; then told {:?}, stands at {}",
            text(before),
            text(after),
            self.since,
            text(self.stands)
        )
    }

    fn is_excused(&self, position: Position) -> bool {
        self.gaps.iter().any(|(after, before)| position > *after && before.is_none_or(|before| position < before))
    }
}

fn check_client(
    client: &str,
    record: &[Entry],
    truth: &HashMap<GroupId, BTreeMap<Position, Fact>>,
    seen: &Observation,
    report: &mut Report,
) {
    let mut views: HashMap<GroupId, View> = HashMap::new();
    for entry in record {
        match entry {
            Entry::Joined(group, from) => {
                let view = views.entry(*group).or_default();
                view.since.push("joined");
                // A join of a member changes nothing.
                if view.times.last().is_none_or(|(_, until)| until.is_some()) {
                    view.times.push((*from, None));
                }
            }
            Entry::Left(group, at) => {
                let view = views.entry(*group).or_default();
                view.since.push("left");
                if let Some((_, until @ None)) = view.times.last_mut() {
                    *until = Some(*at);
                }
                if let Some(later) = view.delivered.iter().find(|fact| fact.position > *at) {
                    report.violations.push(Violation::OutOfOrder(client.to_owned(), *later));
                }
                view.left = *at;
            }
            Entry::Gone(group) => {
                let view = views.entry(*group).or_default();
                view.since.push("gone");
                let last = view.last();
                if let Some((from, until @ None)) = view.times.last_mut() {
                    *until = Some(last.max(*from));
                }
            }
            Entry::Reset(group) => {
                let view = views.entry(*group).or_default();
                let after = view.last();
                view.since.push("reset");
                view.gaps.push((after, None));
                report.resets += 1;
            }
            Entry::Delivered(fact) => {
                report.deliveries += 1;
                let view = views.entry(fact.group).or_default();
                view.since.clear();
                if fact.position <= view.left {
                    report.violations.push(Violation::OutOfOrder(client.to_owned(), *fact));
                }
                if let Some((_, before @ None)) = view.gaps.last_mut() {
                    *before = Some(fact.position);
                }
                view.delivered.push(*fact);
            }
        }
    }
    let user = seen.users.get(client).cloned().unwrap_or_default();
    for (group, view) in &mut views {
        let truly = |memberships: &Memberships| memberships.get(&(*group, user.clone())).cloned().unwrap_or_default();
        view.truly = seen.memberships.as_ref().map(truly);
        view.stands = seen.following.get(client).and_then(|follows| follows.get(group)).copied();
        check_view(client, view, truth.get(group), report);
    }
}

fn check_view(client: &str, view: &View, truth: Option<&BTreeMap<Position, Fact>>, report: &mut Report) {
    let mut got: HashSet<MessageId> = HashSet::new();
    let mut highest = Position::START;
    let bad = &mut report.violations;
    for fact in &view.delivered {
        let name = client.to_owned();
        if !got.insert(fact.message) {
            bad.push(Violation::Doubled(name, *fact));
            continue;
        }
        if fact.position <= highest {
            bad.push(Violation::OutOfOrder(name.clone(), *fact));
        }
        highest = highest.max(fact.position);
        if truth.and_then(|rows| rows.get(&fact.position)) != Some(fact) {
            bad.push(Violation::Unknown(name.clone(), *fact));
        }
        if !view.is_member_at(fact.position) {
            bad.push(Violation::NotMember(name, *fact));
        }
    }
    for fact in truth.into_iter().flat_map(BTreeMap::values) {
        if view.is_due(fact.position) && !got.contains(&fact.message) {
            if view.is_excused(fact.position) {
                report.excused += 1;
            } else {
                report.notes.push(view.surroundings(client, fact.position));
                bad.push(Violation::Missing(client.to_owned(), *fact));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use natter_shared::position::Epoch;
    use uuid::Uuid;

    use super::*;

    const GROUP: GroupId = GroupId(Uuid::from_u128(9));

    fn at(seq: u64) -> Position {
        Position::new(Epoch(1), seq)
    }

    fn fact(seq: u64) -> Fact {
        Fact { message: MessageId(Uuid::from_u128(u128::from(seq))), group: GROUP, position: at(seq) }
    }

    /// Messages 1 to 6; one client there all the time, one from 2 to 4.
    fn good() -> Observation {
        let all: Vec<Fact> = (1..=6).map(fact).collect();
        let mut whole = vec![Entry::Joined(GROUP, at(0))];
        whole.extend(all.iter().map(|fact| Entry::Delivered(*fact)));
        let mut part = vec![Entry::Joined(GROUP, at(2))];
        part.extend((3..=4).map(|seq| Entry::Delivered(fact(seq))));
        part.push(Entry::Left(GROUP, at(4)));
        Observation {
            clients: vec![("whole".into(), whole), ("part".into(), part)],
            attempted: all.iter().map(|fact| fact.message).collect(),
            accepted: all.clone(),
            rows: all,
            ..Observation::default()
        }
    }

    fn violations(spoil: impl FnOnce(&mut Observation)) -> Vec<Violation> {
        let mut seen = good();
        spoil(&mut seen);
        check(&seen).violations
    }

    #[test]
    fn a_good_run_is_clean() {
        let report = check(&good());
        report.assert_clean();
        assert_eq!((report.deliveries, report.accepted, report.resets), (8, 6, 0));
    }

    #[test]
    fn a_dropped_delivery_is_found() {
        let found = violations(|seen| {
            seen.clients[0].1.remove(3);
        });
        assert_eq!(found, [Violation::Missing("whole".into(), fact(3))]);
    }

    #[test]
    fn a_dropped_last_delivery_is_found() {
        let found = violations(|seen| {
            seen.clients[0].1.pop();
        });
        assert_eq!(found, [Violation::Missing("whole".into(), fact(6))]);
    }

    #[test]
    fn a_doubled_delivery_is_found() {
        let found = violations(|seen| seen.clients[0].1.insert(3, Entry::Delivered(fact(2))));
        assert_eq!(found, [Violation::Doubled("whole".into(), fact(2))]);
    }

    #[test]
    fn swapped_deliveries_are_found() {
        let found = violations(|seen| seen.clients[0].1.swap(3, 4));
        assert_eq!(found, [Violation::OutOfOrder("whole".into(), fact(3))]);
    }

    #[test]
    fn a_delivery_after_the_end_of_membership_is_found() {
        let found = violations(|seen| seen.clients[1].1.push(Entry::Delivered(fact(5))));
        assert_eq!(found, [Violation::NotMember("part".into(), fact(5))]);
    }

    #[test]
    fn an_end_of_membership_that_overtakes_or_comes_late_is_found() {
        let found = violations(|seen| seen.clients[1].1.swap(2, 3));
        assert_eq!(found, [Violation::OutOfOrder("part".into(), fact(4))]);
        let found = violations(|seen| {
            seen.clients[1].1.extend([Entry::Joined(GROUP, at(4)), Entry::Delivered(fact(5)), Entry::Delivered(fact(6))]);
            seen.clients[1].1.swap(3, 5);
        });
        assert!(found.contains(&Violation::OutOfOrder("part".into(), fact(5))), "{found:?}");
    }

    #[test]
    fn an_invented_or_moved_delivery_is_found() {
        let found = violations(|seen| seen.clients[0].1.push(Entry::Delivered(fact(7))));
        assert_eq!(found, [Violation::Unknown("whole".into(), fact(7))]);
        let moved = Fact { position: at(8), ..fact(6) };
        let found = violations(|seen| seen.clients[0].1[6] = Entry::Delivered(moved));
        assert_eq!(found, [Violation::Unknown("whole".into(), moved)]);
    }

    #[test]
    fn sql_must_hold_what_was_accepted_once_and_nothing_else() {
        let found = violations(|seen| seen.rows.truncate(5));
        assert!(found.contains(&Violation::NotInSql(fact(6))), "{found:?}");
        assert_eq!(violations(|seen| seen.rows.push(fact(6))), [Violation::TwiceInSql(fact(6))]);
        let found = violations(|seen| seen.rows.push(fact(7)));
        assert!(found.contains(&Violation::NeverSent(fact(7))), "{found:?}");
        let moved = Fact { position: at(7), ..fact(6) };
        assert_eq!(violations(|seen| seen.accepted[5] = moved), [Violation::Moved(moved, fact(6))]);
    }

    #[test]
    fn a_declared_gap_is_counted_and_excuses_only_itself() {
        let mut seen = good();
        seen.clients[0].1[3] = Entry::Reset(GROUP);
        let report = check(&seen);
        report.assert_clean();
        assert_eq!((report.resets, report.excused), (1, 1));
        seen.clients[0].1.remove(5);
        assert_eq!(check(&seen).violations, [Violation::Missing("whole".into(), fact(5))]);
    }

    #[test]
    fn membership_is_judged_by_the_group_s_own_order() {
        let truly = |until: Option<u64>| {
            let whole = ((GROUP, "w".to_owned()), vec![(at(0), None)]);
            let part = ((GROUP, "p".to_owned()), vec![(at(2), until.map(at))]);
            move |seen: &mut Observation| {
                seen.users = [("whole".to_owned(), "w".to_owned()), ("part".to_owned(), "p".to_owned())].into();
                seen.memberships = Some([whole, part].into());
            }
        };
        assert_eq!(violations(truly(Some(4))), []);
        assert_eq!(violations(truly(Some(3))), [Violation::NotMember("part".into(), fact(4))]);
        let gone_without_a_word = violations(|seen| {
            truly(Some(4))(seen);
            seen.clients[1].1 = vec![Entry::Joined(GROUP, at(2)), Entry::Delivered(fact(3)), Entry::Gone(GROUP)];
        });
        assert_eq!(gone_without_a_word, [], "what came before the end is not told to who was away");
    }

    #[test]
    fn a_dead_letter_is_kept_and_one_beside_its_row_is_not() {
        let found = violations(|seen| {
            let row = seen.rows.pop().unwrap();
            seen.clients[0].1.pop();
            seen.dead.insert(row.message);
        });
        assert_eq!(found, []);
        let found = violations(|seen| {
            seen.dead.insert(fact(6).message);
        });
        assert_eq!(found, [Violation::TwiceInSql(fact(6))]);
    }

    #[test]
    fn a_sender_who_is_overtaken_by_itself_is_found() {
        let found = violations(|seen| seen.sent = vec![("ann".into(), vec![fact(2), fact(1), fact(3)])]);
        assert_eq!(found, [Violation::Overtook("ann".into(), fact(1))]);
    }

    #[test]
    fn a_second_membership_is_a_time_of_its_own() {
        let found = violations(|seen| {
            seen.clients[1].1.push(Entry::Joined(GROUP, at(5)));
        });
        assert_eq!(found, [Violation::Missing("part".into(), fact(6))]);
    }

    #[test]
    fn a_client_follows_what_its_user_is_in_and_nothing_else() {
        let follow = |groups: &[GroupId]| {
            let mut seen = good();
            seen.users = [("whole".to_owned(), "ann".to_owned()), ("part".to_owned(), "ben".to_owned())].into();
            let of = |user: &str, until| ((GROUP, user.to_owned()), vec![(at(0), until)]);
            seen.memberships = Some([of("ann", None), of("ben", Some(at(4)))].into());
            let follows = |groups: &[GroupId]| groups.iter().map(|group| (*group, at(1))).collect();
            seen.following = [("whole".to_owned(), follows(&[GROUP])), ("part".to_owned(), follows(groups))].into();
            check_following(&seen)
        };
        assert_eq!(follow(&[]), []);
        assert_eq!(follow(&[GROUP]), [Violation::Lingers("part".into(), GROUP)]);
        let mut seen = good();
        seen.users = [("whole".to_owned(), "ann".to_owned())].into();
        seen.memberships = Some([((GROUP, "ann".to_owned()), vec![(at(0), Some(at(1))), (at(2), None)])].into());
        seen.following = [("whole".to_owned(), HashMap::new())].into();
        assert_eq!(check_following(&seen), [Violation::Unaware("whole".into(), GROUP)]);
    }
}
