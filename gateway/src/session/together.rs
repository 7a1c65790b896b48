//! Calls on their way to SQL that go together: those that come while others are out go by the next one, so that
//! a thousand clients who come back at once cost some tens of calls.

use std::{collections::VecDeque, panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use natter_shared::{
    broker::Broker,
    frame::ErrorCode,
    rpc::{self, Answer, FirstJoin, Gathered, JoinOpen, MANY, Membership, OneOfMany, Request, RpcError, ShardPosition, SignIn},
    subject::Shard,
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use super::SessionHandle;

/// Calls of many that are out at once: the next is filled while they are answered.
const OUT: usize = 2;

/// What SQL knows, and as of when.
#[derive(Debug)]
pub(super) struct Known<T> {
    /// How far SQL had come in each shard; one list for all of a call.
    pub(super) applied: Arc<[ShardPosition]>,
    pub(super) reply: T,
}

impl<T> From<Answer<T>> for Known<T> {
    fn from(answer: Answer<T>) -> Self {
        Self { applied: answer.applied.into(), reply: answer.reply }
    }
}

type Told<T> = oneshot::Sender<Option<Result<Known<T>, RpcError>>>;

/// One that waits for its turn.
struct One<T: Gathered> {
    request: Request<T>,
    told: Told<T::Reply>,
    /// For whom it is asked, where it is not to be asked once they have gone.
    session: Option<Arc<SessionHandle>>,
}

impl<T: Gathered> One<T> {
    fn is_wanted(&self) -> bool {
        !self.told.is_closed() && self.session.as_ref().is_none_or(|session| !session.is_closed())
    }
}

struct Waiting<T: Gathered> {
    queue: VecDeque<One<T>>,
    out: usize,
}

/// A gateway's calls of one kind.
pub struct Together<T: Gathered> {
    broker: Arc<dyn Broker>,
    tasks: TaskTracker,
    waiting: Mutex<Waiting<T>>,
    /// Calls out at once, and how many go by each.
    out: usize,
    many: usize,
}

impl<T: Gathered> Together<T> {
    /// Over `broker`; `limit` of them at once.
    pub fn new(broker: Arc<dyn Broker>, tasks: TaskTracker, limit: usize) -> Arc<Self> {
        Self::with(broker, tasks, OUT.min(limit), limit)
    }

    fn with(broker: Arc<dyn Broker>, tasks: TaskTracker, out: usize, limit: usize) -> Arc<Self> {
        let many = (limit / out.max(1)).clamp(1, MANY);
        Arc::new(Self { broker, tasks, waiting: Mutex::new(Waiting { queue: VecDeque::new(), out: 0 }), out, many })
    }

    /// Asks together with others; none: to be asked for alone.
    pub(super) async fn call(self: &Arc<Self>, call: T, min_position: Option<ShardPosition>) -> Option<Result<Known<T::Reply>, RpcError>> {
        self.ask(Request { min_position, call }, None).await
    }

    /// The same for a session; none also where it was closed before its turn came.
    pub(super) async fn call_for(self: &Arc<Self>, session: &Arc<SessionHandle>, call: T) -> Option<Result<Known<T::Reply>, RpcError>> {
        self.ask(Request { min_position: None, call }, Some(Arc::clone(session))).await
    }

    async fn ask(self: &Arc<Self>, request: Request<T>, session: Option<Arc<SessionHandle>>) -> Option<Result<Known<T::Reply>, RpcError>> {
        let (told, answer) = oneshot::channel();
        let begins = {
            let mut waiting = self.waiting.lock();
            waiting.queue.push_back(One { request, told, session });
            let begins = waiting.out < self.out;
            waiting.out += usize::from(begins);
            begins
        };
        if begins {
            let all = Arc::clone(self);
            self.tasks.spawn(async move { all.work_off().await });
        }
        answer.await.ok().flatten()
    }

    async fn work_off(&self) {
        loop {
            let (calls, told): (Vec<_>, Vec<_>) = {
                let mut waiting = self.waiting.lock();
                // Who has gone meanwhile need not be asked for: else an outage would leave a queue of them.
                let here = std::iter::from_fn(|| waiting.queue.pop_front()).filter(One::is_wanted);
                here.take(self.many).map(|one| (one.request, one.told)).unzip()
            };
            if calls.is_empty() {
                let mut waiting = self.waiting.lock();
                if waiting.queue.is_empty() {
                    waiting.out -= 1;
                    return;
                }
                continue;
            }
            // Where that meets a defect of ours, which the log tells of, all of these are asked for alone, and others go on.
            let _ = AssertUnwindSafe(self.ask_many(calls, told)).catch_unwind().await;
        }
    }

    async fn ask_many(&self, calls: Vec<Request<T>>, told: Vec<Told<T::Reply>>) {
        match rpc::call(&*self.broker, T::gather(calls), None).await {
            Ok(Answer { applied, reply }) => {
                let applied: Arc<[ShardPosition]> = applied.into();
                for (told, one) in told.into_iter().zip(reply) {
                    let _ = told.send(match one {
                        OneOfMany::Answered(reply) => Some(Ok(Known { applied: Arc::clone(&applied), reply: *reply })),
                        OneOfMany::Refused(refused) => Some(Err(refused)),
                        OneOfMany::Alone => None,
                    });
                }
            }
            // A persister of an earlier version.
            Err(RpcError { code: ErrorCode::UnknownType, .. }) => told.into_iter().for_each(|told| drop(told.send(None))),
            Err(error) => told.into_iter().for_each(|told| drop(told.send(Some(Err(error.clone()))))),
        }
    }
}

/// The sign-ins of a gateway.
pub struct SignIns {
    broker: Arc<dyn Broker>,
    together: Arc<Together<SignIn>>,
    alone: Semaphore,
}

impl SignIns {
    /// Over `broker`; `limit` users at once together, and as many of those who are asked for alone.
    pub fn new(broker: Arc<dyn Broker>, tasks: TaskTracker, limit: usize) -> Self {
        let together = Together::new(Arc::clone(&broker), tasks, limit);
        Self { broker, together, alone: Semaphore::new(limit) }
    }

    /// Signs a user in.
    pub(super) async fn sign_in(&self, call: SignIn) -> Result<Known<<SignIn as rpc::Rpc>::Reply>, RpcError> {
        if let Some(answer) = self.together.call(call.clone(), None).await {
            return answer;
        }
        // Those who would have to wait there would give up and ask once more, and be answered twice.
        let _turn = self.alone.acquire().await;
        rpc::call(&*self.broker, call, None).await.map(Known::from)
    }
}

/// The first joins of a gateway, those of each shard by themselves: they wait until each is stored and applied, and a shard that
/// has no leader stops only its own.
pub struct FirstJoins(Vec<Arc<Together<FirstJoin>>>);

impl FirstJoins {
    /// Over `broker`; `limit` users at once in each shard.
    pub fn new(broker: &Arc<dyn Broker>, tasks: &TaskTracker, limit: usize) -> Self {
        // One call out: what comes while its events are stored and applied makes the next one larger.
        Self(broker.shards().iter().map(|_| Together::with(Arc::clone(broker), tasks.clone(), 1, limit)).collect())
    }

    /// Joins together with others; none: to be asked for alone, unless the session was closed before its turn came.
    pub(super) async fn join(
        &self,
        session: &Arc<SessionHandle>,
        shard: Shard,
        call: JoinOpen,
    ) -> Option<Result<Known<Membership>, RpcError>> {
        self.0.get(usize::from(shard.0))?.call_for(session, FirstJoin(call)).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures::StreamExt;
    use natter_shared::{
        broker::{
            Call, Calls,
            embedded::{EmbeddedBroker, EmbeddedOptions},
        },
        event::InboxCounts,
        id::{GroupId, UserId},
        rpc::{FirstJoinMany, OpenGroup, Profile, SignInMany, SignedIn},
    };
    use uuid::Uuid;

    use super::{super::Protocol, *};
    use crate::{
        auth::Identity,
        socket::{Outlet, OutletLimits},
    };

    async fn broker() -> (Arc<dyn Broker>, Calls, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions { sync: false, shards: 2, ..EmbeddedOptions::default() };
        let broker: Arc<dyn Broker> = EmbeddedBroker::open(&directory.path().join("log.db"), options).await.unwrap();
        let calls = broker.serve().await.unwrap();
        (broker, calls, directory)
    }

    async fn sign_ins(limit: usize) -> (Arc<SignIns>, Calls, tempfile::TempDir) {
        let (broker, calls, directory) = broker().await;
        (Arc::new(SignIns::new(broker, TaskTracker::new(), limit)), calls, directory)
    }

    fn asked(name: &str) -> SignIn {
        SignIn { user: UserId::new(name).unwrap(), handle: None, display_name: None, limit: 1, issued_at: None }
    }

    fn names(call: &Call) -> Vec<String> {
        let request: Request<SignInMany> = serde_json::from_slice(&call.payload).unwrap();
        request.call.users.iter().map(|one| one.call.user.to_string()).collect()
    }

    fn answer(call: Call, reply: &impl serde::Serialize) {
        let answer = Ok::<_, RpcError>(Answer { applied: Vec::new(), reply });
        call.respond.send(Bytes::from(serde_json::to_vec(&answer).unwrap())).unwrap();
    }

    fn signed_in(name: &str) -> SignedIn {
        let profile = Profile { id: UserId::new(name).unwrap(), handle: name.to_owned(), display_name: name.to_owned() };
        SignedIn { profile, groups: Vec::new(), more: false, inbox: InboxCounts::default() }
    }

    /// Who is asked for in which call, of six who come at once.
    #[tokio::test]
    async fn sign_ins_at_the_edge() {
        let (sign_ins, mut calls, _directory) = sign_ins(4).await;
        let asking: Vec<_> = (0..6)
            .map(|number| {
                let sign_ins = Arc::clone(&sign_ins);
                tokio::spawn(async move { sign_ins.sign_in(asked(&format!("u{number}"))).await })
            })
            .collect();
        let (first, second) = (calls.next().await.unwrap(), calls.next().await.unwrap());
        let mut out = [names(&first), names(&second)].concat();
        assert!(out.len() <= 4, "{out:?}");
        assert!(tokio::time::timeout(Duration::from_millis(100), calls.next()).await.is_err(), "no third call while two are out");
        for call in [first, second] {
            let all: Vec<_> = names(&call).iter().map(|name| OneOfMany::Answered(Box::new(signed_in(name)))).collect();
            answer(call, &all);
        }
        while out.len() < 6 {
            let call = calls.next().await.unwrap();
            assert!(names(&call).len() <= 2, "two of four users go by each of two calls");
            out.extend(names(&call));
            let all: Vec<_> = names(&call).iter().map(|name| OneOfMany::Answered(Box::new(signed_in(name)))).collect();
            answer(call, &all);
        }
        for (number, asking) in asking.into_iter().enumerate() {
            assert_eq!(asking.await.unwrap().unwrap().reply.profile.handle, format!("u{number}"));
        }
    }

    #[tokio::test]
    async fn who_has_gone_is_not_asked_for() {
        let (sign_ins, mut calls, _directory) = sign_ins(1).await;
        let ask = |name: &str| {
            let (sign_ins, call) = (Arc::clone(&sign_ins), asked(name));
            tokio::spawn(async move { sign_ins.sign_in(call).await })
        };
        let first = ask("ann");
        let out = calls.next().await.unwrap();
        let gone = ask("bob");
        while sign_ins.together.waiting.lock().queue.is_empty() {
            tokio::task::yield_now().await;
        }
        gone.abort();
        assert!(gone.await.is_err());
        let last = ask("eve");
        while sign_ins.together.waiting.lock().queue.len() < 2 {
            tokio::task::yield_now().await;
        }
        answer(out, &[OneOfMany::Answered(Box::new(signed_in("ann")))]);
        let next = calls.next().await.unwrap();
        assert_eq!(names(&next), ["eve"]);
        answer(next, &[OneOfMany::Answered(Box::new(signed_in("eve")))]);
        assert!(first.await.unwrap().is_ok() && last.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_shard_that_stands_still_stops_its_own_first_joins_only() {
        let (broker, mut calls, _directory) = broker().await;
        let first_joins = Arc::new(FirstJoins::new(&broker, &TaskTracker::new(), 1));
        let limits = OutletLimits { messages: 1, bytes: 1, missed: 1 };
        let identity = Identity::of(UserId::new("ann").unwrap());
        let session = SessionHandle::new(&identity, Protocol::V1, Arc::new(Outlet::held(limits)));
        let join = |shard: u16, room: u128| {
            let (first_joins, session) = (Arc::clone(&first_joins), Arc::clone(&session));
            let call = JoinOpen { user: session.user.clone(), group: OpenGroup::Id(GroupId(Uuid::from_u128(room))) };
            tokio::spawn(async move { first_joins.join(&session, Shard(shard), call).await })
        };
        let rooms = |call: &Call| -> Vec<u128> {
            let request: Request<FirstJoinMany> = serde_json::from_slice(&call.payload).unwrap();
            request.call.joins.iter().map(|join| join.group.id().0.as_u128()).collect()
        };
        let _held = join(0, 1);
        let stands = calls.next().await.unwrap();
        assert_eq!(rooms(&stands), [1]);
        let waits = join(0, 2);
        while first_joins.0[0].waiting.lock().queue.is_empty() {
            tokio::task::yield_now().await;
        }
        let goes_on = join(1, 3);
        let other = calls.next().await.unwrap();
        assert_eq!(rooms(&other), [3]);
        answer(other, &[OneOfMany::<Membership>::Alone]);
        assert!(goes_on.await.unwrap().is_none());
        // Whoever has gone before the turn came is not let in by it.
        session.mark_closed();
        answer(stands, &[OneOfMany::<Membership>::Alone]);
        assert!(waits.await.unwrap().is_none());
        assert!(calls.next().now_or_never().is_none(), "nothing is asked for a session that was closed");
    }

    #[tokio::test]
    async fn each_is_told_its_own_answer_and_whoever_is_to_be_asked_for_alone_is() {
        let (sign_ins, mut calls, _directory) = sign_ins(1).await;
        let ask = |name: &str| {
            let (sign_ins, call) = (Arc::clone(&sign_ins), asked(name));
            tokio::spawn(async move { sign_ins.sign_in(call).await })
        };
        let alone = ask("ann");
        let call = calls.next().await.unwrap();
        answer(call, &[OneOfMany::<SignedIn>::Alone]);
        let call = calls.next().await.unwrap();
        assert_eq!(call.name, <SignIn as rpc::Rpc>::NAME);
        answer(call, &signed_in("ann"));
        assert_eq!(alone.await.unwrap().unwrap().reply.profile.handle, "ann");
        let refused = ask("bob");
        let call = calls.next().await.unwrap();
        answer(call, &[OneOfMany::<SignedIn>::Refused(RpcError::new(ErrorCode::Blocked, "blocked"))]);
        assert_eq!(refused.await.unwrap().unwrap_err().code, ErrorCode::Blocked);
        // A persister that does not know the call.
        let old = ask("eve");
        let call = calls.next().await.unwrap();
        let unknown = Err::<Answer<()>, _>(RpcError::new(ErrorCode::UnknownType, "no such call"));
        call.respond.send(Bytes::from(serde_json::to_vec(&unknown).unwrap())).unwrap();
        let call = calls.next().await.unwrap();
        answer(call, &signed_in("eve"));
        assert_eq!(old.await.unwrap().unwrap().reply.profile.handle, "eve");
    }
}
