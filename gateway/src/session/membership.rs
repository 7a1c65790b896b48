//! A session's groups: joining their delivery, leaving it, and looking up what is not known yet.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use natter_shared::{
    event::GroupJoined,
    frame::{CloseCode, ErrorCode, GroupState},
    id::GroupId,
    position::Position,
    rpc::{self, FindMembership, Membership, ShardPosition},
    subject::{Shard, Topic},
};

use super::{
    SessionHandle,
    handle::{LiveGroup, Lost},
    reply::Refusal,
};
use crate::{
    app::App,
    delivery::{GroupMeta, Insistence, JoinError, Joined, Start, Telling},
    knowledge,
    limit::Limit,
};

/// How long the end of a membership may take that another one follows.
const EARLIER_ENDS_WITHIN: Duration = Duration::from_secs(15);

/// Before a membership is looked up again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The group as `ready` and `join` tell it.
pub(super) fn group_state(membership: Membership, joined: Joined, applied: Position, resumed: bool) -> GroupState {
    GroupState {
        id: membership.group,
        kind: membership.kind,
        name: membership.name,
        display_name: membership.display_name,
        role: membership.role,
        position: joined.told(),
        last_read: membership.last_read,
        unread: membership.unread,
        unread_at: applied,
        recovered: resumed && joined.complete,
    }
}

/// A membership, as a session begins to follow it.
pub(super) struct Followed {
    pub(super) group: GroupId,
    pub(super) meta: GroupMeta,
    /// The event that began it: another membership of the group is another.
    pub(super) since: Position,
    /// It is known to hold as of here.
    pub(super) known: Position,
    pub(super) start: Start,
    pub(super) telling: Telling,
}

impl Followed {
    /// What SQL said at `known`.
    pub(super) fn of(membership: &Membership, known: Position, start: Start, telling: Telling) -> Self {
        Self { group: membership.group, meta: GroupMeta::of(membership, known), since: membership.since, known, start, telling }
    }
}

/// What a session is told of a membership that it begins to follow unasked.
pub(super) fn telling(session: &SessionHandle, joined: GroupJoined, start: Start) -> Telling {
    match start {
        Start::After(after) => Telling::all(session, joined, after),
        // It was listed; it is told what ends it.
        Start::Now => Telling::End,
    }
}

/// How a join begins.
pub(super) enum Begun {
    /// The session is a member already.
    Live(Joined),
    /// This join is the one, of this number.
    Ours(u64),
    /// Delivery of this or an earlier membership has ended before the membership: first this join of it.
    Lost(u64, Lost),
    /// An earlier membership has not ended yet.
    Earlier,
    /// Another one is under way.
    Another,
}

impl App {
    /// Where a session goes on in a group that it was not told of at sign-in: with all of a newer membership but what an earlier
    /// connection of the client was told, else with what comes next.
    pub(super) async fn start_of(&self, session: &SessionHandle, group: GroupId, since: Position) -> Result<Start, rpc::RpcError> {
        let topic = Topic::Group(group);
        if session.was_listed(self.broker.shards().of(topic), since) {
            return Ok(Start::Now);
        }
        // A position that was never given out is of another installation.
        match session.told_ahead(group).filter(|told| *told > since) {
            Some(told) if Insistence::of(session).ask(|| self.is_stored(topic, told, tokio::time::Instant::now())).await? => {
                Ok(Start::After(told))
            }
            Some(_) | None => Ok(Start::After(since)),
        }
    }

    /// A membership that SQL has at `known`, and the session has not heard of.
    pub(super) async fn found(&self, session: &SessionHandle, membership: &Membership, known: Position) -> Result<Followed, rpc::RpcError> {
        let Membership { group, kind, name, display_name, role, since, .. } = membership.clone();
        let start = self.start_of(session, group, since).await?;
        let joined = GroupJoined { group, user: session.user.clone(), kind, name, display_name, role, since };
        Ok(Followed::of(membership, known, start, telling(session, joined, start)))
    }

    /// Makes the session a live member of a group, as of a membership of its user. One that is already
    /// goes on as it is: everything after its first position follows.
    pub(super) async fn go_live(&self, session: &Arc<SessionHandle>, followed: &Followed) -> Result<Joined, JoinError> {
        let (group, since) = (followed.group, followed.since);
        let deadline = tokio::time::Instant::now() + EARLIER_ENDS_WITHIN;
        loop {
            let ended = session.join_ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            match self.begin_join(session, group, since)? {
                Begun::Live(joined) => return Ok(joined),
                Begun::Ours(attempt) => return self.finish_join(session, attempt, followed, false).await,
                Begun::Lost(attempt, lost) => match self.join_again(session, attempt, lost, (group, &followed.meta)).await {
                    Ok(_) => {}
                    // It was an earlier one.
                    Err(JoinError::NotMember(at)) if at < since => {}
                    Err(error) => return Err(error),
                },
                Begun::Another => ended.await,
                Begun::Earlier => {
                    // It ends before this one begins.
                    self.hub.reach(group, since).await;
                    let waited = tokio::time::timeout_at(deadline, ended).await;
                    waited.map_err(|_| JoinError::Unavailable("an earlier membership does not end".to_owned()))?;
                }
            }
        }
    }

    pub(super) fn begin_join(&self, session: &SessionHandle, group: GroupId, since: Position) -> Result<Begun, JoinError> {
        if let Some(at) = session.end_of(group, since) {
            return Err(JoinError::NotMember(at));
        }
        let mut groups = session.groups.lock();
        if let Some(live) = groups.get_mut(&group) {
            let lost = live.begin_again(session.next_attempt());
            return Ok(match (lost, live.joined) {
                (Some(lost), _) => Begun::Lost(live.attempt, lost),
                (None, None) => Begun::Another,
                (None, Some(_)) if live.since < since => Begun::Earlier,
                (None, Some(joined)) => Begun::Live(joined),
            });
        }
        self.check_count(groups.len())?;
        let attempt = session.next_attempt();
        let live = LiveGroup { attempt, joined: None, since, ends: false, ended: None, lost: None, sent: Position::START, found: None };
        groups.insert(group, live);
        Ok(Begun::Ours(attempt))
    }

    /// Whether a session with `count` groups may have one more.
    fn check_count(&self, count: usize) -> Result<(), JoinError> {
        let limit = self.config.limits.groups_per_connection;
        if count >= limit {
            self.metrics.refused(Limit::GroupsPerConnection);
            return Err(JoinError::TooMany(limit));
        }
        Ok(())
    }

    /// Whether the session has `group`, or may have one more.
    pub(super) fn check_room_for(&self, session: &SessionHandle, group: GroupId) -> Result<(), JoinError> {
        let groups = session.groups.lock();
        if groups.contains_key(&group) { Ok(()) } else { self.check_count(groups.len()) }
    }

    async fn finish_join(&self, session: &Arc<SessionHandle>, attempt: u64, followed: &Followed, again: bool) -> Result<Joined, JoinError> {
        let Followed { group, meta, start, known, telling, .. } = followed;
        let joined = self.hub.join_group(session, *group, meta, *start, *known, telling.clone()).await;
        if again && matches!(joined, Err(JoinError::Unavailable(_))) {
            // Where delivery had come to is forgotten with this join, and the next one would begin elsewhere. Before anybody
            // who waits for it is woken.
            session.outlet.close(CloseCode::TryAgain);
        }
        let (leaves, joined) = {
            let mut groups = session.groups.lock();
            match groups.get_mut(group).filter(|live| live.attempt == attempt) {
                Some(live) => match (joined, live.ended.as_deref().copied()) {
                    (Ok(joined), None) if !session.is_closed() => {
                        live.joined = Some(joined);
                        (false, Ok(joined))
                    }
                    (joined, ended) => {
                        groups.remove(group);
                        // Who was not let in, or was taken out again, has nothing to leave; another join may be in by now.
                        (joined.is_ok() && ended.is_none(), ended.map_or(joined, |at| Err(JoinError::NotMember(at))))
                    }
                },
                // The session is closed.
                None => (joined.is_ok(), joined),
            }
        };
        if let Err(JoinError::NotMember(at)) = &joined {
            session.remember_end(*group, *at);
        }
        if leaves {
            self.hub.leave_group(*group, session.id).await;
        }
        session.join_ended.notify_waiters();
        joined
    }

    /// Goes on where delivery ended, if the user is still a member; else what is left is told, and the
    /// end.
    async fn join_again(
        &self,
        session: &Arc<SessionHandle>,
        attempt: u64,
        lost: Lost,
        of: (GroupId, &GroupMeta),
    ) -> Result<Joined, JoinError> {
        let (group, meta) = (of.0, of.1.clone());
        let (start, telling) = (Start::After(lost.after), Telling::End);
        self.finish_join(session, attempt, &Followed { group, meta, since: lost.known, known: lost.known, start, telling }, true).await
    }

    /// Goes on in a group whose delivery ended, from where it was, if the user is still a member.
    pub(super) async fn find_again(&self, session: &Arc<SessionHandle>, group: GroupId, meta: &GroupMeta) -> Result<(), Refusal> {
        loop {
            let ended = session.join_ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let begun = {
                let mut groups = session.groups.lock();
                // Whoever came first has done it, or the membership has ended.
                let Some(live) = groups.get_mut(&group).filter(|live| live.lost.is_some()) else { return Ok(()) };
                live.begin_again(session.next_attempt()).map(|lost| (live.attempt, lost))
            };
            match begun {
                Some((attempt, lost)) => {
                    return match self.join_again(session, attempt, lost, (group, meta)).await {
                        Ok(_) | Err(JoinError::NotMember(_)) => Ok(()),
                        Err(error) => Err(error.into()),
                    };
                }
                None => ended.await,
            }
        }
    }

    /// The user's membership ended with the group's event at `until`: nothing may be done in the
    /// group from now on. What stands before that event is still the user's, so it is the group's
    /// own order that ends delivery, as soon as it comes to the event.
    pub(super) async fn end_membership(&self, session: &SessionHandle, group: GroupId, until: Position) {
        if session.end_group(group, until) {
            self.hub.reach(group, until).await;
        }
    }

    /// The group, live, to a user who is known to be a member by what is at most some seconds old: at
    /// once where the gateway has that from the group's own shard; else SQL is asked, behind the end of
    /// the log, until `deadline`. A group that the session does not have (made a moment ago, its hint
    /// still under way) is looked up once.
    pub(super) async fn authorise(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        group: GroupId,
        deadline: Instant,
    ) -> Result<LiveGroup, Refusal> {
        let shard = self.broker.shards().of(Topic::Group(group));
        let is_known = |live: &LiveGroup| self.knowledge.is_fresh(shard) || live.found.is_some_and(knowledge::is_recent);
        let mut live = session.group(group);
        // A member pays nothing for what this gateway has not heard.
        if live.is_none() {
            self.take_look_ups(session, 1)?;
        }
        loop {
            if let Some(live) = live.take_if(|live| is_known(live)) {
                return Ok(live);
            }
            // A call may take longer than there is time, or than it takes until messages arrive again.
            let found = tokio::select! {
                found = tokio::time::timeout_at(deadline.into(), self.look_up(session, group, shard)) => found,
                () = self.arrives_again(shard), if live.is_some() => {
                    live = session.group(group);
                    continue;
                }
            };
            let late = || Err(Refusal::new(ErrorCode::Unavailable, "whether the user is a member cannot be known now"));
            match found.unwrap_or_else(|_| late()) {
                Ok(()) if session.group(group).is_some_and(|live| is_known(&live)) => {}
                // SQL knows of another membership than the session follows: one of the two is behind.
                Ok(()) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(refusal) if live.is_some() && refusal.code.is_retryable() && Instant::now() + LOOK_AGAIN < deadline => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(refusal) => return Err(refusal),
            }
            if session.is_closed() {
                return Err(Refusal::new(ErrorCode::Unavailable, "the session is closing"));
            }
            live = session.group(group);
        }
    }

    /// Waits until it is known again who is a member in `shard`.
    async fn arrives_again(&self, shard: Shard) {
        while !self.knowledge.is_fresh(shard) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The same for what need not be told when it does not work at once.
    pub(super) async fn live_group(self: &Arc<Self>, session: &Arc<SessionHandle>, group: GroupId) -> Result<LiveGroup, Refusal> {
        self.authorise(session, group, Instant::now() + self.config.limits.send_deadline).await
    }

    /// Where SQL must have come to, to be asked who is a member, and since when it knows that then.
    pub(super) async fn floor(&self, shard: Shard) -> Result<(Instant, ShardPosition), rpc::RpcError> {
        match self.knowledge.recent(shard) {
            Some((since, position)) => Ok((since, ShardPosition { shard: shard.0, position })),
            None => self.end_of_log(shard).await,
        }
    }

    /// Where the shard's log ends, as of when.
    async fn end_of_log(&self, shard: Shard) -> Result<(Instant, ShardPosition), rpc::RpcError> {
        let now = Instant::now();
        let log = self.broker.log_state(shard).await?;
        Ok((now, ShardPosition { shard: shard.0, position: Position::new(log.epoch, log.last) }))
    }

    /// Asks SQL for a membership, and goes live where the session is not.
    async fn look_up(self: &Arc<Self>, session: &Arc<SessionHandle>, group: GroupId, shard: Shard) -> Result<(), Refusal> {
        self.metrics.looked_up.inc();
        let find = || FindMembership { user: session.user.clone(), group };
        let (mut since, behind) = self.floor(shard).await?;
        let mut answer = rpc::call(&*self.broker, find(), Some(behind)).await?;
        if answer.reply.is_none() {
            // What this gateway has heard may end before a membership that its client was told of by another.
            let (now, end) = self.end_of_log(shard).await?;
            if end.position > answer.applied(shard) {
                (since, answer) = (now, rpc::call(&*self.broker, find(), Some(end)).await?);
            }
        }
        let known = answer.applied(shard);
        let Some(membership) = answer.reply else { return Err(Refusal::no_such_group()) };
        if session.was_listed(shard, membership.since) && session.group(group).is_none() {
            // By the page that tells of it, it goes on where its client wants it to.
            session.until_listed().await;
        }
        let followed = self.found(session, &membership, known).await?;
        // By itself: who asked may not wait, and a join that was begun is ended.
        let (app, of) = (Arc::clone(self), Arc::clone(session));
        let joined = self.tasks.spawn(async move { of.or_close(app.go_live(&of, &followed)).await }).await;
        joined.ok().flatten().ok_or_else(|| Refusal::new(ErrorCode::Unavailable, "the session is closing"))??;
        if let Some(live) = session.groups.lock().get_mut(&group).filter(|live| live.since == membership.since) {
            live.found = live.found.max(Some(since));
        }
        Ok(())
    }
}
