//! Sabotage of the live path: each has to be caught by the checkers, or they check nothing.

use super::Fault;
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
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 9] =
        [Self::Checkpoint, Self::Dedup, Self::Fence, Self::Void, Self::Drop, Self::Double, Self::Swap, Self::Removal, Self::Count];

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
        }
    }

    /// The fault under which it shows; without sabotage that one passes.
    pub fn fault(self) -> Fault {
        match self {
            Self::Checkpoint => Fault::PersisterKill,
            Self::Dedup => Fault::LostAcks,
            Self::Fence => Fault::Joins,
            Self::Void => Fault::LateCopy,
            Self::Drop | Self::Double | Self::Swap | Self::Removal | Self::Count => Fault::Calm,
        }
    }

    /// How often the trouble happens, where less would leave it to chance. A persister that is killed shows it only if it held
    /// a shard (a lease is free again after 3 s) and was between its two commits.
    pub fn rounds(self) -> Option<usize> {
        match self {
            Self::Checkpoint => Some(30),
            Self::Dedup | Self::Fence | Self::Void | Self::Drop | Self::Double | Self::Swap | Self::Removal | Self::Count => None,
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
            Violation::NeverSent(_)
            | Violation::Moved(..)
            | Violation::Unknown(..)
            | Violation::Overtook(..)
            | Violation::Unaware(..)
            | Violation::Inbox(_) => false,
        }
    }
}
