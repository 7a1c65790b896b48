//! Delivery over a broker that loses what it is told to lose.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod allocations;
mod defects;
mod flights;
mod hints;
mod interruption;
mod linger;
mod names;
mod recovery;
pub(crate) mod script;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use natter_shared::{
    broker::Broker,
    config::Limits,
    event::{Audience, Event, GroupJoined, GroupKind, MemberRemoved, Message, Notification, Role},
    id::{GroupId, MessageId, Nonce, NotificationId, RoomName, UserId, open_group},
    lifecycle::Lifecycle,
    position::Position,
    rpc::ShardPosition,
    subject::Topic,
    telemetry::metrics::Registry,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use self::script::Script;
use super::{GroupMeta, Hub, JoinError, Joined, Start, Telling};
use crate::{
    auth::Identity,
    knowledge::Knowledge,
    metrics::Metrics,
    session::{Notice, Protocol, SessionHandle},
    socket::{Outlet, OutletLimits},
};

/// Longer than anything takes that comes.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a group is followed without a member.
const LINGER: Duration = Duration::from_mins(1);

/// Long enough to see that nothing comes.
const SILENCE: Duration = Duration::from_millis(100);

pub(crate) fn group() -> GroupId {
    open_group(&RoomName::slug("lobby").unwrap())
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn message(body: &str) -> Event {
    let (sender, nonce) = (user("cid"), Nonce::now());
    let id = MessageId::derive(&sender, nonce);
    Event::Message(Message { id, group: group(), sender, nonce, body: body.to_owned(), reply_to: None, data: None, origin: None })
}

pub(crate) fn removal(name: &str) -> Event {
    Event::MemberRemoved(MemberRemoved { group: group(), user: user(name), by: None })
}

pub(crate) fn notification(to: &str, body: &str) -> Event {
    let (nonce, body) = (Nonce::now(), body.to_owned());
    let id = NotificationId(uuid::Uuid::now_v7());
    Event::Notification(Notification { id, to: Audience::User(user(to)), sender: None, nonce, body, data: None })
}

pub(crate) fn hint(name: &str) -> Event {
    hint_of(name, Position::START)
}

pub(crate) fn hint_of(name: &str, since: Position) -> Event {
    Event::GroupJoined(GroupJoined {
        group: group(),
        user: user(name),
        kind: GroupKind::Group,
        name: None,
        display_name: "lobby".to_owned(),
        role: Role::Member,
        since,
    })
}

/// A hub over a script.
struct Stage {
    script: Arc<Script>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Stage {
    /// Set up, and past its first check.
    async fn new() -> Self {
        Self::with(&Limits::default()).await
    }

    async fn with(limits: &Limits) -> Self {
        let (script, stop) = (Script::new(), CancellationToken::new());
        let metrics = Arc::new(Metrics::new(&Registry::new("test")));
        // Nothing is ever at position 0.
        script.store(Topic::Group(GroupId(uuid::Uuid::nil())), &message("before"), true);
        let knowledge = Arc::new(Knowledge::new(Broker::shards(&*script)));
        let hub = Hub::start(script.clone(), limits, LINGER, Arc::clone(&metrics), knowledge, &Lifecycle::new(), &stop);
        let stage = Self { script, hub, metrics, stop };
        stage.until("the first check", || stage.hub.is_live() && stage.script.checks() <= 1).await;
        stage
    }

    async fn until(&self, what: &str, is: impl Fn() -> bool) {
        self.until_within(what, PATIENCE, is).await;
    }

    async fn until_within(&self, what: &str, patience: Duration, is: impl Fn() -> bool) {
        let waited = async {
            while !is() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(tokio::time::timeout(patience, waited).await.is_ok(), "waited in vain for {what}");
    }

    /// Whether nothing is missed of `member`'s groups that SQL lists when it has come to `applied`.
    fn has_listed_all(&self, member: &Member, applied: Position) -> bool {
        self.hub.has_listed_all(&self.hub.unheard(member.session.key), Some(&[ShardPosition { shard: 0, position: applied }]))
    }

    /// What SQL lists of `member`'s groups is all once it has come to where the log ends, and not before `lost`.
    async fn lists_behind(&self, member: &Member, lost: Position) {
        assert!(!self.has_listed_all(member, Position::new(lost.epoch, lost.seq - 1)), "nobody was listening");
        self.until("the end of the log", || self.has_listed_all(member, self.script.fence_now())).await;
        assert!(!self.has_listed_all(member, Position::new(lost.epoch, lost.seq - 1)), "nobody was listening");
    }

    fn say(&self, body: &str) -> Position {
        self.script.store(Topic::Group(group()), &message(body), false)
    }

    async fn member(&self, name: &str) -> Member {
        let mut member = Member::new(name).await;
        member.join(self, Start::Now, self.script.fence_now()).await;
        member
    }
}

/// A session with a socket.
pub(crate) struct Member {
    pub(crate) session: Arc<SessionHandle>,
    socket: TcpStream,
    read: Vec<u8>,
}

impl Member {
    pub(crate) async fn new(name: &str) -> Self {
        let member = Self::held(name).await;
        member.session.outlet.release(Bytes::new());
        member
    }

    /// One that is being opened.
    pub(crate) async fn held(name: &str) -> Self {
        Self::of(name, Protocol::V1).await
    }

    async fn of(name: &str, protocol: Protocol) -> Self {
        Self::who_may_miss(16 << 20, name, protocol).await
    }

    /// One that is told so many bytes of what it missed at most.
    async fn who_may_miss(missed: usize, name: &str, protocol: Protocol) -> Self {
        let outlet = Arc::new(Outlet::held(OutletLimits { messages: 10_000, bytes: 16 << 20, missed }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        outlet.attach(listener.accept().await.unwrap().0);
        let session = SessionHandle::new(&Identity::of(user(name)), protocol, outlet);
        Self { session, socket, read: Vec::new() }
    }

    async fn join(&mut self, stage: &Stage, start: Start, known: Position) -> Joined {
        let meta = GroupMeta { kind: GroupKind::Group, display_name: "lobby".into(), at: Position::START };
        stage.hub.join_group(&self.session, group(), &meta, start, known, Telling::Nothing).await.unwrap()
    }

    /// All that was written, once `what` is in it.
    pub(crate) async fn until(&mut self, what: &str) -> String {
        let text = |read: &[u8]| String::from_utf8_lossy(read).into_owned();
        while !text(&self.read).contains(what) {
            let read = tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.read)).await;
            let said = text(&self.read);
            assert!(matches!(read, Ok(Ok(1..))), "waited in vain for {what:?}, got {said:?}");
        }
        text(&self.read)
    }

    /// All that was written until it is silent.
    pub(crate) async fn said(&mut self) -> String {
        while let Ok(Ok(1..)) = tokio::time::timeout(SILENCE, self.socket.read_buf(&mut self.read)).await {}
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// Delivery ends, and after which position it is to go on.
    async fn lost(&mut self) -> Position {
        match tokio::time::timeout(PATIENCE, self.session.next_notice()).await.unwrap() {
            Notice::GroupLost { lost, .. } => lost.after,
            other => panic!("another notice: {other:?}"),
        }
    }
}
