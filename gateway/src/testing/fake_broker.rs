//! A broker that answers calls like a persister with two users would, and remembers what was
//! published.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use natter_shared::{
    broker::{
        Ack, Broker, BrokerError, BrokerStatus, Calls, Control, Controls, CurrentEpoch, Interest, LogReader, LogSize, LogState, Outgoing,
        Stored, Subscription, Tails,
    },
    event::{Event, GroupKind, InboxCounts, Role},
    frame::ErrorCode,
    id::{EventId, GroupId, RoomName, UserId, open_group, single_group},
    position::{Epoch, Position},
    rpc::{
        AfterUser, Answer, ApiKey, AwaitApplied, ChatPage, ChatPageData, CheckApiKey, CreateSingle, FindMembership, FindUser,
        FirstJoinMany, InboxEntry, JoinOpen, JoinOpenMany, ListGroups, ListUsers, ListedGroups, Members, MembersPage, Membership,
        OneOfMany, Profile, Request as RpcRequest, Rpc, RpcError, SignIn, SignInMany, SignedIn, UsersPage,
    },
    subject::{Shard, Shards, Topic},
    timestamp::Timestamp,
};
use parking_lot::Mutex;
use tokio::sync::{RwLock, mpsc, watch};

/// The only key of the server API.
pub(crate) const API_KEY: &str = "ntr_good";
const API_KEY_SHA256: &str = "0ad927332f39d6be174988bba90abf1404c990c576e2f4ef246357e3c4a2ec71";

#[derive(Default)]
pub(crate) struct FakeBroker {
    /// The persister is away.
    pub(crate) away: AtomicBool,
    /// Whoever asks SQL, or how the log stands, meets a defect.
    pub(crate) is_defective: AtomicBool,
    /// Nobody says how much a log holds, not even that it cannot be said.
    pub(crate) hides_size: AtomicBool,
    /// What is announced; nothing can be heard without.
    pub(crate) announced: Mutex<Option<mpsc::Receiver<Control>>>,
    /// What is published is not stored.
    pub(crate) stores_nothing: AtomicBool,
    /// What is published is refused for good.
    pub(crate) refuses: AtomicBool,
    /// While somebody writes to it, what is published waits.
    pub(crate) stores: RwLock<()>,
    /// Who wants to join is not answered.
    pub(crate) holds_joins: AtomicBool,
    /// How often it was asked to let new members join.
    pub(crate) first_joins: AtomicU32,
    /// From when on what was published can be read back; never without.
    pub(crate) readable_from: Mutex<Option<tokio::time::Instant>>,
    /// What was published, and the position that was waited for after it.
    pub(crate) published: Mutex<Vec<(Topic, Event)>>,
    pub(crate) awaited: Mutex<Vec<Position>>,
    pub(crate) page: Mutex<Option<ChatPageData>>,
    pub(crate) key_checks: AtomicU32,
}

pub(crate) fn profile(name: &str) -> Profile {
    Profile { id: UserId::new(name).unwrap(), handle: name.to_owned(), display_name: format!("The {name}") }
}

pub(crate) fn membership(group: GroupId, display_name: &str) -> Membership {
    Membership {
        group,
        kind: GroupKind::Single,
        name: None,
        display_name: display_name.to_owned(),
        role: Role::Member,
        since: Position::START,
        last_read: None,
        unread: 0,
    }
}

impl FakeBroker {
    fn answer<T: Rpc>(payload: &[u8], answer: impl FnOnce(T, Option<Position>) -> Result<T::Reply, RpcError>) -> Bytes {
        let request: RpcRequest<T> = serde_json::from_slice(payload).unwrap();
        let answer = answer(request.call, request.min_position.map(|at| at.position)).map(|reply| Answer { applied: Vec::new(), reply });
        Bytes::from(serde_json::to_vec(&answer).unwrap())
    }

    fn chat_page(&self, call: &ChatPage) -> ChatPageData {
        assert_eq!((call.notifications, call.users, call.groups), (100, 200, 200));
        let page = self.page.lock().clone().map(|mut page| {
            page.more_groups = page.groups.len() > 200;
            page.groups.truncate(200);
            page
        });
        page.unwrap_or_else(|| ChatPageData {
            profile: profile(call.user.as_str()),
            groups: Vec::new(),
            more_groups: false,
            users: Vec::new(),
            notifications: Vec::<InboxEntry>::new(),
            inbox: InboxCounts::default(),
        })
    }
}

/// A page of the groups of `page`.
fn list_groups(page: Option<ChatPageData>, call: &ListGroups) -> ListedGroups {
    let of_page = page.map(|page| page.groups).unwrap_or_default();
    let mut groups: Vec<_> = of_page.into_iter().filter(|group| Some(group.membership.group) > call.after).collect();
    let more = groups.len() > call.limit as usize;
    groups.truncate(call.limit as usize);
    ListedGroups { groups, more }
}

fn signed_in(call: &SignIn) -> SignedIn {
    SignedIn { profile: profile(call.user.as_str()), groups: Vec::new(), more: false, inbox: InboxCounts::default() }
}

/// Somebody by the handle, then a page of nobody, then somebody by the name; of `old` as the release before lists them.
fn list_users(call: &ListUsers) -> UsersPage {
    let (user, next) = match (call.prefix.as_str(), call.after.as_deref(), call.after_name.as_deref()) {
        ("old", None, None) => return UsersPage { users: vec![profile("older")], more: true, next: None },
        ("old", Some("older"), None) => (Some("oldest"), None),
        (_, None, None) => (Some("bob"), Some(("bob", None))),
        (_, Some("bob"), None) => (None, Some(("bob", Some("The bob")))),
        (_, Some("bob"), Some("The bob")) => (Some("carol"), None),
        other => panic!("an unexpected place: {other:?}"),
    };
    let next = next.map(|(handle, name)| AfterUser { handle: handle.to_owned(), name: name.map(str::to_owned) });
    UsersPage { users: user.map(profile).into_iter().collect(), more: next.is_some(), next }
}

#[async_trait]
impl Broker for FakeBroker {
    fn interruptions(&self) -> u64 {
        0
    }

    fn shards(&self) -> Shards {
        Shards::new(4).unwrap()
    }

    fn status(&self) -> watch::Receiver<BrokerStatus> {
        watch::channel(BrokerStatus { connected: true, generation: 0, elections: 0, leaders: 0 }).1
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn epoch(&self, _shard: Shard) -> Result<CurrentEpoch, BrokerError> {
        Ok(CurrentEpoch { epoch: Epoch(1), since: None })
    }

    async fn publish(&self, event: Outgoing) -> Result<Ack, BrokerError> {
        if self.stores_nothing.load(Ordering::Relaxed) {
            return Err(BrokerError::Unavailable("away".to_owned()));
        }
        if self.refuses.load(Ordering::Relaxed) {
            return Err(BrokerError::Refused("too large".to_owned()));
        }
        drop(self.stores.read().await);
        let mut published = self.published.lock();
        published.push((event.topic, Event::decode(&event.payload).unwrap()));
        Ok(Ack { position: Position::new(Epoch(1), published.len() as u64), duplicate: false })
    }

    async fn request(&self, name: &str, payload: Bytes, _timeout: Duration) -> Result<Bytes, BrokerError> {
        assert!(!self.is_defective.load(Ordering::Relaxed), "a defect");
        if self.away.load(Ordering::Relaxed) {
            return Err(BrokerError::NoResponder);
        }
        Ok(match name {
            SignIn::NAME => Self::answer(&payload, |call: SignIn, _| Ok(signed_in(&call))),
            SignInMany::NAME => Self::answer(&payload, |call: SignInMany, _| {
                Ok(call.users.iter().map(|one| OneOfMany::Answered(Box::new(signed_in(&one.call)))).collect())
            }),
            JoinOpen::NAME | JoinOpenMany::NAME if self.holds_joins.load(Ordering::Relaxed) => std::future::pending().await,
            JoinOpenMany::NAME => Self::answer(&payload, |call: JoinOpenMany, _| Ok(call.joins.iter().map(|_| OneOfMany::Alone).collect())),
            FirstJoinMany::NAME => {
                self.first_joins.fetch_add(1, Ordering::Relaxed);
                Self::answer(&payload, |call: FirstJoinMany, _| Ok(call.joins.iter().map(|_| OneOfMany::Alone).collect()))
            }
            ChatPage::NAME => Self::answer(&payload, |call: ChatPage, _| Ok(self.chat_page(&call))),
            ListGroups::NAME => Self::answer(&payload, |call: ListGroups, _| Ok(list_groups(self.page.lock().clone(), &call))),
            FindUser::NAME => Self::answer(&payload, |call: FindUser, _| match call {
                FindUser::Id(user) if user.as_str() == "nobody" => Ok(None),
                FindUser::Id(user) => Ok(Some(profile(user.as_str()))),
                FindUser::Handle(_) => Err(RpcError::new(ErrorCode::BadRequest, "not asked here")),
            }),
            CreateSingle::NAME => {
                Self::answer(&payload, |call: CreateSingle, _| Ok(membership(single_group(&call.user, &call.other), "whoever asked first")))
            }
            AwaitApplied::NAME => Self::answer(&payload, |_: AwaitApplied, at| {
                self.awaited.lock().extend(at);
                Ok(())
            }),
            FindMembership::NAME => Self::answer(&payload, |call: FindMembership, _| {
                let lobby = open_group(&RoomName::slug("lobby").unwrap());
                Ok((call.group == lobby).then(|| membership(lobby, "lobby")))
            }),
            // All that posting to a group in somebody's name asks of it.
            Members::NAME => Self::answer(&payload, |call: Members, _| {
                assert_eq!((call.user, call.limit), (None, 0));
                let there = call.group == open_group(&RoomName::slug("lobby").unwrap());
                let page = MembersPage { members: Vec::new(), more: false };
                there.then_some(page).ok_or_else(|| RpcError::new(ErrorCode::NotFound, "not found"))
            }),
            ListUsers::NAME => Self::answer(&payload, |call: ListUsers, _| Ok(list_users(&call))),
            CheckApiKey::NAME => {
                self.key_checks.fetch_add(1, Ordering::Relaxed);
                Self::answer(&payload, |call: CheckApiKey, _| {
                    let good = call.sha256 == API_KEY_SHA256;
                    Ok(good.then(|| ApiKey { id: uuid::Uuid::nil(), name: "test".to_owned() }))
                })
            }
            other => panic!("an unexpected call: {other}"),
        })
    }

    async fn publish_ephemeral(&self, _topic: Topic, _payload: Bytes) -> Result<(), BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn subscribe(&self, _interest: Interest) -> Result<Subscription, BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn fence(&self, _shard: Shard) -> Result<Position, BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn log_state(&self, shard: Shard) -> Result<LogState, BrokerError> {
        assert!(!self.is_defective.load(Ordering::Relaxed), "a defect");
        Err(BrokerError::NoLog(shard))
    }

    async fn log_size(&self, shard: Shard) -> Result<LogSize, BrokerError> {
        if self.hides_size.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        Err(BrokerError::NoLog(shard))
    }

    async fn get(&self, _shard: Shard, _position: Position) -> Result<Option<Stored>, BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn first(&self, _shard: Shard, _epoch: Epoch) -> Result<Option<u64>, BrokerError> {
        self.readable_from.lock().map(|_| Some(1)).ok_or(BrokerError::Busy)
    }

    async fn next_of(&self, topic: Topic, after: Position) -> Result<Option<Stored>, BrokerError> {
        let from = self.readable_from.lock().ok_or(BrokerError::Busy)?;
        let published = self.published.lock();
        let found = published.iter().enumerate().skip(after.seq as usize).find(|(_, (of, _))| *of == topic);
        let found = found.filter(|_| tokio::time::Instant::now() >= from);
        Ok(found.map(|(index, (_, event))| Stored {
            topic,
            position: Position::new(Epoch(1), index as u64 + 1),
            previous: 0,
            id: EventId(uuid::Uuid::nil()),
            made_at: Timestamp::now(),
            stored_at: Timestamp::now(),
            payload: event.encode().unwrap(),
        }))
    }

    async fn tails(&self, _shard: Shard, _topics: &[Topic], _after: Position, _at_least: Position) -> Result<Tails, BrokerError> {
        Err(BrokerError::Busy)
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
        let mut announced = self.announced.lock().take().ok_or(BrokerError::Busy)?;
        Ok(Box::pin(stream::poll_fn(move |cx| announced.poll_recv(cx))))
    }

    async fn serve(&self) -> Result<Calls, BrokerError> {
        Err(BrokerError::Busy)
    }

    async fn applied(&self, _shard: Shard, _position: Position) {}
}
