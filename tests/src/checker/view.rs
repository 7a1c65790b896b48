//! What one client got of each group, against what SQL says that it should have.

use std::collections::{BTreeMap, HashMap, HashSet};

use natter_shared::{
    id::{GroupId, MessageId},
    position::Position,
};

use super::{Entry, Fact, Memberships, Observation, Report, Time, Violation};

/// One client's view of one group.
#[derive(Default)]
struct View {
    /// Membership as the client was told.
    times: Vec<Time>,
    /// The same by the group's own order, where that is known.
    truly: Option<Vec<Time>>,
    /// Where memberships began, as it was told unasked.
    began: Vec<Position>,
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

    /// Where the membership that the client was told to have begun at `told` began, if that was earlier.
    fn began_before(&self, told: Position) -> Option<Position> {
        let is_in = |(from, until): &&Time| told > *from && until.is_none_or(|until| told <= until);
        self.truly.iter().flatten().find(is_in).map(|(from, _)| *from)
    }

    /// Whether a membership began or ended where something is declared to be missing: who was no member, and is one again,
    /// cannot go on.
    fn changes_within(&self, (after, before): &(Position, Option<Position>)) -> bool {
        let is_within = |at: Position| at > *after && before.is_none_or(|before| at < before);
        self.truly.iter().flatten().any(|(from, until)| is_within(*from) || until.is_some_and(is_within))
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

pub(super) fn check_client(
    client: &str,
    record: &[Entry],
    truth: &HashMap<GroupId, BTreeMap<Position, Fact>>,
    seen: &Observation,
    report: &mut Report,
) {
    let mut views: HashMap<GroupId, View> = HashMap::new();
    for entry in record {
        match entry {
            Entry::Joined(group, from) | Entry::Began(group, from) => {
                let view = views.entry(*group).or_default();
                view.since.push("joined");
                if matches!(entry, Entry::Began(..)) {
                    view.began.push(*from);
                }
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
        let declared = view.gaps.iter().filter(|gap| !view.changes_within(gap)).map(|_| (client.to_owned(), *group));
        report.declared.extend(declared);
        check_beginnings(client, *group, view, report);
        check_view(client, view, truth.get(group), report);
    }
}

fn check_beginnings(client: &str, group: GroupId, view: &View, report: &mut Report) {
    for told in &view.began {
        if let Some(since) = view.began_before(*told) {
            report.violations.push(Violation::JoinedLate(client.to_owned(), group, *told, since));
        }
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
        match truth.and_then(|rows| rows.get(&fact.position)) {
            Some(row) if row == fact => {}
            Some(row) if row.message == fact.message => bad.push(Violation::Altered(name.clone(), *fact)),
            Some(_) | None => bad.push(Violation::Unknown(name.clone(), *fact)),
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
