//! The delivery task of one group: it owns the members and the ring, checks order once, encodes
//! once, and writes the same bytes to every member's socket.

mod gaps;
mod members;

use std::sync::Arc;

use natter_shared::{
    broker::{BrokerError, Delivery, Interest, Stored, Subscription},
    event::Event,
    failpoint,
    frame::CloseCode,
    id::{GroupId, SessionId, UserId},
    position::Position,
    subject::Topic,
};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant},
};

use self::members::{Ahead, Member};
use super::{
    GroupMeta, arrived,
    batch::Batch,
    cursor::{Cursor, Verdict},
    encode::{encode_ephemeral, encode_event, readable},
    hold::{Hold, HoldLimits},
    hub::Hub,
    join::{Answer, Join, say_left},
    ring::Ring,
};

/// How many deliveries are handled between two looks at the mailbox.
const BATCH: usize = 64;

/// After so many writes other tasks get a turn: `try_write` uses no coop budget.
const WRITES_PER_TURN: usize = 256;

/// How much is held back after an interruption.
const HOLD_LIMITS: HoldLimits = HoldLimits { events: 256, bytes: 1 << 20 };

/// What waits in a group's mailbox at most; who finds it full waits.
pub(super) const MAILBOX: usize = 64;

/// What a group's task is asked.
pub(super) enum Command {
    /// A session wants to be a member.
    Join(Box<Join>),
    /// A session goes.
    Leave(SessionId),
    /// The group's event at this position is known to be stored.
    Reach(Position),
    /// A fenced check has been made. On the heap: a mailbox has room for 32 commands from the start.
    Checked(Box<Checked>),
    /// Memory is tight: forget what the ring holds if nothing happened lately.
    Trim,
}

/// What a fenced check knows of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    /// So many interruptions came before it.
    pub(super) interruptions: u64,
    /// Everything of the group up to here is known by it.
    pub(super) upto: Position,
    /// The first event that the log had afterwards.
    pub(super) first: u64,
    /// The group's last event, where that came after the check before.
    pub(super) last: Option<u64>,
}

pub(super) struct GroupTask {
    hub: Arc<Hub>,
    group: GroupId,
    meta: GroupMeta,
    members: Vec<Member>,
    ahead: Vec<Ahead>,
    chat_members: usize,
    /// From here on the ring holds chat-room frames too.
    chat_floor: Position,
    cursor: Cursor,
    ring: Ring,
    batch: Batch,
    /// Up to these interruptions it is known what was missed.
    interruptions: u64,
    /// What waits for that to be known of a later one.
    hold: Option<Hold>,
    active: Instant,
    /// Nobody has been a member since.
    empty_since: Instant,
}

impl GroupTask {
    /// Follows `group` until nobody has been a member of it here for a while.
    pub(super) async fn run(hub: Arc<Hub>, group: GroupId, meta: GroupMeta, mut mailbox: mpsc::Receiver<Command>) {
        // Before the fence: an interruption after it is not covered by it.
        let interruptions = hub.broker.interruptions();
        match Self::subscribe(&hub, group).await {
            Ok((subscription, floor)) => {
                // On the heap: a future has room for what is handed to it, and for what it makes of it.
                let task = Box::new(Self {
                    ring: Ring::new(floor, Arc::clone(&hub.ring_budget)),
                    hub: Arc::clone(&hub),
                    group,
                    meta,
                    members: Vec::new(),
                    ahead: Vec::new(),
                    chat_members: 0,
                    chat_floor: floor,
                    cursor: Cursor(floor),
                    batch: Batch::default(),
                    interruptions,
                    hold: None,
                    active: Instant::now(),
                    empty_since: Instant::now(),
                });
                task.follow(subscription, &mut mailbox).await;
            }
            Err(error) => {
                hub.forget_group(group);
                mailbox.close();
                let reason = error.to_string();
                while let Some(command) = mailbox.recv().await {
                    if let Command::Join(join) = command {
                        let _ = join.answer.send(Answer::Unavailable(reason.clone()));
                    }
                }
            }
        }
    }

    /// Subscribes, then fences: everything after the returned position arrives live.
    async fn subscribe(hub: &Hub, group: GroupId) -> Result<(Subscription, Position), BrokerError> {
        let topic = Topic::Group(group);
        if failpoint::hit("no-fence") {
            let log = hub.broker.log_state(hub.broker.shards().of(topic)).await?;
            return Ok((hub.broker.subscribe(Interest::Topic(topic)).await?, Position::new(log.epoch, log.last)));
        }
        let subscription = hub.broker.subscribe(Interest::Topic(topic)).await?;
        let floor = hub.broker.fence(hub.broker.shards().of(topic)).await?;
        Ok((subscription, floor))
    }

    async fn follow(mut self: Box<Self>, mut subscription: Subscription, mailbox: &mut mpsc::Receiver<Command>) {
        let mut deliveries = Vec::with_capacity(4);
        let stop = self.hub.stop.clone();
        loop {
            let (empty, has_room) = (self.is_empty(), self.has_room());
            let linger_ends = self.empty_since + self.hub.linger;
            let ends = self.hold.as_ref().map_or(linger_ends, |hold| hold.until);
            tokio::select! {
                command = mailbox.recv() => match command {
                    Some(Command::Reach(position)) => {
                        // What has arrived need not be read back: a group that is busy is always a little behind.
                        // What is seldom is on the heap while it lasts: the task has room for its largest step at all times.
                        Box::pin(self.catch_up(&mut subscription, &mut deliveries, position)).await;
                        Box::pin(self.on_reach(position)).await;
                    }
                    Some(Command::Checked(checked)) => {
                        // What the fence was behind lies in the subscription by now.
                        Box::pin(self.catch_up(&mut subscription, &mut deliveries, checked.upto)).await;
                        Box::pin(self.on_checked(*checked)).await;
                    }
                    Some(command) => self.on_command(command),
                    None => return,
                },
                open = subscription.next_batch(&mut deliveries, BATCH), if has_room => {
                    if !open {
                        // The broker ended it; whoever is here comes back and starts anew.
                        return self.end(mailbox).await;
                    }
                    self.on_deliveries(&mut deliveries).await;
                }
                () = tokio::time::sleep_until(ends), if empty || self.hold.is_some() => {
                    if self.hold.as_ref().is_some_and(|hold| hold.until <= Instant::now()) {
                        self.close_all();
                        return self.end(mailbox).await;
                    }
                    if empty {
                        return self.end(mailbox).await;
                    }
                }
                () = stop.cancelled() => return self.end(mailbox).await,
            }
        }
    }

    /// Whether more may be taken from the subscription.
    fn has_room(&self) -> bool {
        self.hold.as_ref().is_none_or(Hold::has_room)
    }

    /// Takes what has arrived, until delivery has come to `position`.
    async fn catch_up(&mut self, subscription: &mut Subscription, deliveries: &mut Vec<Delivery>, position: Position) {
        while self.has_room() && self.cursor.0 < position && arrived::next(subscription, deliveries, BATCH).await {
            self.on_deliveries(deliveries).await;
        }
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.ahead.is_empty()
    }

    /// Unregisters, then answers whoever asked in between: they ask the hub again.
    async fn end(&mut self, mailbox: &mut mpsc::Receiver<Command>) {
        self.hub.forget_group(self.group);
        mailbox.close();
        while mailbox.recv().await.is_some() {
            // A dropped `Join` tells its session to ask again.
        }
        self.release_all(self.cursor.0);
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Join(join) => self.on_join(*join),
            Command::Leave(id) => self.leave(id),
            // Done where the subscription is at hand.
            Command::Reach(_) | Command::Checked(_) => {}
            Command::Trim => {
                if self.active.elapsed() > Duration::from_secs(30) {
                    self.ring.restart(self.cursor.0);
                    self.chat_floor = self.cursor.0;
                }
                self.ring.trim(Instant::now());
            }
        }
    }

    async fn on_deliveries(&mut self, deliveries: &mut Vec<Delivery>) {
        self.active = Instant::now();
        if self.hold.is_none() && self.hub.broker.interruptions() != self.interruptions {
            self.hub.metrics.holds.inc();
            self.hold = Some(Hold::new(HOLD_LIMITS));
        }
        if let Some(hold) = &mut self.hold {
            for delivery in deliveries.drain(..) {
                match delivery {
                    Delivery::Stored(stored) => hold.push(stored),
                    // Of use now or never; who may hear it is not known now.
                    Delivery::Ephemeral { .. } => {}
                }
            }
            return;
        }
        for delivery in deliveries.drain(..) {
            match delivery {
                Delivery::Stored(stored) => self.on_stored(stored).await,
                Delivery::Ephemeral { payload, .. } => {
                    if let Some(frame) = serde_json::from_slice(&payload).ok().and_then(encode_ephemeral) {
                        self.batch.add_frame(&frame);
                    }
                }
            }
        }
        self.flush().await;
        self.settle_ahead();
    }

    async fn on_stored(&mut self, stored: Stored) {
        match self.cursor.judge(stored.position, stored.previous) {
            Verdict::Next => self.take(stored).await,
            Verdict::Old => {}
            verdict @ (Verdict::First | Verdict::Gap | Verdict::NewEpoch) => Box::pin(self.on_other(verdict, stored)).await,
        }
    }

    /// The next event: into the batch, and past the cursor.
    async fn take(&mut self, stored: Stored) {
        let at = stored.position;
        let removed = self.add(&stored);
        if self.batch.is_large() {
            // One write must not be more than a member that reads well may let wait.
            self.flush().await;
        }
        if let Some(user) = removed {
            Box::pin(self.on_removed(&user, at)).await;
        }
    }

    /// Returns who is no member any more after it.
    fn add(&mut self, stored: &Stored) -> Option<UserId> {
        self.cursor = Cursor(stored.position);
        let event = readable(stored)?;
        // A person who waits for the end of a membership would wait for ever: that is not what this shows.
        if matches!(event, Event::Message(_)) && failpoint::hit("drop") {
            return None;
        }
        if let Event::GroupRenamed(renamed) = &event {
            self.meta.rename(&renamed.display_name, stored.position);
        }
        let for_chat = self.chat_members > 0;
        if !for_chat {
            self.chat_floor = stored.position;
        }
        let encoded = encode_event(event, stored.position, stored.stored_at, Some(&self.meta), for_chat);
        self.batch.add(stored.position, encoded)
    }

    /// What stands before the removal is still the member's; nothing after it is.
    async fn on_removed(&mut self, user: &UserId, at: Position) {
        self.flush().await;
        let gone = if failpoint::hit("after-removal") {
            self.members.iter().map(|member| &member.session).filter(|session| session.user == *user).cloned().collect()
        } else {
            self.remove(|session| session.user == *user, |ahead| ahead.session.user == *user && ahead.known < at)
        };
        for session in gone {
            say_left(&session, self.group, at);
            session.end_in_order(self.group, at);
        }
    }

    /// Writes the batch to every member, and keeps it in the ring.
    async fn flush(&mut self) {
        let Some(batch) = self.batch.seal() else { return };
        for (turn, Member { session, .. }) in self.members.iter().enumerate() {
            batch.write_to(session);
            if failpoint::hit("double") {
                batch.write_to(session);
            }
            if turn % WRITES_PER_TURN == WRITES_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        for Ahead { position, session, .. } in &self.ahead {
            batch.write_after(session, *position);
        }
        self.hub.metrics.deliveries.inc_by(self.members.len() as u64 * u64::from(batch.messages()));
        let now = Instant::now();
        for entry in batch.into_entries() {
            self.ring.push(entry, now);
        }
        // So nobody who is still ahead has been told anything yet.
        self.settle_ahead();
    }
}

impl Drop for GroupTask {
    /// Who is here when the task breaks off, by a defect of ours, would hear nothing more of the group: they come back. The hub starts
    /// another task for who joins next.
    fn drop(&mut self) {
        let members = self.members.iter().map(|member| &member.session);
        for session in members.chain(self.ahead.iter().map(|ahead| &ahead.session)) {
            session.outlet.close(CloseCode::TryAgain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an async function of four makes.
    fn size_of_future<A, B, C, D, Made>(_: impl Fn(A, B, C, D) -> Made) -> usize {
        size_of::<Made>()
    }

    #[test]
    fn the_task_of_a_group_is_small() {
        let bytes = size_of_future(GroupTask::run) + size_of::<GroupTask>();
        assert!(bytes <= 1792, "{bytes} bytes for each group");
    }
}
