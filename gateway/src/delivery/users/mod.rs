//! The delivery task of one shard's users: notifications, hints, counts. One subscription covers
//! them all; a user who is not connected here costs one look into a table.

mod away;
mod check;
mod counts;
mod hints;

use std::{collections::HashMap, sync::Arc, time::Duration};

use natter_shared::{
    broker::{Delivery, Interest, Stored, Subscription},
    event::{Ephemeral, Event},
    failpoint,
    frame::CloseCode,
    id::{SessionId, UserKey},
    position::Position,
    subject::{Shard, Topic},
};
use smallvec::SmallVec;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(super) use self::check::{Checked, Listed};
use self::{counts::Recounts, hints::RecentHints};
use super::{
    Start, arrived,
    cursor::{Cursor, Verdict},
    encode::{Effect, encode_ephemeral, encode_event, readable},
    fill,
    hold::{Hold, HoldLimits},
    hub::Hub,
    join::{Answer, Join},
};
use crate::{
    knowledge,
    session::{Notice, Protocol, SessionHandle},
    socket::wire,
};

const BATCH: usize = 64;

/// Batches taken at once at most: more than a full queue holds (`subscription_capacity`).
const AT_ONCE: usize = 32;

/// Before a subscription that could not be made is tried again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What waits in the mailbox of a shard's users at most; who finds it full waits.
pub(super) const MAILBOX: usize = 1024;

/// What the task is asked.
pub(super) enum UserCommand {
    /// A session wants to be told what concerns its user.
    Join(Box<Join>),
    /// A session goes.
    Leave(UserKey, SessionId),
    /// Which users have sessions here: a check begins; after a disturbance, of everything up to this position.
    List(Option<Position>, oneshot::Sender<Listed>),
    /// The check has been made.
    Checked(Checked),
}

struct User {
    cursor: Cursor,
    /// How many interruptions there had been when the first session came.
    interruptions: u64,
    /// Listed for the check that is under way.
    listed: bool,
    /// No check has been made since the first session came.
    unchecked: bool,
    listeners: SmallVec<[Listener; 1]>,
}

struct Listener {
    session: Arc<SessionHandle>,
    /// The session has everything up to here already.
    after: Position,
}

/// How much is held back after an interruption.
const HOLD_LIMITS: HoldLimits = HoldLimits { events: 4096, bytes: 8 << 20 };

pub(super) struct UsersTask {
    hub: Arc<Hub>,
    shard: Shard,
    users: HashMap<UserKey, User>,
    /// Everything of any user up to here has been looked at; what comes is later.
    fed: Position,
    hints: RecentHints,
    /// Up to these interruptions it is known what was missed.
    interruptions: u64,
    /// What waits for that to be known of a later one.
    hold: Option<Hold>,
    recounts: Recounts,
}

impl UsersTask {
    /// Follows the users of `shard` until `stop`.
    pub(super) async fn run(hub: Arc<Hub>, shard: Shard, mut mailbox: mpsc::Receiver<UserCommand>, stop: CancellationToken) {
        let (mut users, mut asked) = (HashMap::new(), None);
        let mut pause = FIRST_PAUSE;
        while !stop.is_cancelled() {
            // Before the fence: an interruption after it is not covered by it.
            let (interruptions, losses) = (hub.broker.interruptions(), knowledge::losses(&*hub.broker));
            let subscribed = async {
                let subscription = hub.broker.subscribe(Interest::Users(shard)).await?;
                hub.broker.fence(shard).await.map(|floor| (subscription, floor))
            };
            let subscribed = away::meanwhile(&mut users, &mut mailbox, &mut asked, stop.run_until_cancelled(subscribed)).await;
            match subscribed {
                Some(Ok((subscription, fed))) => {
                    let mut task = Self {
                        hub: Arc::clone(&hub),
                        shard,
                        users: std::mem::take(&mut users),
                        fed,
                        hints: RecentHints::new(shard),
                        interruptions,
                        hold: None,
                        recounts: Recounts::after(losses),
                    };
                    task.lose_all();
                    hub.lists.hints_missed(shard);
                    hub.users_are_live(shard, true);
                    if let Some(asked) = asked.take() {
                        task.on_command(asked);
                    }
                    task.follow(subscription, &mut mailbox, &stop).await;
                    hub.users_are_live(shard, false);
                    users = task.users;
                    pause = FIRST_PAUSE;
                }
                Some(Err(error)) => {
                    tracing::debug!(%shard, %error, "users_not_followed");
                    let paused = stop.run_until_cancelled(tokio::time::sleep(pause));
                    away::meanwhile(&mut users, &mut mailbox, &mut asked, paused).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                None => return,
            }
        }
    }

    async fn follow(&mut self, mut subscription: Subscription, mailbox: &mut mpsc::Receiver<UserCommand>, stop: &CancellationToken) {
        let mut deliveries = Vec::with_capacity(BATCH);
        loop {
            let has_room = self.has_room();
            let ends = self.hold.as_ref().map_or_else(Instant::now, |hold| hold.until);
            tokio::select! {
                command = mailbox.recv() => match command {
                    Some(UserCommand::Checked(checked)) => {
                        // What the fence was behind lies in the subscription by now; what comes meanwhile may wait.
                        for _ in 0..AT_ONCE {
                            if !self.has_room() || !arrived::next(&mut subscription, &mut deliveries, BATCH).await {
                                break;
                            }
                            self.on_deliveries(&mut deliveries).await;
                        }
                        self.on_checked(checked).await;
                    }
                    Some(command) => self.on_command(command),
                    None => return,
                },
                open = subscription.next_batch(&mut deliveries, BATCH), if has_room => {
                    if !open {
                        return;
                    }
                    self.on_deliveries(&mut deliveries).await;
                }
                // Followed anew, all others recover.
                () = tokio::time::sleep_until(ends), if self.hold.is_some() => return self.close_held(),
                () = tokio::time::sleep_until(self.hints.look_at()), if !self.hints.is_empty() => self.hints.forget(&self.hub),
                () = self.recounts.ended(), if self.recounts.is_under_way() => self.begin_round(),
                () = stop.cancelled() => return,
            }
        }
    }

    /// Whether more may be taken from the subscription.
    fn has_room(&self) -> bool {
        self.hold.as_ref().is_none_or(Hold::has_room)
    }

    async fn on_deliveries(&mut self, deliveries: &mut Vec<Delivery>) {
        let came = Instant::now();
        if self.hold.is_none() && self.hub.broker.interruptions() != self.interruptions {
            self.hub.metrics.holds.inc();
            self.hold = Some(Hold::new(HOLD_LIMITS));
        }
        for delivery in deliveries.drain(..) {
            match (delivery, &mut self.hold) {
                (Delivery::Stored(stored), Some(hold)) => hold.push(stored),
                (Delivery::Stored(stored), None) => self.on_stored(stored, came).await,
                // Sent to whoever is here, whatever was missed.
                (Delivery::Ephemeral { topic, payload }, _) => self.on_ephemeral(topic, &payload),
            }
        }
    }

    fn on_command(&mut self, command: UserCommand) {
        match command {
            UserCommand::Join(join) => self.on_join(*join),
            UserCommand::Leave(user, id) => away::leave(&mut self.users, user, id),
            // Of a check that has given up waiting.
            UserCommand::List(_, answer) if answer.is_closed() => {}
            UserCommand::List(disturbed, answer) => {
                let _ = answer.send(self.list(disturbed));
            }
            // Done where the subscription is at hand.
            UserCommand::Checked(_) => {}
        }
    }

    fn on_join(&mut self, join: Join) {
        let Join { session, start, answer, .. } = join;
        let is_new = !self.users.contains_key(&session.key);
        let interruptions = self.interruptions;
        let cursor = Cursor(self.fed);
        let fresh = || User { cursor, interruptions, listed: false, unchecked: true, listeners: SmallVec::new() };
        let entry = self.users.entry(session.key).or_insert_with(fresh);
        let seen = entry.cursor.0;
        let said = match start {
            Start::After(position) if position < seen => Answer::Behind(seen),
            Start::After(position) => Answer::Live(position),
            Start::Now => Answer::Live(seen),
        };
        let live = match said {
            Answer::Live(after) => Some(after),
            Answer::Behind(_) | Answer::TooMuch(_) | Answer::NotMember(_) | Answer::Unavailable(_) => None,
        };
        if let (Ok(()), Some(after)) = (answer.send(said), live) {
            self.hints.tell(&session);
            entry.listeners.retain(|other| other.session.id != session.id);
            entry.listeners.push(Listener { session, after });
        } else if is_new {
            let key = session.key;
            self.users.remove(&key);
        }
    }

    /// `came` is when the event was here at the latest.
    async fn on_stored(&mut self, stored: Stored, came: Instant) {
        let Topic::User(user) = stored.topic else { return };
        self.fed = self.fed.max(stored.position);
        self.hints.keep(&self.hub, user, &stored.payload);
        let Some(entry) = self.users.get_mut(&user) else { return };
        let is_next = match entry.cursor.judge(stored.position, stored.previous) {
            Verdict::Next => true,
            Verdict::First => fill::is_whole(&self.hub, stored.topic, entry.cursor.0, came).await,
            Verdict::Old => return,
            Verdict::Gap | Verdict::NewEpoch => false,
        };
        if is_next {
            entry.cursor = Cursor(stored.position);
            tell(&self.hub, &entry.listeners, &stored);
        } else {
            // The sessions read back what was missed, this event included.
            self.lose(user, stored.position);
        }
    }

    fn on_ephemeral(&mut self, topic: Topic, payload: &[u8]) {
        let Topic::User(user) = topic else { return };
        let Some(entry) = self.users.get(&user) else { return };
        let Ok(ephemeral) = serde_json::from_slice(payload) else { return };
        if let Ephemeral::Disconnect { reconnect } = ephemeral {
            let code = if reconnect { CloseCode::Restart } else { CloseCode::NotAllowed };
            entry.listeners.iter().for_each(|listener| listener.session.outlet.close(code));
            return;
        }
        let Some(frame) = encode_ephemeral(ephemeral) else { return };
        let frame = wire::text(&frame);
        for Listener { session, .. } in &entry.listeners {
            if session.protocol == Protocol::V1 {
                session.outlet.push(&frame, 1);
            }
        }
    }

    /// Something of `user` was missed: its sessions recover from where they were, then join again.
    fn lose(&mut self, user: UserKey, upto: Position) {
        let Some(entry) = self.users.get_mut(&user) else { return };
        self.hub.metrics.gaps.inc();
        let after = std::mem::replace(&mut entry.cursor, Cursor(upto)).0;
        // The entry stays, so that who comes back after `after` is told to recover; it goes with the
        // last session's leave.
        for listener in std::mem::take(&mut entry.listeners) {
            listener.session.notice(Notice::InboxLost { after: after.max(listener.after) });
        }
    }

    /// The subscription is a new one: nobody knows what was missed before it.
    fn lose_all(&mut self) {
        tracing::debug!(shard = %self.shard, users = self.users.len(), "users_follow_anew");
        let users: Vec<_> = self.users.keys().copied().collect();
        for user in users {
            self.lose(user, self.fed);
        }
    }
}

/// Writes an event to the user's sessions, and tells them what follows from it.
fn tell(hub: &Hub, listeners: &[Listener], stored: &Stored) {
    let Some(event) = readable(stored) else { return };
    if matches!(event, Event::Notification(_)) && failpoint::hit("drop-note") {
        return;
    }
    let for_chat = listeners.iter().any(|listener| listener.session.protocol == Protocol::ChatRoom);
    let encoded = encode_event(event, stored.position, stored.stored_at, None, for_chat);
    let v1 = encoded.v1.map(|frame| wire::text(&frame));
    let chat = encoded.chat.map(|frame| wire::text(&frame));
    for Listener { session, after } in listeners {
        let frame = match session.protocol {
            Protocol::V1 => &v1,
            Protocol::ChatRoom => &chat,
        };
        if let Some(frame) = frame
            && *after < stored.position
        {
            session.outlet.push(frame, 1);
            hub.metrics.deliveries.inc();
        }
        // Also of what its client was told elsewhere: SQL may not have known of it when the session signed in.
        match &encoded.effect {
            Effect::Joined(joined) => session.notice(Notice::Joined(joined.clone())),
            Effect::Left(left) => session.notice(Notice::Left(left.clone())),
            Effect::None | Effect::Removed(_) => {}
        }
    }
}
