//! Messages and other events as SQL keeps them, for history and recovery.

use serde::{Deserialize, Serialize};

use super::rpc;
use crate::{
    event::Event,
    id::{EventId, GroupId, UserId},
    position::Position,
    timestamp::Timestamp,
};

/// A page of a group's messages, to a member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MessageHistory {
    /// Who asks; none where the application's back end does.
    pub user: Option<UserId>,
    /// The group.
    pub group: GroupId,
    /// Only older ones, newest of them first cut.
    pub before: Option<Position>,
    /// Only newer ones, oldest of them first cut.
    pub after: Option<Position>,
    /// How many at most.
    pub limit: u32,
}

/// A page of messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryPage {
    /// In the order of their positions.
    pub messages: Vec<RecoveredEvent>,
    /// There are more in the direction asked: a page may be short.
    pub more: bool,
}

impl HistoryPage {
    /// Up to where the page is complete, asked for `after` a position when SQL had come to `applied`.
    pub fn complete_to(&self, after: Option<Position>, applied: Position) -> Position {
        match after {
            // What follows its last message is on the next page.
            Some(after) if self.more => self.messages.last().map_or(after, |last| last.position),
            Some(_) | None => applied,
        }
    }
}
rpc!("history", MessageHistory => HistoryPage, repeatable);

/// Everything that happened in a group, or to a user, after a position: for recovery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventsAfter {
    /// Whose events; of a group, who has to be a member. None where a gateway reads for several
    /// members that it knows, and looks for their removals itself.
    pub user: Option<UserId>,
    /// The group; without one the user's own topic.
    pub group: Option<GroupId>,
    /// Only later ones.
    pub after: Position,
    /// How many at most.
    pub limit: u32,
}

/// An event read back from SQL.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecoveredEvent {
    /// Where it stands.
    pub position: Position,
    /// By which it is known.
    pub id: EventId,
    /// When it was stored.
    pub stored_at: Timestamp,
    /// The event.
    pub event: Event,
}

/// Events read back from SQL, complete up to the answer's `applied` unless there are more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventsPage {
    /// In the order of their positions.
    pub events: Vec<RecoveredEvent>,
    /// Cut by `limit` or size: ask again from the last one's position.
    pub more: bool,
    /// The asked position is of an epoch or time of which SQL does not hold everything: reset.
    pub complete: bool,
}
rpc!("events_after", EventsAfter => EventsPage, repeatable);

/// What became of a message or notification sent under an old nonce.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindAccepted {
    /// Its id, derived from sender and nonce.
    pub id: EventId,
}

/// What is stored under an id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Accepted {
    /// Where it stands.
    pub position: Position,
    /// What it is.
    pub event: Event,
}
rpc!("find_accepted", FindAccepted => Option<Accepted>, repeatable);

/// Waits until SQL has come to the request's `min_position`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AwaitApplied {}
rpc!("await_applied", AwaitApplied => (), repeatable);
