//! A session's groups: joining their delivery, leaving it, and looking up what is not known yet.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use natter_shared::{
    frame::{ErrorCode, GroupState},
    id::GroupId,
    position::Position,
    rpc::{self, FindMembership, Groups, Membership, ShardPosition},
    subject::{Shard, Topic},
};

use super::{SessionHandle, handle::LiveGroup, open::GROUPS_PAGE, reply::Refusal};
use crate::{
    app::App,
    delivery::{GroupMeta, Insistence, JoinError, Joined, Start},
    knowledge,
    limit::Limit,
};

/// Before a membership is looked up again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

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
pub(super) enum Begun {
    /// The session is a member already.
    Live(Joined),
    /// This join is the one, of this number.
    Ours(u64),
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
        let attempt = loop {
            let ended = session.join_ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            match self.begin_join(session, group, known)? {
                Begun::Live(joined) => return Ok(joined),
                Begun::Ours(attempt) => break attempt,
                Begun::Another => ended.await,
            }
        };
        self.finish_join(session, group, attempt, &meta, start, known).await
    }

    pub(super) fn begin_join(&self, session: &SessionHandle, group: GroupId, known: Position) -> Result<Begun, JoinError> {
        let mut groups = session.groups.lock();
        match groups.get_mut(&group) {
            Some(live) => {
                live.known = live.known.max(known);
                Ok(live.joined.map_or(Begun::Another, Begun::Live))
            }
            None => {
                let limit = self.config.limits.groups_per_connection;
                if groups.len() >= limit {
                    self.metrics.refused(Limit::GroupsPerConnection);
                    return Err(JoinError::TooMany(limit));
                }
                let attempt = session.next_attempt();
                groups.insert(group, LiveGroup { attempt, joined: None, known, sent: Position::START, found: None });
                Ok(Begun::Ours(attempt))
            }
        }
    }

    async fn finish_join(
        &self,
        session: &Arc<SessionHandle>,
        group: GroupId,
        attempt: u64,
        meta: &GroupMeta,
        start: Start,
        known: Position,
    ) -> Result<Joined, JoinError> {
        let joined = self.hub.join_group(session, group, meta, start, known).await;
        let (leaves, joined) = {
            let mut groups = session.groups.lock();
            match (groups.get_mut(&group), joined) {
                (Some(live), Ok(joined)) if live.attempt == attempt && !session.is_closed() => {
                    live.joined = Some(joined);
                    (false, Ok(joined))
                }
                (Some(live), joined) if live.attempt == attempt => {
                    groups.remove(&group);
                    (true, joined)
                }
                (Some(_), joined) => (false, joined),
                // The membership ended meanwhile.
                (None, _) => (true, Err(JoinError::NotMember)),
            }
        };
        if leaves {
            self.hub.leave_group(group, session.id).await;
        }
        session.join_ended.notify_waiters();
        joined
    }

    /// Goes on in a group whose delivery ended, from where it was, if the user is still a member.
    pub(super) async fn find_again(&self, session: &Arc<SessionHandle>, group: GroupId, after: Position) -> Result<(), Refusal> {
        let attempt = {
            let mut groups = session.groups.lock();
            let Some(live) = groups.get_mut(&group) else {
                // Left meanwhile; what stood before that may be missing.
                drop(groups);
                self.hub.say_reset(session, group);
                return Ok(());
            };
            if live.joined.is_none() {
                return Ok(());
            }
            // Requests wait for it as for any join.
            (live.joined, live.attempt) = (None, session.next_attempt());
            live.attempt
        };
        let call = FindMembership { user: session.user.clone(), group };
        let found = Insistence::of(session).call(&*self.broker, call, None).await;
        let found = found.map(|answer| (answer.applied(self.broker.shards().of(Topic::Group(group))), answer.reply));
        if let Ok((known, Some(membership))) = found {
            let start = Start::After(after.max(membership.since));
            return match self.finish_join(session, group, attempt, &meta_of(&membership), start, known).await {
                Ok(_) | Err(JoinError::NotMember) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        session.groups.lock().retain(|id, live| *id != group || live.attempt != attempt);
        session.join_ended.notify_waiters();
        found.map(drop).map_err(Refusal::from)
    }

    /// Lists the user's groups anew, and goes live in those that the session has not: hints may have
    /// been missed, and SQL keeps none.
    pub(super) async fn relist(&self, session: &Arc<SessionHandle>) -> Result<(), Refusal> {
        let mut after = None;
        loop {
            let call = Groups { user: session.user.clone(), after, limit: GROUPS_PAGE };
            let answer = Insistence::of(session).call(&*self.broker, call, None).await?;
            let applied = answer.applied;
            for membership in answer.reply.groups {
                let group = membership.group;
                after = Some(group);
                if session.groups.lock().contains_key(&group) {
                    continue;
                }
                let shard = self.broker.shards().of(Topic::Group(group));
                let known = rpc::applied_in(&applied, shard);
                let start = session.start_of(shard, membership.since);
                match self.go_live(session, group, meta_of(&membership), start, known).await {
                    Ok(_) | Err(JoinError::NotMember | JoinError::TooMany(_)) => {}
                    Err(error @ JoinError::Unavailable(_)) => return Err(error.into()),
                }
            }
            if !answer.reply.more {
                return Ok(());
            }
        }
    }

    /// The user's membership ended with the group's event at `until`: nothing may be done in the
    /// group from now on. What stands before that event is still the user's, so it is the group's
    /// own order that ends delivery, as soon as it comes to the event.
    pub(super) async fn end_membership(&self, session: &SessionHandle, group: GroupId, until: Position) {
        if session.forget_group(group, until) {
            self.hub.reach(group, until).await;
        }
    }

    /// Ends the session's membership of a group's delivery.
    pub(super) async fn go_dark(&self, session: &SessionHandle, group: GroupId) {
        session.groups.lock().remove(&group);
        self.hub.leave_group(group, session.id).await;
    }

    /// The group, live, to a user who is known to be a member by what is at most some seconds old: at
    /// once where the gateway has that from the group's own shard; else SQL is asked, behind the end of
    /// the log, until `deadline`. A group that the session does not have (made a moment ago, its hint
    /// still under way) is looked up once.
    pub(super) async fn authorise(&self, session: &Arc<SessionHandle>, group: GroupId, deadline: Instant) -> Result<LiveGroup, Refusal> {
        let shard = self.broker.shards().of(Topic::Group(group));
        loop {
            let live = session.group(group);
            if let Some(live) = &live
                && (self.knowledge.is_fresh(shard) || live.found.is_some_and(knowledge::is_recent))
            {
                return Ok(live.clone());
            }
            // A call may take longer than there is time.
            let found = tokio::time::timeout_at(deadline.into(), self.look_up(session, group, shard)).await;
            let late = || Err(Refusal::new(ErrorCode::Unavailable, "whether the user is a member cannot be known now"));
            match found.unwrap_or_else(|_| late()) {
                Ok(()) => {}
                Err(refusal) if live.is_some() && refusal.code.is_retryable() && Instant::now() + LOOK_AGAIN < deadline => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(refusal) => return Err(refusal),
            }
            if session.is_closed() {
                return Err(Refusal::new(ErrorCode::Unavailable, "the session is closing"));
            }
        }
    }

    /// The same for what need not be told when it does not work at once.
    pub(super) async fn live_group(&self, session: &Arc<SessionHandle>, group: GroupId) -> Result<LiveGroup, Refusal> {
        self.authorise(session, group, Instant::now() + self.config.limits.send_deadline).await
    }

    /// Where SQL must have come to, to be asked who is a member, and since when it knows that then.
    pub(super) async fn floor(&self, shard: Shard) -> Result<(Instant, ShardPosition), rpc::RpcError> {
        let (since, position) = match self.knowledge.recent(shard) {
            Some(recent) => recent,
            None => {
                let now = Instant::now();
                let log = self.broker.log_state(shard).await?;
                (now, Position::new(log.epoch, log.last))
            }
        };
        Ok((since, ShardPosition { shard: shard.0, position }))
    }

    /// Asks SQL for a membership, and goes live where the session is not.
    async fn look_up(&self, session: &Arc<SessionHandle>, group: GroupId, shard: Shard) -> Result<(), Refusal> {
        self.metrics.looked_up.inc();
        let (since, behind) = self.floor(shard).await?;
        let answer = rpc::call(&*self.broker, FindMembership { user: session.user.clone(), group }, Some(behind)).await?;
        let known = answer.applied(shard);
        let Some(membership) = answer.reply else { return Err(Refusal::no_such_group()) };
        let start = session.start_of(shard, membership.since);
        self.go_live(session, group, meta_of(&membership), start, known).await?;
        if let Some(live) = session.groups.lock().get_mut(&group) {
            live.found = live.found.max(Some(since));
        }
        Ok(())
    }
}
