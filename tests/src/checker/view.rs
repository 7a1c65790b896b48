//! What one client got of each group, against what SQL says that it should have.

use std::collections::{BTreeMap, HashMap, HashSet};

use natter_shared::{
    id::{GroupId, MessageId},
    position::Position,
};

use super::{Entry, Fact, Observation, Report, Time, Violation};

/// A declared gap.
struct Gap {
    /// The last delivery before it, or where the membership began.
    after: Position,
    /// The next one, or where the next membership begins.
    before: Option<Position>,
    /// It was declared to who took itself for no member: where the membership is another one, nothing is missing.
    to_no_member: bool,
}

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
    /// What it had when it was not told of the group any more, and it has not been since.
    gone: Option<Position>,
    gaps: Vec<Gap>,
    /// What else was told after the last delivery.
    since: Vec<&'static str>,
    /// Up to where the client has the group, at the end.
    stands: Option<Position>,
}

impl View {
    /// Of who is a member at these times, if that is known.
    fn of(truly: Option<Vec<Time>>) -> Self {
        Self { truly, ..Self::default() }
    }

    /// It was told that a membership begins, or that delivery goes on, after `from`.
    fn begin(&mut self, from: Position) {
        // A join of a member changes nothing.
        if self.is_member() {
            return;
        }
        if self.gone.take().is_some_and(|had| self.is_one_membership(had, Some(from))) {
            return self.reopen();
        }
        self.times.push((from, None));
        // Whatever was missing of an earlier membership: all of this one is due.
        self.close_gap(from);
    }

    /// Whether it takes itself for a member.
    fn is_member(&self) -> bool {
        matches!(self.times.last(), Some((_, None)))
    }

    fn open_gap(&self) -> Option<&Gap> {
        self.gaps.last().filter(|gap| gap.before.is_none())
    }

    fn close_gap(&mut self, at: Position) {
        if let Some(Gap { before: before @ None, .. }) = self.gaps.last_mut() {
            *before = Some(at);
        }
    }

    /// Signing in, it was not told of the group.
    fn go(&mut self) {
        let had = self.had();
        if let Some((_, until @ None)) = self.times.last_mut() {
            (*until, self.gone) = (Some(had), Some(had));
        }
    }

    /// The end of its membership that it concluded was none.
    fn reopen(&mut self) {
        if let Some((_, until)) = self.times.last_mut() {
            *until = None;
        }
    }

    /// Nothing more comes: of a membership that never ended all is due, whatever the client concluded.
    fn end(&mut self) {
        if self.gone.take().is_some_and(|had| self.is_one_membership(had, None)) {
            self.reopen();
        }
    }

    /// Whether the user was a member all the time from `since` to `then`, or for good.
    fn is_one_membership(&self, since: Position, then: Option<Position>) -> bool {
        let is_one = |(from, until): &Time| *from <= since && until.is_none_or(|until| then.is_some_and(|then| then <= until));
        self.truly.iter().flatten().any(is_one)
    }

    /// Whether a membership ended at `at`, as far as that is known.
    fn ends_at(&self, at: Position) -> bool {
        self.truly.as_ref().is_none_or(|truly| truly.iter().any(|(_, until)| *until == Some(at)))
    }

    /// The last delivery before a declared gap after which nothing was told, while it is a member still.
    fn silent_after(&self) -> Option<Position> {
        self.open_gap().filter(|_| self.is_member()).map(|gap| gap.after)
    }

    fn last(&self) -> Position {
        self.delivered.last().map_or(Position::START, |fact| fact.position)
    }

    /// Up to where it was told all: its last delivery, or where its membership began after that.
    fn had(&self) -> Position {
        match self.times.last() {
            Some((from, None)) => self.last().max(*from),
            Some((_, Some(_))) | None => self.last(),
        }
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
    fn changes_within(&self, gap: &Gap) -> bool {
        let is_within = |at: Position| at > gap.after && gap.before.is_none_or(|before| at < before);
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
        self.gaps.iter().any(|gap| position > gap.after && gap.before.is_none_or(|before| position < before))
    }
}

pub(super) fn check_client(
    client: &str,
    record: &[Entry],
    truth: &HashMap<GroupId, BTreeMap<Position, Fact>>,
    seen: &Observation,
    report: &mut Report,
) {
    let user = seen.users.get(client).cloned().unwrap_or_default();
    let truly = |group: GroupId| {
        let memberships = seen.memberships.as_ref()?;
        Some(memberships.get(&(group, user.clone())).cloned().unwrap_or_default())
    };
    let mut views: HashMap<GroupId, View> = HashMap::new();
    for entry in record {
        let group = entry.group();
        let view = views.entry(group).or_insert_with(|| View::of(truly(group)));
        match entry {
            Entry::Joined(_, from) => {
                view.since.push("joined");
                view.begin(*from);
            }
            Entry::Began(_, from) => {
                view.since.push("joined");
                view.began.push(*from);
                view.begin(*from);
            }
            Entry::Left(_, at) => {
                view.since.push("left");
                // Where it is not known where exactly it ended, a gap is declared before this.
                if !view.ends_at(*at) && view.open_gap().is_none() {
                    report.violations.push(Violation::EndedWrongly(client.to_owned(), group, *at));
                }
                if let Some((_, until @ None)) = view.times.last_mut() {
                    *until = Some(*at);
                }
                if let Some(later) = view.delivered.iter().find(|fact| fact.position > *at) {
                    report.violations.push(Violation::OutOfOrder(client.to_owned(), *later));
                }
                view.left = *at;
            }
            Entry::Gone(_) => {
                view.since.push("gone");
                view.go();
            }
            Entry::Reset(_) => {
                view.since.push("reset");
                view.gaps.push(Gap { after: view.had(), before: None, to_no_member: !view.times.is_empty() && !view.is_member() });
            }
            Entry::Delivered(fact) => {
                report.deliveries += 1;
                view.since.clear();
                if fact.position <= view.left {
                    report.violations.push(Violation::OutOfOrder(client.to_owned(), *fact));
                }
                view.close_gap(fact.position);
                view.delivered.push(*fact);
            }
        }
    }
    for (group, view) in &mut views {
        view.end();
        view.stands = seen.following.get(client).and_then(|follows| follows.get(group)).copied();
        for gap in &view.gaps {
            let changes = view.changes_within(gap);
            report.resets += usize::from(!(changes && gap.to_no_member));
            if !changes {
                report.declared.push((client.to_owned(), *group));
            }
        }
        check_beginnings(client, *group, view, report);
        check_view((client, *group), view, truth.get(group), report);
    }
}

fn check_beginnings(client: &str, group: GroupId, view: &View, report: &mut Report) {
    for told in &view.began {
        if let Some(since) = view.began_before(*told) {
            report.violations.push(Violation::JoinedLate(client.to_owned(), group, *told, since));
        }
    }
}

fn check_view((client, group): (&str, GroupId), view: &View, truth: Option<&BTreeMap<Position, Fact>>, report: &mut Report) {
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
    let silent_after = view.silent_after();
    let mut is_stuck = false;
    for fact in truth.into_iter().flat_map(BTreeMap::values) {
        if view.is_due(fact.position) && !got.contains(&fact.message) {
            if view.is_excused(fact.position) {
                report.excused += 1;
                is_stuck |= silent_after.is_some_and(|after| fact.position > after);
            } else {
                report.notes.push(view.surroundings(client, fact.position));
                bad.push(Violation::Missing(client.to_owned(), *fact));
            }
        }
    }
    if is_stuck {
        bad.push(Violation::Stuck(client.to_owned(), group));
    }
}
