//! Inboxes: lists and counts of notifications, and the chat-room page.

use serde::{Deserialize, Serialize};

use super::{GroupOverview, Profile, rpc};
use crate::{
    event::{Data, InboxCounts},
    id::{GroupId, NotificationId, UserId},
    position::Position,
    timestamp::Timestamp,
};

/// A notification in a user's inbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InboxEntry {
    /// The notification.
    pub id: NotificationId,
    /// From whom.
    pub sender: Option<Profile>,
    /// The group it went to.
    pub group: Option<GroupId>,
    /// The text.
    pub body: String,
    /// Of the inbox, or with `group` of that group; persisters of the release before do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// When it was stored.
    pub sent_at: Timestamp,
    /// The user has seen it.
    pub seen: bool,
    /// The user has read it.
    pub read: bool,
    /// The user has archived it.
    pub archived: bool,
    /// What the sender attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
}

/// All that the chat-room page shows when it is loaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatPage {
    /// Whose page.
    pub user: UserId,
    /// How many notifications, newest first.
    pub notifications: u32,
    /// How many other users.
    pub users: u32,
    /// How many groups at most; of those, the first page.
    pub groups: u32,
}

/// What the chat-room page shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatPageData {
    /// The user.
    pub profile: Profile,
    /// The user's groups, ordered by group id.
    pub groups: Vec<GroupOverview>,
    /// There are more, which `list_groups` lists; never of persisters of the release before.
    #[serde(default)]
    pub more_groups: bool,
    /// Other users.
    pub users: Vec<Profile>,
    /// Newest first, seen ones included, archived ones not: those among the newest of the inbox.
    pub notifications: Vec<InboxEntry>,
    /// Counts of the inbox.
    pub inbox: InboxCounts,
}
rpc!("chat_page", ChatPage => ChatPageData, repeatable);

/// Where a page of an inbox was cut. Newest first, so the next page is older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxCursor {
    /// That of the last one looked at.
    pub sent_at: Timestamp,
    /// That of the last one looked at.
    pub id: NotificationId,
}

impl From<&InboxEntry> for InboxCursor {
    fn from(entry: &InboxEntry) -> Self {
        Self { sent_at: entry.sent_at, id: entry.id }
    }
}

/// A page of a user's notifications, newest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListNotifications {
    /// Whose.
    pub user: UserId,
    /// Only those before this one.
    pub before: Option<InboxCursor>,
    /// The archived ones instead of the others.
    pub archived: bool,
    /// Only those not seen.
    pub unseen: bool,
    /// How many at most.
    pub limit: u32,
}

/// A page of notifications.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NotificationsPage {
    /// Newest first.
    pub notifications: Vec<InboxEntry>,
    /// There are more.
    pub more: bool,
    /// Where to go on, which may be far behind the last one: of what lies between, none was asked for. None where there are no more, and of
    /// persisters of the release before: go on before the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<InboxCursor>,
    /// Counts of the inbox, in the same snapshot.
    pub inbox: InboxCounts,
}
rpc!("list_notifications", ListNotifications => NotificationsPage, repeatable);

/// The counts of a user's inbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CountInbox {
    /// Whose.
    pub user: UserId,
}
rpc!("count_inbox", CountInbox => InboxCounts, repeatable);

/// Has users told the counts of their inboxes, as after a change: what they were told may have been lost on its way, for
/// counts are told once and not stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TellInboxes {
    /// Whom; [`TellInboxes::MOST`] at most.
    pub users: Vec<UserId>,
}
rpc!("tell_inboxes", TellInboxes => (), repeatable);

impl TellInboxes {
    /// Users of one call.
    pub const MOST: usize = 500;
}
