//! The checker of inboxes: every notification once, in order and as it was sent to each connection of its recipient,
//! once in SQL, and counts that say what SQL says. Group notifications are delivered like messages,
//! and `checker` judges that; here it is their rows.

use std::collections::{HashMap, HashSet};

use natter_shared::position::Position;
use uuid::Uuid;

use crate::checker::Content;

/// What one client heard of its inbox, in the order it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A notification.
    Note(Uuid, Position, Content),
    /// The server declared that something is missing.
    Reset,
}

/// How many notifications of an inbox are not seen, and not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Not seen.
    pub unseen: u64,
    /// Not read.
    pub unread: u64,
}

/// A notification to one user, as accepted or stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Its id.
    pub id: Uuid,
    /// Its recipient.
    pub to: String,
    /// Where it stands.
    pub position: Position,
    /// Its sender and body.
    pub content: Content,
}

/// What one client was told.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// The client.
    pub client: String,
    /// Its user.
    pub user: String,
    /// In the order it came.
    pub heard: Vec<Heard>,
    /// The counts of the greatest version.
    pub counts: Option<Counts>,
}

/// Everything about inboxes that a run left behind.
#[derive(Debug, Default)]
pub struct Inboxes {
    /// Tried, whatever came of it.
    pub attempted: HashSet<Uuid>,
    /// Accepted, to users.
    pub accepted: Vec<Note>,
    /// What the clients were told; each was there before the first notification.
    pub told: Vec<Told>,
    /// In SQL, to users.
    pub rows: Vec<Note>,
    /// What SQL counts.
    pub counts: HashMap<String, Counts>,
}

/// A broken promise about inboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboxViolation {
    /// Accepted, and not in SQL.
    NotInSql(Note),
    /// In SQL more than once, or nobody sent it.
    WrongRow(String, Uuid),
    /// Accepted, or told to a client, with another position than is stored.
    Moved(Note, Position),
    /// Accepted, or told to a client, with another sender or body than is stored.
    Altered(Note),
    /// After a gap was declared to a client it got nothing more, though there was something.
    Stuck(String),
    /// A client did not get it.
    Missing(String, Note),
    /// A client got it twice.
    Doubled(String, Uuid),
    /// A client got it after a later one.
    OutOfOrder(String, Uuid),
    /// A client got another user's.
    NotTheirs(String, Uuid),
    /// Told these counts; SQL has the others.
    Counts(String, Option<Counts>, Counts),
}

/// Looks at everything.
pub fn check(seen: &Inboxes) -> Vec<InboxViolation> {
    let mut bad = Vec::new();
    let mut rows = HashMap::new();
    for row in &seen.rows {
        let is_first = rows.insert((&row.to, row.id), row).is_none();
        if !is_first || !seen.attempted.contains(&row.id) {
            bad.push(InboxViolation::WrongRow(row.to.clone(), row.id));
        }
    }
    for note in &seen.accepted {
        match rows.get(&(&note.to, note.id)) {
            None => bad.push(InboxViolation::NotInSql(note.clone())),
            Some(row) => check_same(row, note.position, note.content, &mut bad),
        }
    }
    for told in &seen.told {
        check_client(told, seen, &rows, &mut bad);
    }
    bad
}

/// Whether `row` is what was said to be at `position`.
fn check_same(row: &Note, position: Position, content: Content, bad: &mut Vec<InboxViolation>) {
    if row.position != position {
        bad.push(InboxViolation::Moved(row.clone(), position));
    } else if row.content != content {
        bad.push(InboxViolation::Altered(row.clone()));
    }
}

/// How many gaps were declared.
pub fn resets(seen: &Inboxes) -> usize {
    seen.told.iter().flat_map(|told| &told.heard).filter(|heard| matches!(heard, Heard::Reset)).count()
}

fn check_client(told: &Told, seen: &Inboxes, rows: &HashMap<(&String, Uuid), &Note>, bad: &mut Vec<InboxViolation>) {
    let mut got = HashSet::new();
    let mut gaps: Vec<(Position, Option<Position>)> = Vec::new();
    let mut last = Position::START;
    for heard in &told.heard {
        match heard {
            Heard::Reset => gaps.push((last, None)),
            Heard::Note(id, position, content) => {
                if let Some((_, until @ None)) = gaps.last_mut() {
                    *until = Some(*position);
                }
                let client = told.client.clone();
                if !got.insert(*id) {
                    bad.push(InboxViolation::Doubled(client, *id));
                } else if *position <= last {
                    bad.push(InboxViolation::OutOfOrder(client, *id));
                } else if let Some(row) = rows.get(&(&told.user, *id)) {
                    check_same(row, *position, *content, bad);
                } else {
                    bad.push(InboxViolation::NotTheirs(client, *id));
                }
                last = last.max(*position);
            }
        }
    }
    let is_excused = |at: Position| gaps.iter().any(|(after, before)| at > *after && before.is_none_or(|before| at < before));
    let silent_after = gaps.last().filter(|(_, before)| before.is_none()).map(|(after, _)| *after);
    let mut is_stuck = false;
    for note in seen.accepted.iter().filter(|note| note.to == told.user && !got.contains(&note.id)) {
        if is_excused(note.position) {
            is_stuck |= silent_after.is_some_and(|after| note.position > after);
        } else {
            bad.push(InboxViolation::Missing(told.client.clone(), note.clone()));
        }
    }
    if is_stuck {
        bad.push(InboxViolation::Stuck(told.client.clone()));
    }
    let counts = seen.counts.get(&told.user).copied().unwrap_or_default();
    if told.counts != Some(counts) {
        bad.push(InboxViolation::Counts(told.client.clone(), told.counts, counts));
    }
}

#[cfg(test)]
mod tests {
    use natter_shared::position::Epoch;

    use super::*;

    fn note(number: u64) -> Note {
        Note {
            id: Uuid::from_u128(u128::from(number)),
            to: "ann".into(),
            position: Position::new(Epoch(1), number),
            content: Content::of("ben", &number.to_string()),
        }
    }

    fn heard(note: &Note) -> Heard {
        Heard::Note(note.id, note.position, note.content)
    }

    fn good() -> Inboxes {
        let notes: Vec<Note> = (1..=3).map(note).collect();
        let counts = Counts { unseen: 3, unread: 3 };
        let heard = notes.iter().map(heard).collect();
        Inboxes {
            attempted: notes.iter().map(|note| note.id).collect(),
            rows: notes.clone(),
            told: vec![Told { client: "tab".into(), user: "ann".into(), heard, counts: Some(counts) }],
            counts: [("ann".to_owned(), counts)].into(),
            accepted: notes,
        }
    }

    fn violations(spoil: impl FnOnce(&mut Inboxes)) -> Vec<InboxViolation> {
        let mut seen = good();
        spoil(&mut seen);
        check(&seen)
    }

    #[test]
    fn a_good_run_is_clean_and_a_declared_gap_is_excused() {
        assert_eq!(check(&good()), []);
        assert_eq!(violations(|seen| seen.told[0].heard[1] = Heard::Reset), []);
        let mut seen = good();
        seen.told[0].heard[1] = Heard::Reset;
        assert_eq!((resets(&good()), resets(&seen)), (0, 1));
    }

    #[test]
    fn what_is_dropped_doubled_swapped_or_another_s_is_found() {
        let client = || "tab".to_owned();
        let found = violations(|seen| {
            seen.told[0].heard.remove(1);
        });
        assert_eq!(found, [InboxViolation::Missing(client(), note(2))]);
        let found = violations(|seen| seen.told[0].heard.push(heard(&note(2))));
        assert_eq!(found, [InboxViolation::Doubled(client(), note(2).id)]);
        let found = violations(|seen| seen.told[0].heard.swap(0, 1));
        assert_eq!(found, [InboxViolation::OutOfOrder(client(), note(1).id)]);
        let found = violations(|seen| seen.told[0].heard.push(heard(&note(9))));
        assert_eq!(found, [InboxViolation::NotTheirs(client(), note(9).id)]);
    }

    #[test]
    fn who_hears_nothing_after_a_declared_gap_is_found() {
        let cut = |seen: &mut Inboxes| {
            seen.told[0].heard.truncate(1);
            seen.told[0].heard.push(Heard::Reset);
        };
        assert_eq!(violations(cut), [InboxViolation::Stuck("tab".into())]);
        let goes_on = violations(|seen| {
            cut(seen);
            seen.told[0].heard.push(heard(&note(3)));
        });
        assert_eq!(goes_on, []);
        assert_eq!(violations(|seen| seen.told[0].heard.push(Heard::Reset)), [], "there was nothing to hear");
    }

    #[test]
    fn what_is_not_where_or_as_it_was_sent_is_found() {
        let other = Note { content: note(2).content, ..note(1) };
        let swapped = violations(|seen| {
            let (one, two) = (heard(&other), heard(&Note { content: note(1).content, ..note(2) }));
            seen.told[0].heard.splice(..2, [one, two]);
        });
        assert_eq!(swapped, [InboxViolation::Altered(note(1)), InboxViolation::Altered(note(2))]);
        let found = violations(|seen| seen.rows[0] = other.clone());
        assert_eq!(found, [InboxViolation::Altered(other.clone()), InboxViolation::Altered(other.clone())], "accepted, and told");
        let told = Note { position: Position::new(Epoch(1), 9), ..note(3) };
        let found = violations(|seen| seen.told[0].heard[2] = heard(&told));
        assert_eq!(found, [InboxViolation::Moved(note(3), told.position)]);
        let found = violations(|seen| seen.accepted[2] = told.clone());
        assert_eq!(found, [InboxViolation::Moved(note(3), told.position)]);
    }

    #[test]
    fn rows_and_counts_must_be_right() {
        let found = violations(|seen| drop(seen.rows.pop()));
        assert!(found.contains(&InboxViolation::NotInSql(note(3))), "{found:?}");
        let found = violations(|seen| seen.rows.push(note(3)));
        assert_eq!(found, [InboxViolation::WrongRow("ann".into(), note(3).id)]);
        let (told, is) = (Counts { unseen: 4, unread: 3 }, Counts { unseen: 3, unread: 3 });
        let found = violations(|seen| seen.told[0].counts = Some(told));
        assert_eq!(found, [InboxViolation::Counts("tab".into(), Some(told), is)]);
    }
}
