//! Opening a session for a user who is known: the inbox first, so that no hint is missed; then
//! what SQL knows; then the groups, each live from its position.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, stream};
use natter_shared::{
    event::InboxCounts,
    frame::{CloseCode, ErrorCode, GroupState},
    id::{GroupId, RoomName},
    position::Position,
    rpc::{self, Answer, Groups, GroupsPage, JoinOpen, Membership, OpenGroup, Profile, SignIn, SignedIn},
    subject::Topic,
};
use tokio::time::Instant;

use super::{
    Protocol, SessionHandle,
    membership::{Followed, group_state},
    run::Guard,
    together::Known,
};
use crate::{
    app::App,
    auth::Identity,
    delivery::{JoinError, Joined, Start, Telling},
    limit::Limit,
    socket::Outlet,
};

/// Groups in `ready`, and in each `groups` frame after it.
pub(super) const GROUPS_PAGE: u32 = 200;

/// Groups of one session that go live at once.
const AT_ONCE: usize = 32;

/// Why a session was not opened.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct OpenError {
    /// What the client is told.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl OpenError {
    /// The gateway is on its way out.
    pub(super) fn draining() -> Self {
        Self { code: ErrorCode::Draining, message: "this gateway is shutting down: try again elsewhere".to_owned() }
    }

    /// What the connection is closed with.
    pub fn close_code(&self) -> CloseCode {
        match self.code {
            ErrorCode::Unauthorized => CloseCode::Token,
            ErrorCode::RateLimited => CloseCode::RateLimited,
            ErrorCode::Forbidden | ErrorCode::Blocked | ErrorCode::NotFound => CloseCode::NotAllowed,
            ErrorCode::BadFrame
            | ErrorCode::UnknownType
            | ErrorCode::BadRequest
            | ErrorCode::NonceReused
            | ErrorCode::TooLarge
            | ErrorCode::OutOfOrder
            | ErrorCode::TooManyGroups => CloseCode::BadFrame,
            ErrorCode::Busy | ErrorCode::Unavailable | ErrorCode::Pending => CloseCode::TryAgain,
            ErrorCode::Draining => CloseCode::Restart,
        }
    }
}

impl<E: Into<rpc::RpcError>> From<E> for OpenError {
    fn from(error: E) -> Self {
        let error = error.into();
        Self { code: error.code, message: error.message }
    }
}

impl From<JoinError> for rpc::RpcError {
    fn from(error: JoinError) -> Self {
        let code = match error {
            JoinError::TooMany(_) => ErrorCode::TooManyGroups,
            JoinError::NotMember(_) | JoinError::Unavailable(_) => ErrorCode::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

/// Where a client wants to go on.
#[derive(Debug, Default)]
pub(super) struct ResumeFrom {
    pub(super) groups: HashMap<GroupId, Position>,
    pub(super) inbox: Option<Position>,
}

/// A session that is live: what its loop keeps, and what only its first frame tells. Dropped, it is
/// unregistered.
pub struct Opened {
    pub(super) live: Live,
    pub(super) profile: Profile,
    pub(super) groups: Vec<GroupState>,
    pub(super) more: Option<GroupId>,
    pub(super) inbox: InboxCounts,
    pub(super) inbox_joined: Joined,
    pub(super) resume: ResumeFrom,
}

impl Opened {
    pub(super) fn session(&self) -> &Arc<SessionHandle> {
        self.live.guard.session()
    }

    /// Forgets what only the first frame tells: an idle session must not hold it.
    pub(super) fn into_live(self) -> Live {
        self.live
    }
}

/// What the loop of a session starts from.
pub(super) struct Live {
    pub(super) guard: Guard,
    /// The group that the chat-room protocol's path names.
    pub(super) room: Option<GroupId>,
    /// Everything is sent back.
    #[cfg(test)]
    pub(super) echo: bool,
}

impl App {
    pub(super) async fn open(
        self: &Arc<Self>,
        identity: Identity,
        protocol: Protocol,
        outlet: Arc<Outlet>,
        resume: ResumeFrom,
    ) -> Result<Opened, OpenError> {
        let too_many = || OpenError { code: ErrorCode::RateLimited, message: "this user has too many connections".to_owned() };
        let seat = self.connections.sit(&identity.user.key(), self.config.limits.connections_per_user);
        if seat.is_none() {
            self.metrics.refused(Limit::ConnectionsPerUser);
        }
        let seat = seat.ok_or_else(too_many)?;
        let session = SessionHandle::new(&identity, protocol, outlet);
        let guard = Guard::register(Arc::clone(self), session, seat);
        let session = guard.session();
        // After registering: who drains either finds the session, or is seen here.
        if self.closing.is_cancelled() {
            return Err(OpenError::draining());
        }
        let came = Instant::now();
        let inbox_start = resume.inbox.map_or(Start::Now, Start::After);
        let mut inbox_joined = self.hub.join_inbox(session, inbox_start).await?;
        let unheard = self.hub.unheard(session.key);
        let Identity { user, handle, display_name, issued_at, .. } = identity;
        let call = SignIn { user, handle, display_name, limit: GROUPS_PAGE, issued_at: Some(issued_at) };
        let Known { applied, reply: SignedIn { profile, groups, more, inbox } } = self.sign_ins.sign_in(call).await?;
        if !self.hub.has_listed_all(&unheard, Some(&applied)) {
            self.list_later(session, unheard);
        }
        session.note_sign_in(self.broker.shards(), Arc::clone(&applied), &resume.groups, self.config.limits.groups_per_connection);
        let own = Topic::User(session.key);
        if let Some(from) = resume.inbox
            && from > rpc::applied_in(&applied, self.broker.shards().of(own))
            && !self.is_stored(own, from, came).await?
        {
            inbox_joined = Joined { complete: false, ..self.hub.join_inbox(session, Start::Now).await? };
        }
        let more = groups.last().filter(|_| more).map(|last| last.group);
        let groups = self.all_live(session, groups, &applied, &resume).await?;
        let live = Live {
            guard,
            room: None,
            #[cfg(test)]
            echo: false,
        };
        Ok(Opened { live, profile, groups, more, inbox, inbox_joined, resume })
    }

    /// A further page of groups, live.
    pub(super) async fn more_groups(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        after: GroupId,
        resume: &ResumeFrom,
    ) -> Result<(Vec<GroupState>, Option<GroupId>), OpenError> {
        let call = Groups { user: session.user.clone(), after: Some(after), limit: GROUPS_PAGE };
        let answer: Answer<GroupsPage> = rpc::call(&*self.broker, call, None).await?;
        let more = answer.reply.groups.last().filter(|_| answer.reply.more).map(|last| last.group);
        let groups = self.all_live(session, answer.reply.groups, &answer.applied, resume).await?;
        Ok((groups, more))
    }

    async fn all_live(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        memberships: Vec<Membership>,
        applied: &[rpc::ShardPosition],
        resume: &ResumeFrom,
    ) -> Result<Vec<GroupState>, OpenError> {
        let (shards, came) = (self.broker.shards(), Instant::now());
        let joins = memberships.into_iter().map(|membership| {
            let shard = shards.of(Topic::Group(membership.group));
            let applied = rpc::applied_in(applied, shard);
            let from = resume.groups.get(&membership.group).map(|from| (*from, came));
            async move { self.one_live(session, membership, applied, from).await }
        });
        // In the order of the list; a group left meanwhile is left out.
        let mut states = Vec::new();
        let mut joins = stream::iter(joins).buffered(AT_ONCE);
        while let Some(state) = joins.next().await {
            states.extend(state?);
        }
        Ok(states)
    }

    /// One group of a session that is being opened; none where the user is a member no more, or the
    /// session has as many as it may. `from` is where its client goes on, and since when that is known here.
    pub(super) async fn one_live(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        membership: Membership,
        applied: Position,
        from: Option<(Position, Instant)>,
    ) -> Result<Option<GroupState>, OpenError> {
        // Nothing from before the membership is the member's; a position that was never given out
        // is of another installation.
        let start = match from {
            Some((from, came)) if from <= applied || self.is_stored(Topic::Group(membership.group), from, came).await? => {
                Start::After(from.max(membership.since))
            }
            Some(_) | None => Start::Now,
        };
        // Live from a later position already, by a hint or an earlier request: what lies between is
        // not told. Nor is what an earlier membership still had for a client that followed that one.
        let resumed = |joined: &Joined| match (start, from) {
            (Start::After(position), Some((from, _))) => from >= membership.since && joined.start <= position,
            (Start::After(_) | Start::Now, _) => false,
        };
        // The answer tells of it.
        let followed = Followed::of(&membership, applied, start, Telling::Nothing);
        match self.go_live(session, &followed).await {
            Ok(joined) => {
                let resumed = resumed(&joined);
                Ok(Some(group_state(membership, joined, applied, resumed)))
            }
            Err(JoinError::NotMember(_)) => Ok(None),
            Err(JoinError::TooMany(_)) => {
                // A member of it, who hears nothing of it here.
                self.hub.say_reset(session, membership.group);
                Ok(None)
            }
            Err(error @ JoinError::Unavailable(_)) => Err(error.into()),
        }
    }

    /// Whether the topic's log has come to `position`, which came here at `came`: SQL may lag behind it.
    pub(super) async fn is_stored(&self, topic: Topic, position: Position, came: Instant) -> Result<bool, rpc::RpcError> {
        Ok(self.hub.is_stored(topic, position, came).await?)
    }

    /// Joins an open group for good, and its delivery.
    pub(super) async fn join_open(self: &Arc<Self>, session: &Arc<SessionHandle>, group: OpenGroup) -> Result<GroupState, OpenError> {
        // Before it is a member for good.
        self.check_room_for(session, group.id())?;
        let call = JoinOpen { user: session.user.clone(), group };
        let unavailable = |message: &str| OpenError { code: ErrorCode::Unavailable, message: message.to_owned() };
        let together = async {
            match self.joins.call(call.clone(), None).await {
                None => self.first_joins.join(session, self.broker.shards().of(Topic::Group(call.group.id())), call.clone()).await,
                known => known,
            }
        };
        // No longer than a call alone may take: behind others it would wait for as long as they do.
        let known = match tokio::time::timeout(rpc::TIMEOUT, together).await.map_err(|_| unavailable("the database is slow to answer"))? {
            Some(known) => known?,
            // For who has gone nobody joins: they may have joined and left elsewhere meanwhile.
            None if session.is_closed() => return Err(unavailable("the connection is closed")),
            None => rpc::call(&*self.broker, call, None).await?.into(),
        };
        let Known { applied, reply: membership } = known;
        let id = membership.group;
        let shard = self.broker.shards().of(Topic::Group(id));
        let applied = rpc::applied_in(&applied, shard);
        let start = self.start_of(session, id, membership.since).await?;
        let followed = Followed::of(&membership, applied.max(membership.since), start, Telling::Nothing);
        let joined = self.go_live(session, &followed).await?;
        Ok(group_state(membership, joined, applied, false))
    }
}

/// Opens a session of the chat-room protocol; everything sent from now on reaches it.
pub async fn open_chat_room(app: &Arc<App>, identity: Identity, room: RoomOrGroup, outlet: Arc<Outlet>) -> Result<Opened, OpenError> {
    let mut opened = app.open(identity, Protocol::ChatRoom, outlet, ResumeFrom::default()).await?;
    let session = Arc::clone(opened.session());
    while let Some(after) = opened.more {
        let (_, more) = app.more_groups(&session, after, &opened.resume).await?;
        opened.more = more;
    }
    let group = match room {
        RoomOrGroup::Room(name) => OpenGroup::Name(name),
        RoomOrGroup::Group(id) => OpenGroup::Id(id),
    };
    let id = group.id();
    opened.live.room = if session.group(id).is_some() {
        Some(id)
    } else {
        match app.join_open(&session, group).await {
            Ok(state) => Some(state.id),
            // A path that names no room of the user still serves all the user's groups.
            Err(error) if !error.code.is_retryable() => None,
            Err(error) => return Err(error),
        }
    };
    Ok(opened)
}

/// What the chat-room protocol's path names.
#[derive(Debug, Clone)]
pub enum RoomOrGroup {
    /// An open group, by name.
    Room(RoomName),
    /// A group, by id.
    Group(GroupId),
}
