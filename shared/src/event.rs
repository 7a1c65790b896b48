//! Events: what the streams hold. An event is stored once on the subject of its group or user,
//! delivered after, and projected into SQL.
//!
//! The envelope (id, position, times) travels beside the payload, in headers or columns; the
//! payload is the JSON of [`Event`]. Fields are only ever added. A type that is added is published only from the release after
//! the one that can read it: a persister that does not know it passes over it, into the dead letters, and nothing brings it back.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    id::{GroupId, MessageId, Nonce, NotificationId, RoomName, SessionId, UserId},
    position::Position,
    tagged::tagged,
};

/// Free-form JSON that a client attached; carried as it came.
pub type Data = Arc<RawValue>;

/// An event's payload.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// On the group's topic: somebody said something.
    Message(Message),
    /// On the recipient's topic, or a group's for all its members.
    Notification(Notification),
    /// On the group's topic: it exists from here on, with these members.
    GroupCreated(GroupCreated),
    /// On the group's topic: a member from here on.
    MemberAdded(MemberAdded),
    /// On the group's topic: no member from here on.
    MemberRemoved(MemberRemoved),
    /// On the group's topic: another name from here on.
    GroupRenamed(GroupRenamed),
    /// On the user's topic, derived from the group's event: subscribe, from this position.
    GroupJoined(GroupJoined),
    /// On the user's topic, derived from the group's event: leave.
    GroupLeft(GroupLeft),
    /// On the user's topic: how far the user has read a group.
    Read(Read),
    /// On the user's topic: which notifications the user has seen.
    Seen(Seen),
    /// On a gateway's own topic: a probe of the path.
    Canary,
}

tagged!(Event {
    "message" => Message(Message),
    "notification" => Notification(Notification),
    "group_created" => GroupCreated(GroupCreated),
    "member_added" => MemberAdded(MemberAdded),
    "member_removed" => MemberRemoved(MemberRemoved),
    "group_renamed" => GroupRenamed(GroupRenamed),
    "group_joined" => GroupJoined(GroupJoined),
    "group_left" => GroupLeft(GroupLeft),
    "read" => Read(Read),
    "seen" => Seen(Seen),
    "canary" => Canary,
});

impl Event {
    /// The payload as the broker carries it.
    ///
    /// # Errors
    /// None in practice: an event is plain data.
    pub fn encode(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(self).map(Bytes::from)
    }

    /// The message, of an event that is one.
    pub fn into_message(self) -> Option<Message> {
        match self {
            Self::Message(message) => Some(message),
            Self::Notification(_)
            | Self::GroupCreated(_)
            | Self::MemberAdded(_)
            | Self::MemberRemoved(_)
            | Self::GroupRenamed(_)
            | Self::GroupJoined(_)
            | Self::GroupLeft(_)
            | Self::Read(_)
            | Self::Seen(_)
            | Self::Canary => None,
        }
    }

    /// The event in a payload.
    ///
    /// # Errors
    /// Where the payload is not of this shape: poison for a persister, skipped by a gateway.
    pub fn decode(payload: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(payload)
    }
}

/// A message in a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    /// Derived from sender and nonce.
    pub id: MessageId,
    /// Its group.
    pub group: GroupId,
    /// Who sent it; set by the gateway, never by the client.
    pub sender: UserId,
    /// The client's nonce.
    pub nonce: Nonce,
    /// The text.
    pub body: String,
    /// The message it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    /// What the client attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
    /// The connection that sent it (the chat-room protocol does not echo to it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<SessionId>,
}

/// To whom a notification goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// One user.
    User(UserId),
    /// The members of a group as of the event's position.
    Group(GroupId),
}

/// A notification.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Notification {
    /// Derived from sender and nonce.
    pub id: NotificationId,
    /// To whom.
    pub to: Audience,
    /// From whom; none from the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<UserId>,
    /// The client's nonce.
    pub nonce: Nonce,
    /// The text.
    pub body: String,
    /// What the client attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
}

/// What kind of group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// Two users, for good.
    Single,
    /// Members added by its owners.
    Group,
    /// Anybody may join by its name.
    Open,
}

impl GroupKind {
    /// As written in frames and SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Group => "group",
            Self::Open => "open",
        }
    }

    /// The kind of a written name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Single, Self::Group, Self::Open].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads and writes.
    Member,
    /// Also adds and removes members.
    Admin,
    /// Also makes admins.
    Owner,
}

impl Role {
    /// As written in frames and SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// The role of a written name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Member, Self::Admin, Self::Owner].into_iter().find(|role| role.as_str() == text)
    }
}

/// A group's first event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupCreated {
    /// Its id.
    pub group: GroupId,
    /// Its kind.
    pub kind: GroupKind,
    /// An open group's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<RoomName>,
    /// What people see.
    pub display_name: String,
    /// Its first members.
    pub members: Vec<(UserId, Role)>,
}

/// A new member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberAdded {
    /// The group.
    pub group: GroupId,
    /// The member.
    pub user: UserId,
    /// What the member may do.
    pub role: Role,
    /// Who did it; the user on joining an open group, none where the application's back end did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
}

/// A member no longer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberRemoved {
    /// The group.
    pub group: GroupId,
    /// Who was a member.
    pub user: UserId,
    /// Who did it; the user on leaving, none where the application's back end did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
}

/// A group's new name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupRenamed {
    /// The group; never a one-to-one, whose name follows from its two users.
    pub group: GroupId,
    /// What people see from here on.
    pub display_name: String,
    /// Who did it; none where the application's back end did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
}

/// A hint to the user's gateways, derived from a group's event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupJoined {
    /// The group.
    pub group: GroupId,
    /// The user.
    pub user: UserId,
    /// The group's kind.
    pub kind: GroupKind,
    /// An open group's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<RoomName>,
    /// What people see.
    pub display_name: String,
    /// What the user may do.
    pub role: Role,
    /// The event that made the user a member: everything after it is the user's.
    pub since: Position,
}

/// A hint to the user's gateways, derived from a group's event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupLeft {
    /// The group.
    pub group: GroupId,
    /// The user.
    pub user: UserId,
    /// The event that ended the membership.
    pub until: Position,
}

/// How far a user has read a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Read {
    /// The reader.
    pub user: UserId,
    /// The group.
    pub group: GroupId,
    /// The last event read.
    pub position: Position,
}

/// Which notifications a user has seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// Whose notifications; others' ids among `what` have no effect.
    pub user: UserId,
    /// Which of them.
    pub what: SeenWhat,
    /// Also read, as the chat-room protocol's Clean_Seen says.
    #[serde(default)]
    pub read: bool,
    /// Also archived, which is read as well: out of the list, and never counted.
    #[serde(default)]
    pub archived: bool,
}

/// Which notifications.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeenWhat {
    /// These.
    Ids(Vec<NotificationId>),
    /// All of the user's topic up to a position.
    Upto(Position),
}

/// What is passed on live and never stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Ephemeral {
    /// On a group's topic: somebody is typing.
    Typing {
        /// Where.
        group: GroupId,
        /// Who.
        user: UserId,
    },
    /// On a user's topic: absolute counts of the inbox.
    Inbox(InboxCounts),
    /// On a user's topic: the user's connections are closed.
    Disconnect {
        /// They may come back at once (1012); else not before a person has done something (4403).
        reconnect: bool,
    },
}

/// Absolute counts of a user's notifications, with the position up to which they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InboxCounts {
    /// Not seen.
    pub unseen: u64,
    /// Not read.
    pub unread: u64,
    /// Rises with all that SQL has applied, in any shard; of two counts the later one holds. No place in
    /// the inbox.
    pub version: Position,
}
