//! What SQL holds: all that was accepted, once and as it was, nothing else, no dead letters, and in the order it was sent.

use std::collections::{HashMap, HashSet};

use natter_shared::{
    id::{GroupId, MessageId},
    position::Position,
};

use super::{Fact, Observation, Report, Violation};

pub(super) fn check_sql(seen: &Observation, report: &mut Report) {
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
    report.violations.extend(seen.dead.iter().map(|dead| Violation::DeadLetter(*dead)));
    for accepted in &seen.accepted {
        match by_id.get(&accepted.message) {
            // That is told above.
            None if seen.dead.contains(&accepted.message) => {}
            None => report.violations.push(Violation::NotInSql(*accepted)),
            Some(row) if seen.dead.contains(&row.message) => report.violations.push(Violation::TwiceInSql(*row)),
            Some(row) if (row.group, row.position) != (accepted.group, accepted.position) => {
                report.violations.push(Violation::Moved(*accepted, *row));
            }
            Some(row) if row.content != accepted.content => report.violations.push(Violation::AlteredInSql(*accepted)),
            Some(_) => {}
        }
    }
}

pub(super) fn check_sender(sender: &str, sent: &[Fact], report: &mut Report) {
    let mut last: HashMap<GroupId, Position> = HashMap::new();
    for fact in sent {
        let before = last.insert(fact.group, fact.position);
        if before.is_some_and(|before| before >= fact.position) {
            report.violations.push(Violation::Overtook(sender.to_owned(), *fact));
        }
    }
}
