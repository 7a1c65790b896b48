//! How links behave, and which.

use std::time::Duration;

/// How a direction of a connection behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// What comes goes on at once.
    #[default]
    Fair,
    /// Everything arrives so much later, in order.
    Delayed(Duration),
    /// Nothing arrives, and nobody is told: what was sent meanwhile goes on when it is fair again.
    Silent,
}

/// How both directions behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Condition {
    /// To the server.
    pub up: Link,
    /// From the server.
    pub down: Link,
    /// New connections are reset at once.
    pub refusing: bool,
}

impl Condition {
    /// Both directions alike.
    pub fn both(link: Link) -> Self {
        Self { up: link, down: link, refusing: false }
    }

    /// Whoever comes is turned away; who is here stays. (Names are not known yet when a connection
    /// comes, so it is for [`Select::All`] only.)
    pub fn refusing() -> Self {
        Self { refusing: true, ..Self::default() }
    }
}

/// Which connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select {
    /// All of them, whose name is not known yet included.
    All,
    /// Whose name contains this.
    Named(String),
}

impl Select {
    /// Whose name contains `part`.
    pub fn named(part: &str) -> Self {
        Self::Named(part.to_owned())
    }

    pub(super) fn matches(&self, name: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Named(part) => name.is_some_and(|name| name.contains(part)),
        }
    }
}

/// What holds now; later entries go before earlier ones.
pub(super) type Rules = Vec<(Select, Condition)>;

pub(super) fn condition(rules: &Rules, name: Option<&str>) -> Condition {
    rules.iter().rev().find(|(select, _)| select.matches(name)).map_or_else(Condition::default, |(_, condition)| *condition)
}
