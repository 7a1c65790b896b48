//! What the server sends.

use serde::{Deserialize, Serialize};

use super::ErrorCode;
use crate::{
    event::{Data, GroupKind, Role},
    id::{GroupId, MessageId, Nonce, NotificationId, RoomName, SessionId, UserId},
    position::Position,
    tagged::tagged,
    timestamp::Timestamp,
};

/// A frame from the server.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    /// Signed in, and live.
    Ready(Box<Ready>),
    /// Further pages of the user's groups, after `ready` with `more`.
    Groups(GroupsFrame),
    /// The answer to a request that worked.
    Reply(Reply),
    /// The answer to a request that did not work, or the reason of a close that follows at once.
    Error(ErrorFrame),
    /// A message of a group.
    Message(MessageFrame),
    /// A notification.
    Notification(NotificationFrame),
    /// Something about a group changed.
    Group(GroupFrame),
    /// This user has read a group up to here, in some tab.
    Read(ReadFrame),
    /// Somebody is typing.
    Typing(TypingFrame),
    /// Absolute counts of the inbox.
    Inbox(InboxFrame),
    /// What was missed of a group (or, without one, of the inbox) cannot be told: load it anew.
    Reset(ResetFrame),
    /// Answer with `pong`.
    Ping,
    /// The server's clock was set.
    Time(TimeFrame),
    /// This gateway shuts down; come back after a while.
    Draining(DrainingFrame),
}

tagged!(ServerFrame {
    "ready" => Ready(Box<Ready>),
    "groups" => Groups(GroupsFrame),
    "reply" => Reply(Reply),
    "error" => Error(ErrorFrame),
    "message" => Message(MessageFrame),
    "notification" => Notification(NotificationFrame),
    "group" => Group(GroupFrame),
    "read" => Read(ReadFrame),
    "typing" => Typing(TypingFrame),
    "inbox" => Inbox(InboxFrame),
    "reset" => Reset(ResetFrame),
    "ping" => Ping,
    "time" => Time(TimeFrame),
    "draining" => Draining(DrainingFrame),
});

/// A further page of the user's groups.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupsFrame {
    /// The page.
    pub groups: Vec<GroupState>,
    /// Another one follows.
    pub more: bool,
}

/// Somebody is typing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TypingFrame {
    /// Where.
    pub group: GroupId,
    /// Who.
    pub user: UserId,
}

/// Something missed cannot be told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResetFrame {
    /// The group; none for the inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
}

/// The server's clock was set.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TimeFrame {
    /// Takes the place of `ready.time`.
    pub time: Timestamp,
}

/// This gateway shuts down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DrainingFrame {
    /// Come back after so many milliseconds.
    pub retry_after_ms: u64,
}

/// Who signed in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserProfile {
    /// The token's `sub`.
    pub id: UserId,
    /// The name by which others find the user.
    pub handle: String,
    /// What people see.
    pub display_name: String,
}

/// What the client may send.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of a frame.
    pub frame_bytes: u64,
    /// Bytes of a message's or notification's body.
    pub body_bytes: u64,
    /// Frames a second.
    pub frames_per_second: u32,
    /// Bytes a second, as they are on the wire.
    pub bytes_per_second: u64,
    /// Groups on one connection.
    pub groups: u32,
    /// Messages in a page of history.
    pub history: u32,
}

/// A group of the user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupState {
    /// Its id.
    pub id: GroupId,
    /// Its kind.
    pub kind: GroupKind,
    /// An open group's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<RoomName>,
    /// What people see.
    pub display_name: String,
    /// What the user may do.
    pub role: Role,
    /// Live delivery goes on from here: everything after it follows, nothing before.
    pub position: Position,
    /// How far the user has read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_read: Option<Position>,
    /// Messages after `last_read`, as of `unread_at`.
    pub unread: u64,
    /// The position up to which `unread` is counted.
    pub unread_at: Position,
    /// What was missed since the resumed position follows in full. False without a resume, and
    /// where it cannot be told: load anew.
    pub recovered: bool,
}

/// Counts of the inbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxFrame {
    /// Not seen.
    pub unseen: u64,
    /// Not read.
    pub unread: u64,
    /// Of two counts the one with the greater version holds.
    pub version: Position,
}

/// The answer to `connect`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    /// The `connect`'s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// The server's clock: the offset for nonces.
    pub time: Timestamp,
    /// Who signed in.
    pub user: UserProfile,
    /// This connection.
    pub session: SessionId,
    /// The user's groups, 200 at most.
    pub groups: Vec<GroupState>,
    /// `groups` frames with the others follow.
    pub more: bool,
    /// Counts of the inbox.
    pub inbox: InboxFrame,
    /// The inbox's position: resume from here.
    pub inbox_position: Position,
    /// What was missed of the inbox since the resumed position follows in full.
    pub inbox_recovered: bool,
    /// A `ping` comes this often; a client that hears nothing for twice as long reconnects.
    pub ping_interval_ms: u64,
    /// What the client may send.
    pub limits: Limits,
}

/// The answer to a request that worked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// The request's.
    pub id: u32,
    /// What it asked for.
    #[serde(flatten)]
    pub body: ReplyBody,
}

/// What a reply holds, by request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ReplyBody {
    /// To `send`: stored.
    Sent {
        /// The message.
        message_id: MessageId,
        /// Where it stands.
        position: Position,
    },
    /// To `notify`: stored.
    Notified {
        /// The notification.
        notification_id: NotificationId,
        /// Where it stands, in the recipient's or group's topic.
        position: Position,
    },
    /// To `history`.
    History {
        /// In the order of their positions.
        messages: Vec<HistoryMessage>,
        /// There are more in the direction asked, however short the page is.
        more: bool,
        /// The newest page, and one after a position, are complete up to here: resume from it and nothing is missed.
        position: Position,
    },
    /// To `join`: delivery is live.
    Joined {
        /// The group, as in `ready`.
        group: Box<GroupState>,
    },
    /// To `resume`: delivery is live.
    Resumed {
        /// The groups, as in `ready`.
        groups: Vec<GroupState>,
    },
    /// To the others: stored or done.
    Done {},
}

/// A message in a page of history.
pub type HistoryMessage = MessageFrame;

/// The answer to a request that did not work, or the reason of a close.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorFrame {
    /// The request's, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// The same request may work later.
    pub retryable: bool,
    /// After how long, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl ErrorFrame {
    /// An error with what its code says of retrying.
    pub fn new(id: Option<u32>, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { id, code, message: message.into(), retryable: code.is_retryable(), retry_after_ms: None }
    }
}

/// A message of a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MessageFrame {
    /// The group.
    pub group: GroupId,
    /// The message.
    pub id: MessageId,
    /// Who sent it.
    pub sender: UserId,
    /// By which the sender knows it.
    pub nonce: Nonce,
    /// The text.
    pub body: String,
    /// Where it stands.
    pub position: Position,
    /// When it was stored.
    pub sent_at: Timestamp,
    /// The message it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    /// What the sender attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
}

/// A notification.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NotificationFrame {
    /// The notification.
    pub id: NotificationId,
    /// The group it went to; without one it went to this user, and `position` is the inbox's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// From whom; none from the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<UserId>,
    /// The text.
    pub body: String,
    /// Where it stands.
    pub position: Position,
    /// When it was stored.
    pub sent_at: Timestamp,
    /// What the sender attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
}

/// What changed about a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupChange {
    /// This user is a member now; delivery goes on from `position`.
    Joined,
    /// This user is no member any more.
    Left,
    /// Somebody became a member.
    MemberAdded,
    /// Somebody is no member any more.
    MemberRemoved,
    /// It has another name.
    Renamed,
}

/// Something about a group changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupFrame {
    /// The group.
    pub group: GroupId,
    /// What.
    pub change: GroupChange,
    /// Whom it is about; with `renamed` who did it, none where the application's back end did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Where it stands.
    pub position: Position,
    /// What the user may do, with `joined` and `member_added`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// With `joined`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<GroupKind>,
    /// With `joined`, of an open group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<RoomName>,
    /// With `joined` and `renamed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
}

/// How far this user has read a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadFrame {
    /// The group.
    pub group: GroupId,
    /// Who read; always the user of this connection.
    pub user: UserId,
    /// The last position read.
    pub position: Position,
}
