//! A broker whose losses are on demand: it stores events, and delivers live those that it is told to.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use natter_shared::{
    broker::{
        Ack, Broker, BrokerError, BrokerStatus, Calls, Control, Controls, CurrentEpoch, Delivery, Interest, LogReader, LogSize, LogState,
        Outgoing, Stored, Subscription, Tails,
    },
    event::{Ephemeral, Event, GroupKind, InboxCounts, Message, Role},
    id::{EventId, GroupId, UserId},
    position::{Epoch, Position},
    rpc::{
        Answer, AwaitApplied, EventsAfter, EventsPage, FindMembership, Groups, GroupsPage, Membership, OneOfMany, Profile, RecoveredEvent,
        Request, Rpc, RpcError, ShardPosition, SignIn, SignInMany, SignedIn, TellInboxes,
    },
    subject::{Shard, Shards, Topic},
    timestamp::Timestamp,
};
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc, watch};

#[derive(Default)]
struct Log {
    /// All there ever was: SQL has it.
    all: Vec<Stored>,
    /// The first that is still stored.
    first: u64,
    live: HashMap<Interest, Vec<mpsc::Sender<Delivery>>>,
}

/// One shard, epoch 1.
pub(crate) struct Script {
    log: Mutex<Log>,
    status: watch::Sender<BrokerStatus>,
    interruptions: AtomicU64,
    /// No fence is reached.
    pub(crate) unfenced: AtomicBool,
    /// Nobody says what the log holds.
    pub(crate) is_state_unknown: AtomicBool,
    /// SQL has not everything.
    pub(crate) is_sql_incomplete: AtomicBool,
    /// SQL does not answer yet.
    pub(crate) is_sql_held: AtomicBool,
    /// How far SQL has come; without it, as far as the log.
    pub(crate) sql_is_at: Mutex<Option<Position>>,
    /// By how many milliseconds its clock goes ahead of the machine's.
    pub(crate) ahead: AtomicI64,
    /// How often a log's state was asked for, and a fence made.
    pub(crate) ends_asked: AtomicUsize,
    /// How many of its last events a log's state leaves out.
    pub(crate) looks_shorter_by: AtomicU64,
    /// Who reads an event one by one next meets a defect.
    pub(crate) is_defective: AtomicBool,
    /// What the group is called, in SQL.
    pub(crate) called: Mutex<String>,
    /// Since when a user is a member, in SQL.
    pub(crate) member_since: Mutex<Position>,
    /// Users are members of the group, as SQL lists it.
    pub(crate) is_listed: AtomicBool,
    announced: broadcast::Sender<Position>,
    /// Up to where SQL was asked to have come.
    pub(crate) asked_behind: Mutex<Vec<Position>>,
    /// No subscription can be made.
    is_deaf: AtomicBool,
    /// What came before is in SQL no more.
    pub(crate) sql_begins: AtomicU64,
    /// Calls of SQL for events.
    pub(crate) sql_reads: AtomicUsize,
    /// Events read one by one.
    pub(crate) stream_reads: AtomicUsize,
    /// After where tails were asked for.
    pub(crate) tails: Mutex<Vec<u64>>,
    /// Whose counts were asked to be told again, call by call.
    pub(crate) told_again: Mutex<Vec<Vec<UserId>>>,
}

impl Script {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            log: Mutex::new(Log { first: 1, ..Log::default() }),
            status: watch::Sender::new(BrokerStatus { connected: true, generation: 0, elections: 0, leaders: 0 }),
            interruptions: AtomicU64::new(0),
            unfenced: AtomicBool::new(false),
            is_state_unknown: AtomicBool::new(false),
            is_sql_incomplete: AtomicBool::new(false),
            is_sql_held: AtomicBool::new(false),
            sql_is_at: Mutex::default(),
            ahead: AtomicI64::new(0),
            ends_asked: AtomicUsize::new(0),
            looks_shorter_by: AtomicU64::new(0),
            is_defective: AtomicBool::new(false),
            called: Mutex::new("lobby".to_owned()),
            member_since: Mutex::default(),
            is_listed: AtomicBool::new(false),
            announced: broadcast::Sender::new(16),
            asked_behind: Mutex::default(),
            is_deaf: AtomicBool::new(false),
            sql_begins: AtomicU64::new(0),
            sql_reads: AtomicUsize::new(0),
            stream_reads: AtomicUsize::new(0),
            tails: Mutex::default(),
            told_again: Mutex::default(),
        })
    }

    /// Stores an event, and delivers it unless it is to be missed.
    pub(crate) fn store(&self, topic: Topic, event: &Event, is_missed: bool) -> Position {
        let mut log = self.log.lock();
        let previous = log.all.iter().rev().find(|stored| stored.topic == topic && stored.position.seq >= log.first);
        let stored = Stored {
            topic,
            position: Position::new(Epoch(1), log.all.len() as u64 + 1),
            previous: previous.map_or(0, |stored| stored.position.seq),
            id: EventId::random(),
            made_at: Timestamp::now(),
            stored_at: Timestamp::now(),
            payload: event.encode().unwrap(),
        };
        log.all.push(stored.clone());
        if !is_missed {
            let interest = match topic {
                Topic::User(_) => Interest::Users(Shard(0)),
                Topic::Group(_) | Topic::Canary(_) => Interest::Topic(topic),
            };
            for listener in log.live.get(&interest).into_iter().flatten() {
                let _ = listener.try_send(Delivery::Stored(stored.clone()));
            }
        }
        stored.position
    }

    /// Passes something on.
    pub(crate) fn pass(&self, topic: Topic, ephemeral: &Ephemeral) {
        let payload = Bytes::from(serde_json::to_vec(ephemeral).unwrap());
        for listener in self.log.lock().live.get(&Interest::Topic(topic)).into_iter().flatten() {
            let _ = listener.try_send(Delivery::Ephemeral { topic, payload: payload.clone() });
        }
    }

    /// Whether somebody is subscribed to `topic`.
    pub(super) fn is_followed(&self, topic: Topic) -> bool {
        let log = self.log.lock();
        log.live.get(&Interest::Topic(topic)).is_some_and(|listeners| listeners.iter().any(|listener| !listener.is_closed()))
    }

    /// Everything stored so far is evicted.
    pub(crate) fn evict(&self) {
        let mut log = self.log.lock();
        log.first = log.all.len() as u64 + 1;
    }

    /// Subscriptions end, and none can be made.
    pub(crate) fn go_deaf(&self) {
        self.is_deaf.store(true, Ordering::Relaxed);
        self.log.lock().live.clear();
    }

    /// The connection is lost and comes back; that is not noticed before [`Self::notice`].
    pub(crate) fn interrupt(&self) {
        self.interruptions.fetch_add(1, Ordering::Relaxed);
    }

    /// What was lost is noticed: a check is due.
    pub(crate) fn notice(&self) {
        self.status.send_modify(|status| status.generation += 1);
    }

    /// The persister says how far SQL has come.
    pub(crate) fn announce(&self) {
        let _ = self.announced.send(self.applied());
    }

    /// Where the log ends now.
    pub(crate) fn fence_now(&self) -> Position {
        Position::new(Epoch(1), self.log.lock().all.len() as u64)
    }

    /// Checks made until now.
    pub(crate) fn checks(&self) -> usize {
        self.tails.lock().len()
    }

    async fn sql_answers(&self) {
        while self.is_sql_held.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn applied(&self) -> Position {
        self.sql_is_at.lock().unwrap_or_else(|| self.fence_now())
    }

    /// What SQL knows of a membership.
    fn membership(&self, group: GroupId) -> Option<Membership> {
        let since = *self.member_since.lock();
        (since <= self.applied()).then(|| Membership {
            group,
            kind: GroupKind::Group,
            name: None,
            display_name: self.called.lock().clone(),
            role: Role::Member,
            since,
            last_read: None,
            unread: 0,
        })
    }

    /// SQL has come to where a call wants it.
    async fn sql_reaches(&self, payload: &[u8]) {
        let request: Request<serde_json::Value> = serde_json::from_slice(payload).unwrap();
        let Some(ShardPosition { position, .. }) = request.min_position else { return };
        self.asked_behind.lock().push(position);
        while self.applied() < position {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn answer<T: Rpc>(&self, payload: &[u8], reply: impl FnOnce(T) -> Result<T::Reply, RpcError>) -> Bytes {
        let request: Request<T> = serde_json::from_slice(payload).unwrap();
        let applied = vec![ShardPosition { shard: 0, position: self.applied() }];
        Bytes::from(serde_json::to_vec(&reply(request.call).map(|reply| Answer { applied, reply })).unwrap())
    }
}

/// As SQL has it.
fn without_origin(event: Event) -> Event {
    match event {
        Event::Message(message) => Event::Message(Message { origin: None, ..message }),
        other => other,
    }
}

#[async_trait]
impl Broker for Script {
    fn shards(&self) -> Shards {
        Shards::new(1).unwrap()
    }

    fn status(&self) -> watch::Receiver<BrokerStatus> {
        self.status.subscribe()
    }

    fn interruptions(&self) -> u64 {
        self.interruptions.load(Ordering::Relaxed)
    }

    fn now(&self) -> Timestamp {
        Timestamp::now().offset_by(self.ahead.load(Ordering::Relaxed))
    }

    async fn epoch(&self, _shard: Shard) -> Result<CurrentEpoch, BrokerError> {
        Ok(CurrentEpoch { epoch: Epoch(1), since: None })
    }

    async fn publish(&self, _event: Outgoing) -> Result<Ack, BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn publish_ephemeral(&self, _topic: Topic, _payload: Bytes) -> Result<(), BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn subscribe(&self, interest: Interest) -> Result<Subscription, BrokerError> {
        if self.is_deaf.load(Ordering::Relaxed) {
            return Err(BrokerError::Unavailable("deaf".to_owned()));
        }
        let (sender, receiver) = mpsc::channel(4096);
        self.log.lock().live.entry(interest).or_default().push(sender);
        Ok(Subscription::new(stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })))
    }

    async fn fence(&self, _shard: Shard) -> Result<Position, BrokerError> {
        self.ends_asked.fetch_add(1, Ordering::Relaxed);
        while self.unfenced.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Position::new(Epoch(1), self.log.lock().all.len() as u64))
    }

    async fn log_state(&self, _shard: Shard) -> Result<LogState, BrokerError> {
        self.ends_asked.fetch_add(1, Ordering::Relaxed);
        while self.is_state_unknown.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let log = self.log.lock();
        let last = (log.all.len() as u64).saturating_sub(self.looks_shorter_by.load(Ordering::Relaxed));
        Ok(LogState { epoch: Epoch(1), first: log.first, last })
    }

    async fn log_size(&self, _shard: Shard) -> Result<LogSize, BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn get(&self, _shard: Shard, _position: Position) -> Result<Option<Stored>, BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn next_of(&self, topic: Topic, after: Position) -> Result<Option<Stored>, BrokerError> {
        self.stream_reads.fetch_add(1, Ordering::Relaxed);
        assert!(!self.is_defective.swap(false, Ordering::Relaxed), "a defect");
        let log = self.log.lock();
        let is_next = |stored: &&Stored| stored.topic == topic && stored.position > after && stored.position.seq >= log.first;
        Ok(log.all.iter().find(is_next).cloned())
    }

    async fn tails(&self, _shard: Shard, topics: &[Topic], after: Position, at_least: Position) -> Result<Tails, BrokerError> {
        self.tails.lock().push(after.seq);
        let log = self.log.lock();
        let last = |topic: &Topic| {
            let is_it = |stored: &&Stored| stored.topic == *topic && stored.position > after && stored.position.seq >= log.first;
            Some((*topic, log.all.iter().rev().find(is_it)?.position.seq))
        };
        Ok(Tails { upto: at_least, changed: topics.iter().filter_map(last).collect() })
    }

    async fn read(&self, _shard: Shard, _after: Position) -> Result<Box<dyn LogReader>, BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn ended(&self, _shard: Shard) -> Result<Vec<Epoch>, BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn open_epoch(&self, _shard: Shard, _epoch: Epoch) -> Result<(), BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn announce(&self, _control: &Control) -> Result<(), BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn controls(&self) -> Result<Controls, BrokerError> {
        let told = stream::unfold(self.announced.subscribe(), |mut announced| async move {
            let position = announced.recv().await.ok()?;
            Some((Control::Applied { shard: 0, position, unapplied: None }, announced))
        });
        Ok(Box::pin(told))
    }

    async fn request(&self, name: &str, payload: Bytes, _timeout: Duration) -> Result<Bytes, BrokerError> {
        self.sql_reaches(&payload).await;
        Ok(match name {
            EventsAfter::NAME => {
                self.sql_reads.fetch_add(1, Ordering::Relaxed);
                // Long enough for others to come.
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.sql_answers().await;
                self.answer(&payload, |call: EventsAfter| {
                    let topic = call.group.map_or_else(|| Topic::User(call.user.as_ref().unwrap().key()), Topic::Group);
                    let log = self.log.lock();
                    let after = log.all.iter().filter(|stored| stored.topic == topic && stored.position > call.after);
                    let read = |stored: &Stored| RecoveredEvent {
                        position: stored.position,
                        id: stored.id,
                        stored_at: stored.stored_at,
                        event: without_origin(Event::decode(&stored.payload).unwrap()),
                    };
                    let is_there = call.after.seq >= self.sql_begins.load(Ordering::Relaxed);
                    Ok(EventsPage {
                        events: after.map(read).collect(),
                        more: false,
                        complete: is_there && !self.is_sql_incomplete.load(Ordering::Relaxed),
                    })
                })
            }
            FindMembership::NAME => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.sql_answers().await;
                self.answer(&payload, |call: FindMembership| Ok(self.membership(call.group)))
            }
            SignInMany::NAME => self.answer(&payload, |call: SignInMany| {
                let signed_in = |call: &SignIn| SignedIn {
                    profile: Profile { id: call.user.clone(), handle: call.user.to_string(), display_name: call.user.to_string() },
                    groups: Vec::new(),
                    more: false,
                    inbox: InboxCounts::default(),
                };
                Ok(call.users.iter().map(|one| OneOfMany::Answered(Box::new(signed_in(&one.call)))).collect())
            }),
            AwaitApplied::NAME => self.answer(&payload, |_: AwaitApplied| Ok(())),
            Groups::NAME => self.answer(&payload, |_: Groups| {
                let listed = self.membership(super::group()).filter(|_| self.is_listed.load(Ordering::Relaxed));
                Ok(GroupsPage { groups: listed.into_iter().collect(), more: false })
            }),
            TellInboxes::NAME => {
                let answer = self.answer(&payload, |call: TellInboxes| {
                    self.told_again.lock().push(call.users);
                    Ok(())
                });
                self.sql_answers().await;
                answer
            }
            other => panic!("an unexpected call: {other}"),
        })
    }

    async fn serve(&self) -> Result<Calls, BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn applied(&self, _shard: Shard, _position: Position) {}
}
