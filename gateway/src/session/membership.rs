//! A session's groups: joining their delivery, leaving it, and looking up what is not known yet.

use std::sync::Arc;

use natter_shared::{
    frame::{ErrorCode, GroupState},
    id::GroupId,
    position::Position,
    rpc::{self, FindMembership, Membership},
    subject::Topic,
};

use super::{SessionHandle, handle::LiveGroup, reply::Refusal};
use crate::{
    app::App,
    delivery::{GroupMeta, JoinError, Joined, Start},
};

/// What delivery must know of the group.
pub(super) fn meta_of(membership: &Membership) -> GroupMeta {
    GroupMeta { kind: membership.kind, display_name: membership.display_name.as_str().into() }
}

/// The group as `ready` and `join` tell it.
pub(super) fn group_state(membership: Membership, joined: Joined, applied: Position, resumed: bool) -> GroupState {
    GroupState {
        id: membership.group,
        kind: membership.kind,
        name: membership.name,
        display_name: membership.display_name,
        role: membership.role,
        position: joined.position,
        last_read: membership.last_read,
        unread: membership.unread,
        unread_at: applied,
        recovered: resumed && joined.complete,
    }
}

/// How a join begins.
enum Begun {
    /// The session is a member already.
    Live(Joined),
    /// This join is the one.
    Ours,
    /// Another one is under way.
    Another,
}

impl App {
    /// Makes the session a live member of a group that its user is a member of as of `known`. One
    /// that is already goes on as it is: everything after its first position follows.
    pub(super) async fn go_live(
        &self,
        session: &Arc<SessionHandle>,
        group: GroupId,
        meta: GroupMeta,
        start: Start,
        known: Position,
    ) -> Result<Joined, JoinError> {
        loop {
            let ended = session.join_ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            match self.begin_join(session, group, known)? {
                Begun::Live(joined) => return Ok(joined),
                Begun::Ours => break,
                Begun::Another => ended.await,
            }
        }
        let joined = self.hub.join_group(session, group, &meta, start, known).await;
        match &joined {
            Ok(joined) if !session.is_closed() => {
                if let Some(live) = session.groups.lock().get_mut(&group) {
                    live.joined = Some(*joined);
                }
            }
            Ok(_) | Err(_) => self.go_dark(session, group).await,
        }
        session.join_ended.notify_waiters();
        joined
    }

    fn begin_join(&self, session: &SessionHandle, group: GroupId, known: Position) -> Result<Begun, JoinError> {
        let mut groups = session.groups.lock();
        match groups.get_mut(&group) {
            Some(live) => {
                live.known = live.known.max(known);
                Ok(live.joined.map_or(Begun::Another, Begun::Live))
            }
            None => {
                let limit = self.config.limits.groups_per_connection;
                if groups.len() >= limit {
                    return Err(JoinError::TooMany(limit));
                }
                groups.insert(group, LiveGroup { joined: None, known, sent: Position::START });
                Ok(Begun::Ours)
            }
        }
    }

    /// The user's membership ended with the group's event at `until`: nothing may be done in the
    /// group from now on. What stands before that event is still the user's, so it is the group's
    /// own order that ends delivery, as soon as it comes to the event.
    pub(super) async fn end_membership(&self, session: &SessionHandle, group: GroupId, until: Position) {
        let ended = {
            let mut groups = session.groups.lock();
            let ended = groups.get(&group).is_some_and(|live| live.known < until);
            if ended {
                groups.remove(&group);
            }
            ended
        };
        if ended {
            self.hub.reach(group, until).await;
        }
    }

    /// Ends the session's membership of a group's delivery.
    pub(super) async fn go_dark(&self, session: &SessionHandle, group: GroupId) {
        session.groups.lock().remove(&group);
        self.hub.leave_group(group, session.id).await;
    }

    /// The group, live: at once if the session has it, else if its user turns out to be a member
    /// (a group made a moment ago, whose hint has not come yet).
    pub(super) async fn live_group(&self, session: &Arc<SessionHandle>, group: GroupId) -> Result<LiveGroup, Refusal> {
        if let Some(live) = session.group(group) {
            return Ok(live);
        }
        let call = FindMembership { user: session.user.clone(), group };
        let answer = rpc::call(&*self.broker, call, None).await?;
        let known = answer.applied(self.broker.shards().of(Topic::Group(group)));
        let Some(membership) = answer.reply else { return Err(Refusal::no_such_group()) };
        let meta = meta_of(&membership);
        self.go_live(session, group, meta, Start::After(membership.since), known).await?;
        session.group(group).ok_or_else(|| Refusal::new(ErrorCode::Unavailable, "the session is closing"))
    }
}
