//! Calls from gateways to the persister: reads of SQL, and commands that become events.
//!
//! Each is a request on `rpc.<NAME>` whose answer carries, read in the same snapshot, how far SQL
//! has come in every shard ([`Answer::applied`]). A call may ask for at least some position
//! ([`Request::min_position`]) and then waits up to a second for it: read your own writes.

mod groups;
mod inbox;
mod keys;
mod many;
mod messages;
mod standings;
mod users;

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::{
    groups::{
        AddMember, CreateGroup, CreateSingle, EnsureGroup, FindGroup, FindMembership, FirstJoin, FirstJoinMany, GroupOverview, GroupRecord,
        Groups, GroupsPage, JoinOpen, JoinOpenMany, LastMessage, LeaveGroup, LeftGroup, ListGroups, ListedGroups, Members, MembersPage,
        Membership, NewGroup, OpenGroup, RemoveMember, RenameGroup,
    },
    inbox::{ChatPage, ChatPageData, CountInbox, InboxCursor, InboxEntry, ListNotifications, NotificationsPage, TellInboxes},
    keys::{ApiKey, CheckApiKey},
    many::{Gathered, MANY, OneOfMany},
    messages::{Accepted, AwaitApplied, EventsAfter, EventsPage, FindAccepted, HistoryPage, MessageHistory, RecoveredEvent},
    standings::{ChangeStanding, Standing, StandingChange, StandingChanged, Standings, StandingsPage},
    users::{AfterUser, FindUser, ListUsers, MAX_NAME_CHARS, Profile, SignIn, SignInMany, SignedIn, UsersPage, is_display_name, is_handle},
};
use crate::{
    broker::{Broker, BrokerError},
    frame::ErrorCode,
    position::Position,
    subject::Shard,
};

/// How long a caller waits for an answer.
pub const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// How long the first asking is waited for where answers may be lost; each further one twice as long.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

/// A call: its name and the type of its answer.
pub trait Rpc: Serialize + DeserializeOwned + Send + Sync {
    /// The last token of its subject.
    const NAME: &'static str;
    /// What comes back.
    type Reply: Serialize + DeserializeOwned + Send;
    /// Whether it may be asked again while the first asking is waited for: it changes nothing, or the same however often.
    const REPEATABLE: bool = false;
}

/// A request's envelope.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
        applied_in(&self.applied, shard)
    }
}

/// How far SQL has come in `shard`, of all shards; at its start where it is not among them.
pub fn applied_in(applied: &[ShardPosition], shard: Shard) -> Position {
    applied.iter().find(|at| at.shard == shard.0).map_or(Position::START, |at| at.position)
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

/// What is answered instead of what the broker does not carry.
pub(crate) const TOO_LARGE: &[u8] = br#"{"Err":{"code":"too_large","message":"the answer is larger than NATS carries; ask for less"}}"#;

/// Makes a call.
///
/// # Errors
/// What the persister answered, or [`ErrorCode::Unavailable`] where none did.
pub async fn call<T: Rpc>(broker: &dyn Broker, call: T, min_position: Option<ShardPosition>) -> Result<Answer<T::Reply>, RpcError> {
    let unreadable = |error: serde_json::Error| RpcError::new(ErrorCode::Unavailable, format!("rpc.{}: {error}", T::NAME));
    let request = serde_json::to_vec(&Request { min_position, call }).map_err(unreadable)?;
    let answer = ask::<T>(broker, Bytes::from(request)).await?;
    let answer: Result<Answer<T::Reply>, RpcError> = serde_json::from_slice(&answer).map_err(unreadable)?;
    answer
}

/// Asks; and while answers may be lost because a server of the broker was, asks again.
async fn ask<T: Rpc>(broker: &dyn Broker, request: Bytes) -> Result<Bytes, BrokerError> {
    let mut asked = FuturesUnordered::new();
    asked.push(broker.request(T::NAME, request.clone(), TIMEOUT));
    let mut pause = ASK_AGAIN;
    loop {
        tokio::select! {
            Some(answer) = asked.next() => match answer {
                Err(_) if !asked.is_empty() => {}
                answer => return answer,
            },
            () = tokio::time::sleep(pause), if T::REPEATABLE => {
                pause *= 2;
                if broker.is_unsettled() {
                    asked.push(broker.request(T::NAME, request.clone(), TIMEOUT));
                }
            }
        }
    }
}

/// Names a call and the type of its answer, and says whether it is repeatable.
macro_rules! rpc {
    ($name:literal, $request:ty => $reply:ty) => {
        impl crate::rpc::Rpc for $request {
            const NAME: &'static str = $name;
            type Reply = $reply;
        }
    };
    ($name:literal, $request:ty => $reply:ty, repeatable) => {
        impl crate::rpc::Rpc for $request {
            const NAME: &'static str = $name;
            type Reply = $reply;
            const REPEATABLE: bool = true;
        }
    };
}
use rpc;
