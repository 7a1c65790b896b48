//! Groups and their members: reading, and the commands that change them.

use serde::{Deserialize, Serialize};

use super::{Gathered, OneOfMany, Profile, Request, ShardPosition, rpc};
use crate::{
    event::{GroupKind, Role},
    id::{GroupId, MessageId, Nonce, RoomName, UserId, open_group},
    position::Position,
    timestamp::Timestamp,
};

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
rpc!("groups", Groups => GroupsPage, repeatable);

/// Is the user a member of the group, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindMembership {
    /// The user.
    pub user: UserId,
    /// The group.
    pub group: GroupId,
}
rpc!("membership", FindMembership => Option<Membership>, repeatable);

/// The group that somebody joins.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenGroup {
    /// By name; made on first join where config allows.
    Name(RoomName),
    /// By id; it must exist and be open (or the user a member already).
    Id(GroupId),
}

impl OpenGroup {
    /// The group's id, whether it exists or not.
    pub fn id(&self) -> GroupId {
        match self {
            Self::Name(name) => open_group(name),
            Self::Id(id) => *id,
        }
    }
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

/// Those of many who join and are members already, by one snapshot for all of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinOpenMany {
    /// Each as it would be asked for alone; who is no member yet is.
    pub joins: Vec<Request<JoinOpen>>,
}
rpc!("join_open_many", JoinOpenMany => Vec<OneOfMany<Membership>>, repeatable);

impl Gathered for JoinOpen {
    type Reply = Membership;
    type Many = JoinOpenMany;

    fn gather(joins: Vec<Request<Self>>) -> JoinOpenMany {
        JoinOpenMany { joins }
    }
}

/// A join of who was no member a moment ago: it goes with others that are stored and applied as well.
#[derive(Debug, Clone)]
pub struct FirstJoin(pub JoinOpen);

/// Command: the joins of many, each stored and applied as if it were alone, by a few statements for all of them. Idempotent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FirstJoinMany {
    /// Each as it would be asked for alone.
    pub joins: Vec<JoinOpen>,
}
rpc!("first_join_many", FirstJoinMany => Vec<OneOfMany<Membership>>);

impl Gathered for FirstJoin {
    type Reply = Membership;
    type Many = FirstJoinMany;

    fn gather(joins: Vec<Request<Self>>) -> FirstJoinMany {
        FirstJoinMany { joins: joins.into_iter().map(|one| one.call.0).collect() }
    }
}

/// Command: leaves a group. Idempotent; a single group cannot be left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaveGroup {
    /// The user.
    pub user: UserId,
    /// The group.
    pub group: GroupId,
    /// Where the membership began that is to end: a call that comes late ends no newer one. None: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Position>,
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
    /// It is the application's back end that asks: however many groups either has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_back_end: bool,
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
    /// Who asks; none where the application's back end does, which may.
    pub by: Option<UserId>,
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
    /// Who asks; none where the application's back end does, which may.
    pub by: Option<UserId>,
    /// The group.
    pub group: GroupId,
    /// The member.
    pub user: UserId,
}
rpc!("remove_member", RemoveMember => LeftGroup);

/// The members of a group that the user is a member of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Members {
    /// Who asks; none where the application's back end does.
    pub user: Option<UserId>,
    /// The group.
    pub group: GroupId,
    /// Those after this id.
    pub after: Option<UserId>,
    /// How many at most; with 0 no member is looked at, only whether the group is there for who asks.
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
rpc!("members", Members => MembersPage, repeatable);

/// A page of a user's groups as a list shows them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListGroups {
    /// The user.
    pub user: UserId,
    /// Those after this id.
    pub after: Option<GroupId>,
    /// How many at most.
    pub limit: u32,
}

/// A group as a list shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupOverview {
    /// The user's membership.
    pub membership: Membership,
    /// The newest message; none where there is none.
    pub last_message: Option<LastMessage>,
    /// The other one of a one-to-one group.
    pub other: Option<Profile>,
}

/// A message as a list of groups shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LastMessage {
    /// The message.
    pub id: MessageId,
    /// Where it stands.
    pub position: Position,
    /// Who sent it.
    pub sender: UserId,
    /// Its text, cut to the first 256 characters.
    pub body: String,
    /// When it was stored.
    pub sent_at: Timestamp,
}

/// A page of groups as a list shows them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListedGroups {
    /// Ordered by group id.
    pub groups: Vec<GroupOverview>,
    /// There are more.
    pub more: bool,
}
rpc!("list_groups", ListGroups => ListedGroups, repeatable);

/// Command: gives a group another name. Idempotent. Only admins and owners may, and not to a
/// one-to-one group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenameGroup {
    /// Who asks; none where the application's back end does, which may.
    pub by: Option<UserId>,
    /// The group.
    pub group: GroupId,
    /// What people see from then on: 1 to 256 bytes without control characters.
    pub display_name: String,
}
rpc!("rename_group", RenameGroup => ShardPosition);

/// What kind of group the application's back end wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewGroup {
    /// A group of people.
    Group {
        /// Makes a retry find the group of the first try.
        nonce: Nonce,
        /// What people see.
        display_name: String,
        /// Its members; each must be known.
        members: Vec<(UserId, Role)>,
    },
    /// An open group, whatever config says of making them.
    Open {
        /// By which it is joined.
        name: RoomName,
        /// What people see; else the name.
        display_name: Option<String>,
    },
}

/// Command of the application's back end: finds or makes a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnsureGroup {
    /// Which.
    pub group: NewGroup,
}

/// A group as the application's back end knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// The group.
    pub group: GroupId,
    /// Its kind.
    pub kind: GroupKind,
    /// An open group's name.
    pub name: Option<RoomName>,
    /// What people see.
    pub display_name: String,
    /// How many members it has; beyond 10,000 they are not counted on.
    pub members: u64,
    /// How many messages it has had.
    pub messages: u64,
    /// When it was made.
    pub created_at: Timestamp,
}
rpc!("ensure_group", EnsureGroup => GroupRecord);

/// A group, to the application's back end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindGroup {
    /// The group.
    pub group: GroupId,
}
rpc!("find_group", FindGroup => Option<GroupRecord>, repeatable);
