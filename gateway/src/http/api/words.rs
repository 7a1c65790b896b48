//! What answers are made of, as JSON and in the OpenAPI document.

use natter_shared::{
    event::{Data, GroupKind, InboxCounts, Role},
    frame::MessageFrame,
    id::{GroupId, MessageId, Nonce, NotificationId, RoomName, UserId},
    position::Position,
    rpc::{GroupOverview, GroupRecord, InboxEntry, Profile},
    timestamp::Timestamp,
};
use serde::Serialize;
use utoipa::ToSchema;

/// A user as others know it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub(super) struct UserWord {
    /// The token's `sub`.
    #[schema(value_type = String)]
    pub(super) id: UserId,
    /// By which others find the user.
    pub(super) handle: String,
    /// What people see.
    pub(super) display_name: String,
}

impl From<Profile> for UserWord {
    fn from(profile: Profile) -> Self {
        Self { id: profile.id, handle: profile.handle, display_name: profile.display_name }
    }
}

/// Who gave a group's kind its name in the document.
#[derive(ToSchema)]
#[schema(as = GroupKind, rename_all = "snake_case")]
#[allow(dead_code, reason = "describes natter_shared::event::GroupKind")]
pub(super) enum KindWord {
    Single,
    Group,
    Open,
}

/// What a member may do.
#[derive(ToSchema)]
#[schema(as = Role, rename_all = "snake_case")]
#[allow(dead_code, reason = "describes natter_shared::event::Role")]
pub(super) enum RoleWord {
    Member,
    Admin,
    Owner,
}

/// A group as one of its members knows it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Group)]
pub(super) struct GroupWord {
    #[schema(value_type = uuid::Uuid)]
    id: GroupId,
    #[schema(value_type = KindWord)]
    kind: GroupKind,
    /// An open group's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    name: Option<RoomName>,
    /// What people see.
    display_name: String,
    /// What this user may do.
    #[schema(value_type = RoleWord)]
    role: Role,
    /// How far this user has read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    last_read: Option<Position>,
    /// Messages after `last_read`.
    unread: u64,
    /// The position up to which `unread` is counted.
    #[schema(value_type = String)]
    unread_at: Position,
    /// The newest message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    last_message: Option<LastMessageWord>,
    /// The other one of a one-to-one group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    other: Option<UserWord>,
}

/// The newest message of a group.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LastMessage)]
pub(super) struct LastMessageWord {
    #[schema(value_type = uuid::Uuid)]
    id: MessageId,
    #[schema(value_type = String)]
    position: Position,
    #[schema(value_type = String)]
    sender: UserId,
    /// Cut to 256 characters.
    body: String,
    #[schema(value_type = String, format = DateTime)]
    sent_at: Timestamp,
}

impl GroupWord {
    /// The group as SQL had it at `applied`.
    pub(super) fn of(overview: GroupOverview, applied: Position) -> Self {
        let GroupOverview { membership, last_message, other } = overview;
        let last_message = last_message.map(|last| LastMessageWord {
            id: last.id,
            position: last.position,
            sender: last.sender,
            body: last.body,
            sent_at: last.sent_at,
        });
        Self {
            id: membership.group,
            kind: membership.kind,
            name: membership.name,
            display_name: membership.display_name,
            role: membership.role,
            last_read: membership.last_read,
            unread: membership.unread,
            unread_at: applied,
            last_message,
            other: other.map(UserWord::from),
        }
    }
}

/// A group as the application's back end knows it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ServerGroup)]
pub(super) struct RecordWord {
    #[schema(value_type = uuid::Uuid)]
    id: GroupId,
    #[schema(value_type = KindWord)]
    kind: GroupKind,
    /// An open group's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    name: Option<RoomName>,
    /// What people see.
    display_name: String,
    /// How many members it has; beyond 10,000 they are not counted on.
    members: u64,
    /// How many messages it has had.
    messages: u64,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<GroupRecord> for RecordWord {
    fn from(record: GroupRecord) -> Self {
        let GroupRecord { group, kind, name, display_name, members, messages, created_at } = record;
        Self { id: group, kind, name, display_name, members, messages, created_at }
    }
}

/// A member of a group.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Member)]
pub(super) struct MemberWord {
    pub(super) user: UserWord,
    #[schema(value_type = RoleWord)]
    pub(super) role: Role,
}

/// Where something is stored.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Stored)]
pub(super) struct StoredWord {
    /// In the group's order.
    #[schema(value_type = String)]
    pub(super) position: Position,
}

/// A message, as on the socket.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Message)]
pub(super) struct MessageWord {
    #[schema(value_type = uuid::Uuid)]
    group: GroupId,
    #[schema(value_type = uuid::Uuid)]
    id: MessageId,
    #[schema(value_type = String)]
    sender: UserId,
    #[schema(value_type = uuid::Uuid)]
    nonce: Nonce,
    body: String,
    #[schema(value_type = String)]
    position: Position,
    #[schema(value_type = String, format = DateTime)]
    sent_at: Timestamp,
    /// The message it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>, nullable = false)]
    reply_to: Option<MessageId>,
    /// What the sender attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Data>,
}

impl From<MessageFrame> for MessageWord {
    fn from(frame: MessageFrame) -> Self {
        let MessageFrame { group, id, sender, nonce, body, position, sent_at, reply_to, data } = frame;
        Self { group, id, sender, nonce, body, position, sent_at, reply_to, data }
    }
}

/// A notification in one's inbox.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Notification)]
pub(super) struct NotificationWord {
    #[schema(value_type = uuid::Uuid)]
    id: NotificationId,
    /// From whom; from the system without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sender: Option<UserWord>,
    /// The group it went to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>, nullable = false)]
    group: Option<GroupId>,
    body: String,
    /// What the sender attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Data>,
    /// Of the inbox, or with `group` of that group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    position: Option<Position>,
    #[schema(value_type = String, format = DateTime)]
    sent_at: Timestamp,
    seen: bool,
    read: bool,
    archived: bool,
}

impl From<InboxEntry> for NotificationWord {
    fn from(entry: InboxEntry) -> Self {
        let InboxEntry { id, sender, group, body, position, sent_at, seen, read, archived, data } = entry;
        Self { id, sender: sender.map(UserWord::from), group, body, data, position, sent_at, seen, read, archived }
    }
}

/// Counts of an inbox.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Inbox)]
pub(super) struct InboxWord {
    unseen: u64,
    unread: u64,
    /// Of two counts the one with the greater version holds.
    #[schema(value_type = String)]
    version: Position,
}

impl From<InboxCounts> for InboxWord {
    fn from(counts: InboxCounts) -> Self {
        let InboxCounts { unseen, unread, version } = counts;
        Self { unseen, unread, version }
    }
}
