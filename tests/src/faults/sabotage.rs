//! Sabotage of the live path: each has to be caught by the checkers, or they check nothing.

use super::{Fault, Outcome};
use crate::{checker::Violation, inboxes::InboxViolation};

/// A failpoint in the server, and where it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The checkpoint is committed before the rows.
    Checkpoint,
    /// A retry of a publish has an id of its own.
    Dedup,
    /// A group is live without waiting for the fence.
    Fence,
    /// What came late counts.
    Void,
    /// A live delivery is lost, and its gap not noticed.
    Drop,
    /// A live delivery comes twice.
    Double,
    /// Deliveries come in another order.
    Swap,
    /// A removed member stays in delivery.
    Removal,
    /// The inbox's count is off by one.
    Count,
    /// A sender's last message goes before those that wait.
    Overtake,
    /// A live notification is lost.
    Note,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Checkpoint,
        Self::Dedup,
        Self::Fence,
        Self::Void,
        Self::Drop,
        Self::Double,
        Self::Swap,
        Self::Removal,
        Self::Count,
        Self::Overtake,
        Self::Note,
    ];

    /// As it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Dedup => "dedup",
            Self::Fence => "fence",
            Self::Void => "void",
            Self::Drop => "drop",
            Self::Double => "double",
            Self::Swap => "swap",
            Self::Removal => "removal",
            Self::Count => "count",
            Self::Overtake => "overtake",
            Self::Note => "note",
        }
    }

    /// What it spoils.
    pub fn about(self) -> &'static str {
        match self {
            Self::Checkpoint => "the checkpoint is committed before its rows",
            Self::Dedup => "each try of a publish has another id",
            Self::Fence => "a group is joined without waiting for the fence",
            Self::Void => "what is stored late counts",
            Self::Drop => "some live deliveries are lost",
            Self::Double => "some live deliveries come twice",
            Self::Swap => "some live deliveries change places",
            Self::Removal => "a removed member stays in delivery",
            Self::Count => "the counts of inboxes are off by one",
            Self::Overtake => "of a sender's messages that wait the last one goes first",
            Self::Note => "some notifications are lost on their way to users",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sabotage| sabotage.name() == name)
    }

    /// For the variable `FAILPOINTS`.
    pub fn failpoints(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint-first=return",
            Self::Dedup => "no-dedup=return",
            Self::Fence => "no-fence=return",
            Self::Void => "no-void=return",
            Self::Drop => "drop=1%return",
            Self::Double => "double=1%return",
            Self::Swap => "swap=return",
            Self::Removal => "after-removal=return",
            Self::Count => "count=return",
            Self::Overtake => "unordered=return",
            Self::Note => "drop-note=5%return",
        }
    }

    /// The fault under which it shows; without sabotage that one passes.
    pub fn fault(self) -> Fault {
        match self {
            Self::Checkpoint => Fault::PersisterKill,
            Self::Dedup => Fault::LostAcks,
            Self::Fence => Fault::Joins,
            Self::Void => Fault::LateCopy,
            Self::Drop | Self::Double | Self::Swap | Self::Removal | Self::Count | Self::Overtake | Self::Note => Fault::Calm,
        }
    }

    /// How often the trouble happens, where less would leave it to chance. A persister that is killed shows it only if it held
    /// a shard (a lease is free again after 3 s) and was between its two commits.
    pub fn rounds(self) -> Option<usize> {
        match self {
            Self::Checkpoint => Some(30),
            Self::Dedup
            | Self::Fence
            | Self::Void
            | Self::Drop
            | Self::Double
            | Self::Swap
            | Self::Removal
            | Self::Count
            | Self::Overtake
            | Self::Note => None,
        }
    }

    /// Whether this is what it does: being caught by something else would prove nothing.
    pub fn explains(self, violation: &Violation) -> bool {
        match violation {
            Violation::NotInSql(_) | Violation::Inbox(InboxViolation::NotInSql(_)) => self == Self::Checkpoint,
            Violation::TwiceInSql(_) | Violation::Doubled(..) => matches!(self, Self::Dedup | Self::Void | Self::Double),
            Violation::Missing(..) => matches!(self, Self::Drop | Self::Fence),
            Violation::OutOfOrder(..) => self == Self::Swap,
            Violation::NotMember(..) | Violation::Lingers(..) => self == Self::Removal,
            Violation::Inbox(InboxViolation::Counts(..)) => self == Self::Count,
            Violation::Inbox(InboxViolation::Missing(..)) => self == Self::Note,
            Violation::Overtook(..) => self == Self::Overtake,
            Violation::NeverSent(_)
            | Violation::Moved(..)
            | Violation::AlteredInSql(_)
            | Violation::Altered(..)
            | Violation::Unknown(..)
            | Violation::Unaware(..)
            | Violation::JoinedLate(..)
            | Violation::EndedWrongly(..)
            | Violation::LastMissing(..)
            | Violation::Stuck(..)
            | Violation::DeadLetter(_)
            | Violation::CommandLost(..)
            | Violation::Reset(..)
            | Violation::Inbox(_) => false,
        }
    }
}

/// What a run under a sabotage showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// The checkers found what it does.
    Found,
    /// It ran to its end, and they did not.
    Missed,
    /// Nothing: it could not run here, or failed before there was a verdict.
    Nothing,
}

impl Finding {
    /// Of a run under `sabotage`.
    pub fn of(sabotage: Sabotage, outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Skipped(_) => Self::Nothing,
            Outcome::Ran(row) if row.error.is_some() => Self::Nothing,
            Outcome::Ran(row) if row.violations.iter().any(|violation| sabotage.explains(violation)) => Self::Found,
            Outcome::Ran(_) => Self::Missed,
        }
    }

    /// As it is told.
    pub fn text(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Missed => "NOT FOUND",
            Self::Nothing => "NOT SHOWN",
        }
    }
}

/// The exit status where a run showed nothing about its sabotage.
pub const NOTHING_SHOWN: u8 = 2;

/// The exit status of a sabotage alone: found, it is a broken promise like any other.
pub fn status_of_one(finding: Finding) -> u8 {
    match finding {
        Finding::Found => 1,
        Finding::Missed => 0,
        Finding::Nothing => NOTHING_SHOWN,
    }
}

/// The exit status of all of them, which are a test of the checkers.
pub fn status_of_all(findings: &[Finding]) -> u8 {
    if findings.contains(&Finding::Missed) {
        1
    } else if findings.contains(&Finding::Nothing) {
        NOTHING_SHOWN
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use natter_shared::id::GroupId;
    use uuid::Uuid;

    use super::*;
    use crate::{checker::Report, faults::Row};

    #[test]
    fn only_what_a_sabotage_does_finds_it_and_a_run_that_failed_shows_nothing() {
        let of = |outcome| Finding::of(Sabotage::Removal, &outcome);
        let ran = |violation| {
            let report = Report { violations: vec![violation], ..Report::default() };
            of(Outcome::Ran(Row::of("removal", 1, &report, None)))
        };
        let group = GroupId(Uuid::nil());
        assert_eq!(ran(Violation::Lingers("ann".into(), group)), Finding::Found);
        assert_eq!(ran(Violation::Unaware("ann".into(), group)), Finding::Missed);
        assert_eq!(of(Outcome::Ran(Row::failed("removal", 1, &anyhow::anyhow!("NATS did not start")))), Finding::Nothing);
        assert_eq!(of(Outcome::Skipped("needs root".into())), Finding::Nothing);
    }

    #[test]
    fn each_finding_has_a_status_of_its_own() {
        use Finding::{Found, Missed, Nothing};
        assert_eq!([Found, Missed, Nothing].map(status_of_one), [1, 0, 2]);
        assert_eq!([&[Found, Found][..], &[Found, Missed, Nothing], &[Nothing, Found]].map(status_of_all), [0, 1, 2]);
    }
}
