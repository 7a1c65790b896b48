//! The hub: which topics are followed here and by which task, and the way for sessions to join
//! and leave them. First local member subscribes, the last one leaves after a linger.

use std::{sync::Arc, time::Duration};

use dashmap::{DashMap, Entry};
use natter_shared::{
    broker::{Broker, BrokerError},
    config::Limits,
    frame::CloseCode,
    id::{GroupId, SessionId, UserKey},
    lifecycle::Lifecycle,
    position::Position,
    rpc::{ShardPosition, applied_in},
    subject::{Shard, Topic},
};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    GroupMeta, Insistence, JoinError, Joined, Start, Telling,
    flights::Flights,
    group::{self, Command, GroupTask},
    join::{Answer, Join},
    lists::{Lists, Unheard},
    log_states::LogStates,
    recover::{self, Whose},
    recoveries::Recoveries,
    ring::RingBudget,
    users::{self, UserCommand, UsersTask},
};
use crate::{knowledge::Knowledge, metrics::Metrics, session::SessionHandle};

/// How often a session asks again after a topic's task ended under it or was ahead of it.
const ATTEMPTS: usize = 8;

/// Before a topic that could not be followed is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Everything that is followed by this gateway.
pub struct Hub {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) limits: Limits,
    pub(super) linger: Duration,
    pub(super) metrics: Arc<Metrics>,
    pub(super) knowledge: Arc<Knowledge>,
    pub(super) ring_budget: Arc<RingBudget>,
    pub(super) log_states: LogStates,
    pub(super) flights: Flights,
    pub(super) recoveries: Recoveries,
    pub(super) groups: DashMap<GroupId, mpsc::Sender<Command>>,
    pub(super) users: Vec<mpsc::Sender<UserCommand>>,
    /// Cancelled: nothing is followed any more.
    pub(super) stop: CancellationToken,
    live: Mutex<Vec<bool>>,
    pub(super) lists: Lists,
    pub(super) tasks: TaskTracker,
}

impl Hub {
    /// Starts following the users of all shards; groups follow with their first member.
    pub fn start(
        broker: Arc<dyn Broker>,
        limits: &Limits,
        linger: Duration,
        metrics: Arc<Metrics>,
        knowledge: Arc<Knowledge>,
        lifecycle: &Lifecycle,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let shards = broker.shards();
        let (senders, receivers): (Vec<_>, Vec<_>) = shards.iter().map(|_| mpsc::channel(users::MAILBOX)).unzip();
        let hub = Arc::new(Self {
            broker,
            ring_budget: RingBudget::new(limits.ring_bytes, limits.ring_events_per_group),
            log_states: LogStates::new(shards),
            flights: Flights::default(),
            recoveries: Recoveries::new(limits.recoveries, shards),
            limits: limits.clone(),
            linger,
            metrics,
            knowledge,
            groups: DashMap::new(),
            users: senders,
            stop: stop.clone(),
            live: Mutex::new(vec![false; usize::from(shards.count())]),
            lists: Lists::new(shards),
            tasks: lifecycle.tasks.clone(),
        });
        for (shard, mailbox) in shards.iter().zip(receivers) {
            lifecycle.spawn_vital("users", UsersTask::run(Arc::clone(&hub), shard, mailbox, stop.clone()));
        }
        lifecycle.spawn_vital("tail_checks", super::tail::run(Arc::clone(&hub), stop.clone()));
        let (lister, stop) = (Arc::clone(&hub), stop.clone());
        lifecycle.spawn_vital("lists", async move {
            stop.run_until_cancelled(lister.lists.keep(&*lister.broker)).await;
        });
        hub
    }

    /// Whether the users of every shard are followed.
    pub fn is_live(&self) -> bool {
        self.live.lock().iter().all(|live| *live)
    }

    pub(super) fn users_are_live(&self, shard: Shard, live: bool) {
        if let Some(slot) = self.live.lock().get_mut(usize::from(shard.0)) {
            *slot = live;
        }
    }

    /// What hints `user` has not heard, asked once its inbox is live: what that tells is none of it.
    pub fn unheard(&self, user: UserKey) -> Unheard {
        self.lists.unheard(self.broker.shards().of(Topic::User(user)))
    }

    /// Whether SQL, which had come to `applied` when it listed a user's groups, can have missed none; without it, whether it
    /// does now.
    pub fn has_listed_all(&self, unheard: &Unheard, applied: Option<&[ShardPosition]>) -> bool {
        match applied {
            Some(applied) => self.lists.are_whole(unheard, Some(&|shard| applied_in(applied, shard))),
            None => self.lists.are_whole(unheard, None),
        }
    }

    /// Makes `session` a member of `group`'s delivery, from `start` on; what was missed since is
    /// written to it first. `known` is a position at which its user was known to be a member. Of the
    /// membership itself it hears what `telling` says.
    pub async fn join_group(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        group: GroupId,
        meta: &GroupMeta,
        start: Start,
        known: Position,
        telling: Telling,
    ) -> Result<Joined, JoinError> {
        let ask = |join: Box<Join>| {
            let mailbox = self.group_mailbox(group, meta);
            async move { mailbox.send(Command::Join(join)).await.is_ok() }
        };
        self.join(session, Whose::Group { group, meta: meta.clone() }, start, known, telling, ask).await
    }

    /// Makes `session` hear what concerns its user, from `start` on.
    pub async fn join_inbox(self: &Arc<Self>, session: &Arc<SessionHandle>, start: Start) -> Result<Joined, JoinError> {
        let shard = self.broker.shards().of(Topic::User(session.key));
        let ask = |join: Box<Join>| async move {
            match self.users.get(usize::from(shard.0)) {
                Some(mailbox) => mailbox.send(UserCommand::Join(join)).await.is_ok(),
                None => false,
            }
        };
        self.join(session, Whose::Inbox, start, Position::START, Telling::Nothing, ask).await
    }

    /// Asks until delivery is live. Where it gives up after some of what was missed has been written, the session
    /// ends: asked again, it would be written again. So it does where the membership is over by then and no end of it is told.
    async fn join<Asked: Future<Output = bool>>(
        self: &Arc<Self>,
        session: &Arc<SessionHandle>,
        mut whose: Whose,
        mut start: Start,
        mut known: Position,
        mut telling: Telling,
        ask: impl Fn(Box<Join>) -> Asked,
    ) -> Result<Joined, JoinError> {
        let insistence = Insistence::of(session);
        let mut written = false;
        // The topic's task has the session from then on.
        let mut is_live = false;
        let joined = async {
            let mut complete = true;
            // What was missed is declared once it is known where live delivery begins.
            let mut is_anew = false;
            let asked = start;
            let mut attempt = 0;
            while attempt < ATTEMPTS {
                attempt += 1;
                let (answer, answered) = oneshot::channel();
                let (session, meta) = (Arc::clone(session), whose.meta().cloned());
                if !ask(Box::new(Join { session, meta, start, known, telling: telling.clone(), answer })).await {
                    continue;
                }
                match answered.await {
                    Ok(Answer::Live(position)) => {
                        is_live = true;
                        if is_anew {
                            recover::declare(self, &insistence, &mut whose, known, position, &mut telling).await?;
                        }
                        let start = match asked {
                            Start::After(asked) => asked,
                            Start::Now => position,
                        };
                        return Ok(Joined { start, position, complete });
                    }
                    // An inbox has no ring: one that is written to without a pause cannot be caught up with. Nor can anybody be brought
                    // up to a group that says too much each time that SQL is asked.
                    Ok(Answer::Behind(_)) if matches!(whose, Whose::Inbox) && attempt > ATTEMPTS / 2 => {
                        (start, complete, is_anew) = (Start::Now, false, true);
                    }
                    // `ready` says it, with the position: nobody who signs in waits for SQL to come so far.
                    Ok(Answer::TooMuch(_)) if !insistence.session().outlet.is_released() => {
                        telling.begin(insistence.session());
                        recover::say_reset(self, insistence.session(), whose.group());
                        (start, complete, written) = (Start::Now, false, true);
                    }
                    Ok(Answer::TooMuch(_)) if attempt > ATTEMPTS / 2 => {
                        (start, complete, is_anew, written) = (Start::Now, false, true, true);
                    }
                    Ok(Answer::Behind(floor)) => {
                        let recovered = recover::recover(self, &insistence, &mut whose, start, known, floor, &mut telling).await?;
                        written |= recovered.written;
                        complete &= recovered.complete;
                        known = known.max(floor);
                        if let Start::After(position) = start {
                            start = Start::After(position.max(floor));
                        }
                    }
                    Ok(Answer::TooMuch(cursor)) => {
                        recover::declare(self, &insistence, &mut whose, known, cursor, &mut telling).await?;
                        (start, written, complete, known) = (Start::After(cursor), true, false, known.max(cursor));
                    }
                    Ok(Answer::NotMember(at)) => return Err(JoinError::NotMember(at)),
                    // Its next task may be luckier; that it was behind somewhere is what counts as an attempt.
                    Ok(Answer::Unavailable(_)) if insistence.goes_on() => {
                        attempt -= 1;
                        tokio::time::sleep(ASK_AGAIN).await;
                    }
                    Ok(Answer::Unavailable(reason)) => return Err(JoinError::Unavailable(reason)),
                    // The topic's task ended in between; the next question starts another.
                    Err(_) => {}
                }
            }
            Err(JoinError::Unavailable("delivery could not catch up".to_owned()))
        }
        .await;
        if is_live && joined.is_err() {
            match whose.group() {
                Some(group) => self.leave_group(group, session.id).await,
                None => self.leave_inbox(session.key, session.id).await,
            }
        }
        let half_told = match &joined {
            Err(JoinError::Unavailable(_)) => true,
            // What was written is of a group that nobody will tell the client of.
            Err(JoinError::NotMember(_)) => telling.is_nothing(),
            Ok(_) | Err(JoinError::TooMany(_)) => false,
        };
        if written && half_told {
            if session.outlet.is_released() {
                session.outlet.close(CloseCode::TryAgain);
            } else if !matches!(joined, Err(JoinError::Unavailable(_))) {
                // One that is not open yet is refused, and nothing of that is told.
                return Err(JoinError::Unavailable("a membership ended while what it had missed was read".to_owned()));
            }
        }
        joined
    }

    fn group_mailbox(self: &Arc<Self>, group: GroupId, meta: &GroupMeta) -> mpsc::Sender<Command> {
        let start = || {
            let (sender, mailbox) = mpsc::channel(group::MAILBOX);
            self.tasks.spawn(GroupTask::run(Arc::clone(self), group, meta.clone(), mailbox));
            sender
        };
        match self.groups.entry(group) {
            Entry::Occupied(mut entry) => {
                // A mailbox that is closed while it stands here is of a task that did not end well.
                if entry.get().is_closed() {
                    entry.insert(start());
                }
                entry.get().clone()
            }
            Entry::Vacant(entry) => {
                self.metrics.groups.inc();
                entry.insert(start()).clone()
            }
        }
    }

    /// The task of `group` ends; only a task itself does this, and there is one at a time.
    pub(super) fn forget_group(&self, group: GroupId) {
        if self.groups.remove(&group).is_some() {
            self.metrics.groups.dec();
        }
    }

    /// Ends `session`'s membership of `group`'s delivery.
    pub async fn leave_group(&self, group: GroupId, session: SessionId) {
        let mailbox = self.groups.get(&group).map(|mailbox| mailbox.clone());
        if let Some(mailbox) = mailbox {
            let _ = mailbox.send(Command::Leave(session)).await;
        }
    }

    /// The event of `group` at `position` is known to be stored: delivery comes to it now, if it has
    /// not already.
    pub async fn reach(&self, group: GroupId, position: Position) {
        let mailbox = self.groups.get(&group).map(|mailbox| mailbox.clone());
        if let Some(mailbox) = mailbox {
            let _ = mailbox.send(Command::Reach(position)).await;
        }
    }

    /// Whether the log of `topic` has come to `position`, which came here at `came`. All that came by then is answered by asking
    /// once.
    pub async fn is_stored(&self, topic: Topic, position: Position, came: Instant) -> Result<bool, BrokerError> {
        self.log_states.reaches(&*self.broker, self.broker.shards().of(topic), position, came).await
    }

    /// Tells `session` that something of `group` may be missing.
    pub fn say_reset(&self, session: &SessionHandle, group: GroupId) {
        recover::say_reset(self, session, Some(group));
    }

    /// Tells `session` that something of its user's inbox up to `position` may be missing, once SQL has it.
    pub async fn declare_inbox(self: &Arc<Self>, session: &SessionHandle, position: Position) -> Result<(), JoinError> {
        recover::declare(self, &Insistence::of(session), &mut Whose::Inbox, position, position, &mut Telling::Nothing).await
    }

    /// Ends what `session` hears of its `user`.
    pub async fn leave_inbox(&self, user: UserKey, session: SessionId) {
        let shard = self.broker.shards().of(Topic::User(user));
        if let Some(mailbox) = self.users.get(usize::from(shard.0)) {
            let _ = mailbox.send(UserCommand::Leave(user, session)).await;
        }
    }
}
