//! What a fault came to, as a row; and the table of all.

use std::{fmt::Write as _, time::Duration};

use super::NOTHING_SHOWN;
use crate::{
    checker::{Report, Violation},
    inboxes::InboxViolation,
};

/// What is kept of violations to be shown.
const SHOWN: usize = 5;

/// What one run came to.
#[derive(Debug, Default)]
pub struct Row {
    /// The fault, or the sabotage.
    pub name: String,
    /// Of its dice.
    pub seed: u64,
    accepted: usize,
    stored: usize,
    delivered: usize,
    recovered: usize,
    reset: usize,
    lost: usize,
    doubled: usize,
    out_of_order: usize,
    to_non_members: usize,
    /// Moved, altered, unknown, miscounted, reset without a reason.
    wrong: usize,
    /// Not measured by every fault.
    longest: Option<Duration>,
    /// What failed, if not by the checkers' verdict.
    pub error: Option<String>,
    /// The verdict.
    pub violations: Vec<Violation>,
    /// Figures, and what is known about violations.
    pub notes: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl Row {
    /// Of a run that came to its end.
    pub(super) fn of(name: &str, seed: u64, report: &Report, longest: Option<Duration>) -> Self {
        let mut row = Self {
            name: name.to_owned(),
            seed,
            accepted: report.accepted,
            stored: report.stored,
            delivered: report.deliveries,
            recovered: report.recovered,
            reset: report.resets,
            longest,
            violations: report.violations.clone(),
            notes: report.in_vain.iter().take(SHOWN).chain(report.notes.iter().take(SHOWN)).cloned().collect(),
            ..Self::default()
        };
        for violation in &report.violations {
            *row.column(violation) += 1;
        }
        row
    }

    /// Of one that did not.
    pub(super) fn failed(name: &str, seed: u64, error: &anyhow::Error) -> Self {
        Self { name: name.to_owned(), seed, error: Some(format!("{error:#}")), ..Self::default() }
    }

    fn column(&mut self, violation: &Violation) -> &mut usize {
        match violation {
            Violation::NotInSql(_)
            | Violation::DeadLetter(_)
            | Violation::CommandLost(..)
            | Violation::Missing(..)
            | Violation::LastMissing(..)
            | Violation::Stuck(..)
            | Violation::JoinedLate(..)
            | Violation::EndedWrongly(..) => &mut self.lost,
            Violation::TwiceInSql(_) | Violation::Doubled(..) => &mut self.doubled,
            Violation::OutOfOrder(..) | Violation::Overtook(..) => &mut self.out_of_order,
            Violation::NotMember(..) => &mut self.to_non_members,
            Violation::NeverSent(_)
            | Violation::Moved(..)
            | Violation::AlteredInSql(_)
            | Violation::Unknown(..)
            | Violation::Altered(..)
            | Violation::Lingers(..)
            | Violation::Unaware(..)
            | Violation::Reset(..) => &mut self.wrong,
            Violation::Inbox(inbox) => match inbox {
                InboxViolation::NotInSql(_) | InboxViolation::Missing(..) | InboxViolation::Stuck(_) => &mut self.lost,
                InboxViolation::Doubled(..) => &mut self.doubled,
                InboxViolation::OutOfOrder(..) => &mut self.out_of_order,
                InboxViolation::NotTheirs(..) => &mut self.to_non_members,
                InboxViolation::WrongRow(..) | InboxViolation::Moved(..) | InboxViolation::Altered(_) | InboxViolation::Counts(..) => {
                    &mut self.wrong
                }
            },
        }
    }

    /// Whether every promise was kept.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.error.is_none()
    }

    /// Everything that there is to say about it beside the table.
    pub fn remarks(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            let _ = writeln!(text, "  {}: {note}", self.name);
        }
        for violation in self.violations.iter().take(SHOWN) {
            let _ = writeln!(text, "  {}: BROKEN: {violation:?}", self.name);
        }
        if self.violations.len() > SHOWN {
            let _ = writeln!(text, "  {}: … {} broken promises", self.name, self.violations.len());
        }
        if let Some(error) = &self.error {
            let _ = writeln!(text, "  {}: FAILED: {error}", self.name);
        }
        text
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.name.clone(), self.seed.to_string()];
        if self.error.is_some() {
            cells.extend(std::iter::repeat_n("?".to_owned(), COLUMNS.len() - 3));
            cells.push("failed".to_owned());
            return cells;
        }
        let counts = [
            self.accepted,
            self.stored,
            self.delivered,
            self.recovered,
            self.reset,
            self.lost,
            self.doubled,
            self.out_of_order,
            self.to_non_members,
            self.wrong,
        ];
        cells.extend(counts.map(|count| count.to_string()));
        cells.push(self.longest.map_or("-".to_owned(), |longest| format!("{:.1} s", longest.as_secs_f64())));
        cells
    }
}

const COLUMNS: [&str; 13] = [
    "fault",
    "seed",
    "accepted",
    "stored",
    "delivered",
    "recovered",
    "reset",
    "lost",
    "doubled",
    "out of order",
    "to non-members",
    "wrong",
    "longest outage",
];

/// The rows as a table, which is Markdown too.
pub fn table(rows: &[Row]) -> String {
    let mut lines: Vec<Vec<String>> = vec![COLUMNS.iter().map(|&name| name.to_owned()).collect()];
    lines.extend(rows.iter().map(Row::cells));
    let width = |column: usize| lines.iter().filter_map(|cells| cells.get(column)).map(String::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let mut text = String::new();
    for (number, cells) in lines.iter().enumerate() {
        let padded = cells.iter().zip(&widths).enumerate();
        let padded = padded.map(|(column, (cell, width))| if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") });
        let _ = writeln!(text, "| {} |", padded.collect::<Vec<_>>().join(" | "));
        if number == 0 {
            let rule = widths.iter().enumerate().map(|(column, width)| "-".repeat(*width) + if column == 0 { "-" } else { ":" });
            let _ = writeln!(text, "|-{}|", rule.collect::<Vec<_>>().join("|-"));
        }
    }
    text
}

/// What a run of several faults says in its last line, and its exit status: 1 where a promise was broken, [`NOTHING_SHOWN`]
/// where nothing ran.
pub fn verdict(rows: &[Row], skipped: &[&str], seed: u64) -> (String, u8) {
    let bad: Vec<&str> = rows.iter().filter(|row| !row.is_good()).map(|row| row.name.as_str()).collect();
    if !bad.is_empty() {
        (format!("BROKEN: {} (seed {seed})", bad.join(", ")), 1)
    } else if rows.is_empty() {
        ("nothing was shown: all that was chosen is skipped".to_owned(), NOTHING_SHOWN)
    } else if skipped.is_empty() {
        ("every promise was kept".to_owned(), 0)
    } else {
        (format!("every promise was kept, {} skipped: {}", skipped.len(), skipped.join(", ")), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_nothing_is_no_success_and_what_was_skipped_is_said() {
        let good = || Row::of("calm", 1, &Report::default(), None);
        let bad = Row::failed("chaos", 1, &anyhow::anyhow!("no"));
        assert_eq!(verdict(&[good()], &[], 7), ("every promise was kept".to_owned(), 0));
        assert_eq!(verdict(&[good()], &["drain"], 7), ("every promise was kept, 1 skipped: drain".to_owned(), 0));
        assert_eq!(verdict(&[], &["drain"], 7).1, NOTHING_SHOWN);
        assert_eq!(verdict(&[good(), bad], &["drain"], 7), ("BROKEN: chaos (seed 7)".to_owned(), 1));
    }

    #[test]
    fn a_row_is_as_wide_as_the_table_and_a_violation_is_counted() {
        let good = Row::of("calm", 1, &Report::default(), Some(Duration::from_millis(120)));
        let fact = crate::checker::Fact {
            message: natter_shared::id::MessageId(uuid::Uuid::nil()),
            group: natter_shared::id::GroupId(uuid::Uuid::nil()),
            position: natter_shared::position::Position::START,
            content: crate::checker::Content::of("ann", "hello"),
        };
        let broken = Report { violations: vec![Violation::Doubled("ann".into(), fact)], ..Report::default() };
        let bad = Row::of("drain", 1, &broken, None);
        let failed = Row::failed("chaos", 1, &anyhow::anyhow!("no"));
        assert!(good.is_good() && !bad.is_good() && !failed.is_good());
        assert_eq!((good.cells().pop(), bad.cells().pop()), (Some("0.1 s".to_owned()), Some("-".to_owned())), "not measured is not 0");
        let text = table(&[good, bad, failed]);
        let pipes: Vec<usize> = text.lines().map(|line| line.matches('|').count()).collect();
        assert_eq!(pipes, vec![COLUMNS.len() + 1; 5], "{text}");
        assert_eq!(text.lines().map(str::len).max(), text.lines().map(str::len).min(), "{text}");
    }
}
