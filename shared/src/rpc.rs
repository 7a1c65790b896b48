//! Calls from gateways to the persister: reads of SQL, and commands that become events.
//!
//! Each is a request on `rpc.<NAME>` whose answer carries, read in the same snapshot, how far SQL
//! has come in every shard ([`Answer::applied`]). A call may ask for at least some position
//! ([`Request::min_position`]) and then waits up to a second for it: read your own writes.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    broker::{Broker, BrokerError},
    event::{Event, GroupKind, InboxCounts, Role},
    frame::ErrorCode,
    id::{EventId, GroupId, Nonce, NotificationId, RoomName, UserId},
    position::Position,
    subject::Shard,
    timestamp::Timestamp,
};

/// How long a caller waits for an answer.
pub const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// A call: its name and the type of its answer.
pub trait Rpc: Serialize + DeserializeOwned + Send + Sync {
    /// The last token of its subject.
    const NAME: &'static str;
    /// What comes back.
    type Reply: Serialize + DeserializeOwned + Send;
}

/// A request's envelope.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request<T> {
    /// Answer only once SQL has come this far in this shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_position: Option<ShardPosition>,
    /// The call.
    pub call: T,
}

/// A position together with its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPosition {
    /// The shard's number.
    pub shard: u16,
    /// The position in it.
    pub position: Position,
}

/// An answer's envelope.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer<T> {
    /// How far SQL has come in each shard, in the snapshot the reply was read from.
    pub applied: Vec<ShardPosition>,
    /// The reply.
    pub reply: T,
}

impl<T> Answer<T> {
    /// How far SQL has come in `shard`.
    pub fn applied(&self, shard: Shard) -> Position {
        self.applied.iter().find(|at| at.shard == shard.0).map_or(Position::START, |at| at.position)
    }
}

/// Why a call was not answered as asked.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct RpcError {
    /// For programs; what the client is told.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl RpcError {
    /// An error of a code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<BrokerError> for RpcError {
    fn from(error: BrokerError) -> Self {
        let code = match &error {
            BrokerError::Busy => ErrorCode::Busy,
            BrokerError::Refused(_) => ErrorCode::TooLarge,
            BrokerError::Unavailable(_)
            | BrokerError::NoLog(_)
            | BrokerError::Epoch { .. }
            | BrokerError::Evicted { .. }
            | BrokerError::NoResponder => ErrorCode::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

/// Makes a call.
///
/// # Errors
/// What the persister answered, or [`ErrorCode::Unavailable`] where none did.
pub async fn call<T: Rpc>(broker: &dyn Broker, call: T, min_position: Option<ShardPosition>) -> Result<Answer<T::Reply>, RpcError> {
    let unreadable = |error: serde_json::Error| RpcError::new(ErrorCode::Unavailable, format!("rpc.{}: {error}", T::NAME));
    let request = serde_json::to_vec(&Request { min_position, call }).map_err(unreadable)?;
    let answer = broker.request(T::NAME, Bytes::from(request), TIMEOUT).await?;
    let answer: Result<Answer<T::Reply>, RpcError> = serde_json::from_slice(&answer).map_err(unreadable)?;
    answer
}

macro_rules! rpc {
    ($name:literal, $request:ty => $reply:ty) => {
        impl Rpc for $request {
            const NAME: &'static str = $name;
            type Reply = $reply;
        }
    };
}

/// A user as others know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The token's `sub`.
    pub id: UserId,
    /// First come, first served; else the id.
    pub handle: String,
    /// What people see.
    pub display_name: String,
}

/// A group as one of its members knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Membership {
    /// The group.
    pub group: GroupId,
    /// Its kind.
    pub kind: GroupKind,
    /// An open group's name.
    pub name: Option<RoomName>,
    /// What people see.
    pub display_name: String,
    /// What the user may do.
    pub role: Role,
    /// The event since which the user is a member.
    pub since: Position,
    /// How far the user has read.
    pub last_read: Option<Position>,
    /// Messages after that, as of the answer's `applied`.
    pub unread: u64,
}

/// Signs a user in: claims the handle, and tells all that a session starts with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignIn {
    /// The token's `sub`.
    pub user: UserId,
    /// The token's `preferred_username`.
    pub handle: Option<String>,
    /// The token's `name`.
    pub display_name: Option<String>,
    /// How many groups to list at most.
    pub limit: u32,
}

/// What a session starts with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignedIn {
    /// The user.
    pub profile: Profile,
    /// Ordered by group id.
    pub groups: Vec<Membership>,
    /// There are more: go on with [`Groups`].
    pub more: bool,
    /// The inbox.
    pub inbox: InboxCounts,
}
rpc!("sign_in", SignIn => SignedIn);

/// A further page of a user's groups.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Groups {
    /// The user.
    pub user: UserId,
    /// Those after this id.
    pub after: Option<GroupId>,
    /// How many at most.
    pub limit: u32,
}

/// A page of groups.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupsPage {
    /// Ordered by group id.
    pub groups: Vec<Membership>,
    /// There are more.
    pub more: bool,
}
rpc!("groups", Groups => GroupsPage);

/// Is the user a member of the group, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindMembership {
    /// The user.
    pub user: UserId,
    /// The group.
    pub group: GroupId,
}
rpc!("membership", FindMembership => Option<Membership>);

/// The group that somebody joins.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenGroup {
    /// By name; made on first join where config allows.
    Name(RoomName),
    /// By id; it must exist and be open (or the user a member already).
    Id(GroupId),
}

/// Command: joins an open group; answered when stored and applied. Idempotent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinOpen {
    /// The user.
    pub user: UserId,
    /// The group.
    pub group: OpenGroup,
}
rpc!("join_open", JoinOpen => Membership);

/// Command: leaves a group. Idempotent; a single group cannot be left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaveGroup {
    /// The user.
    pub user: UserId,
    /// The group.
    pub group: GroupId,
}

/// Where the membership ended; none if there was none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeftGroup {
    /// The event that ended it.
    pub until: Option<Position>,
}
rpc!("leave_group", LeaveGroup => LeftGroup);

/// Command: finds or makes the one-to-one group of two users.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateSingle {
    /// Who asks.
    pub user: UserId,
    /// The other one; must be known.
    pub other: UserId,
}
rpc!("create_single", CreateSingle => Membership);

/// Command: makes a group of people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateGroup {
    /// Who asks, and becomes its owner.
    pub user: UserId,
    /// Makes a retry find the group of the first try.
    pub nonce: Nonce,
    /// What people see.
    pub display_name: String,
    /// Its further members; each must be known.
    pub members: Vec<UserId>,
}
rpc!("create_group", CreateGroup => Membership);

/// Command: adds a member. Idempotent. Only admins and owners may, and not to a single group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddMember {
    /// Who asks.
    pub by: UserId,
    /// The group.
    pub group: GroupId,
    /// The new member; must be known.
    pub user: UserId,
    /// What the member may do; not above the role of who asks.
    pub role: Role,
}
rpc!("add_member", AddMember => ShardPosition);

/// Command: removes a member. Idempotent. Only admins and owners may.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoveMember {
    /// Who asks.
    pub by: UserId,
    /// The group.
    pub group: GroupId,
    /// The member.
    pub user: UserId,
}
rpc!("remove_member", RemoveMember => LeftGroup);

/// The members of a group that the user is a member of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Members {
    /// Who asks.
    pub user: UserId,
    /// The group.
    pub group: GroupId,
    /// Those after this id.
    pub after: Option<UserId>,
    /// How many at most.
    pub limit: u32,
}

/// A page of members.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MembersPage {
    /// Ordered by id.
    pub members: Vec<(Profile, Role)>,
    /// There are more.
    pub more: bool,
}
rpc!("members", Members => MembersPage);

/// A page of a group's messages, to a member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MessageHistory {
    /// Who asks.
    pub user: UserId,
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
    /// There are more in the direction asked.
    pub more: bool,
}
rpc!("history", MessageHistory => HistoryPage);

/// Everything that happened in a group, or to a user, after a position: for recovery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventsAfter {
    /// Whose events; must be a member where it is a group's.
    pub user: UserId,
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
rpc!("events_after", EventsAfter => EventsPage);

/// Finds users by id or handle.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindUser {
    /// By id.
    Id(UserId),
    /// By handle.
    Handle(String),
}
rpc!("find_user", FindUser => Option<Profile>);

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
rpc!("find_accepted", FindAccepted => Option<Accepted>);

/// Waits until SQL has come to the request's `min_position`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AwaitApplied {}
rpc!("await_applied", AwaitApplied => ());

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
    /// When it was stored.
    pub sent_at: Timestamp,
    /// The user has seen it.
    pub seen: bool,
    /// The user has read it.
    pub read: bool,
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
    /// How many groups at most.
    pub groups: u32,
}

/// What the chat-room page shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatPageData {
    /// The user.
    pub profile: Profile,
    /// The user's groups.
    pub groups: Vec<Membership>,
    /// Other users.
    pub users: Vec<Profile>,
    /// Newest first, seen ones included.
    pub notifications: Vec<InboxEntry>,
    /// Counts of the inbox.
    pub inbox: InboxCounts,
}
rpc!("chat_page", ChatPage => ChatPageData);
