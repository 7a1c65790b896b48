//! Once whatever happens: retries young and old, copies that came too late, brokers that are full or
//! do not know.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use natter_shared::{
    broker::{
        Broker, Outgoing,
        embedded::{EmbeddedBroker, EmbeddedOptions},
    },
    config::Limits,
    frame::ErrorCode,
    id::{GroupId, Nonce, RoomName, UserId, open_group},
    position::{Epoch, Position},
    rpc::{Accepted, Answer, AwaitApplied, FindAccepted, Request, Rpc, RpcError},
    subject::Shard,
    telemetry::metrics::Registry,
};
use parking_lot::Mutex;

use super::{Draft, Intake, Said, accept};
use crate::metrics::Metrics;

const PATIENCE: Duration = Duration::from_secs(5);

/// A broker, and a persister that knows what it is told.
struct Bench {
    broker: Arc<EmbeddedBroker>,
    intake: Intake,
    persister: Arc<Persister>,
    _folder: tempfile::TempDir,
}

#[derive(Default)]
struct Persister {
    /// What it finds, one answer for each look-up; the last one again and again.
    found: Mutex<VecDeque<Option<Accepted>>>,
    /// So many calls find it behind.
    behind: AtomicU32,
    asked: AtomicU32,
}

impl Persister {
    async fn serve(self: Arc<Self>, broker: Arc<EmbeddedBroker>) {
        let mut calls = broker.serve().await.unwrap();
        while let Some(call) = calls.next().await {
            let is_behind = self.behind.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
            let answer = if is_behind {
                serde_json::to_vec(&Err::<Answer<()>, _>(RpcError::new(ErrorCode::Unavailable, "not applied yet")))
            } else if call.name == FindAccepted::NAME {
                let request: Request<FindAccepted> = serde_json::from_slice(&call.payload).unwrap();
                assert!(request.min_position.is_some(), "behind the end of the log");
                self.asked.fetch_add(1, Ordering::Relaxed);
                let reply = self.found.lock().pop_front().flatten();
                serde_json::to_vec(&Ok::<_, RpcError>(Answer { applied: Vec::new(), reply }))
            } else {
                assert_eq!(call.name, AwaitApplied::NAME);
                serde_json::to_vec(&Ok::<_, RpcError>(Answer { applied: Vec::new(), reply: () }))
            };
            let _ = call.respond.send(answer.unwrap().into());
        }
    }
}

impl Bench {
    async fn new(options: EmbeddedOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker =
            EmbeddedBroker::open(&folder.path().join("log.db"), EmbeddedOptions { shards: 2, sync: false, ..options }).await.unwrap();
        for shard in broker.shards().iter() {
            broker.open_epoch(shard, Epoch(1)).await.unwrap();
        }
        let persister = Arc::new(Persister::default());
        tokio::spawn(Arc::clone(&persister).serve(Arc::clone(&broker)));
        let intake = Intake::new(broker.shards(), Arc::new(Metrics::new(&Registry::new("test"))));
        Self { broker, intake, persister, _folder: folder }
    }

    async fn send(&self, nonce: Nonce, group: &str, body: &str) -> Result<Position, ErrorCode> {
        accept(&*self.broker, &self.intake, draft(nonce, group, body), PATIENCE).await.map_err(|error| error.code)
    }

    fn aged(&self, millis: i64) -> Nonce {
        Nonce::at(self.broker.now().offset_by(-millis))
    }
}

fn group(name: &str) -> GroupId {
    open_group(&RoomName::slug(name).unwrap())
}

fn draft(nonce: Nonce, name: &str, body: &str) -> Draft {
    let said = Said { body: body.to_owned(), reply_to: None, data: None };
    Draft::message(&Limits::default(), &UserId::new("ann").unwrap(), group(name), nonce, said, None).unwrap().1
}

#[tokio::test]
async fn a_retry_has_the_position_of_the_first_and_another_body_is_refused() {
    let bench = Bench::new(EmbeddedOptions::default()).await;
    let nonce = bench.aged(0);
    let first = bench.send(nonce, "lobby", "once").await;
    assert!(first.is_ok());
    assert_eq!(bench.send(nonce, "lobby", "once").await, first);
    assert_eq!(bench.send(nonce, "lobby", "twice").await, Err(ErrorCode::NonceReused));
    assert_eq!(bench.persister.asked.load(Ordering::Relaxed), 0, "young ones need no database");
    assert_eq!(bench.send(bench.aged(-16_000), "lobby", "tomorrow").await, Err(ErrorCode::BadRequest));
    assert!(bench.send(bench.aged(-14_000), "lobby", "soon").await.is_ok());
}

#[tokio::test]
async fn an_old_nonce_is_looked_up_before_it_is_published() {
    let bench = Bench::new(EmbeddedOptions::default()).await;
    let nonce = bench.aged(61_000);
    let event = draft(nonce, "lobby", "once").event;
    let position = Position::new(Epoch(1), 4711);
    let found = Some(Accepted { event, position });
    // SQL has not come so far at first.
    bench.persister.behind.store(1, Ordering::Relaxed);
    bench.persister.found.lock().extend([found.clone(), found, None]);
    assert_eq!(bench.send(nonce, "lobby", "once").await, Ok(position), "where it stood");
    assert_eq!(bench.send(nonce, "elsewhere", "once").await, Err(ErrorCode::NonceReused));
    assert_eq!(
        bench.broker.log_state(bench.broker.shards().of(natter_shared::subject::Topic::Group(group("lobby")))).await.unwrap().last,
        0
    );
    assert!(bench.send(nonce, "lobby", "once").await.is_ok_and(|at| at != position), "it is not there: now it is");
    assert_eq!(bench.persister.asked.load(Ordering::Relaxed), 3);
    let young = bench.aged(55_000);
    assert!(bench.send(young, "lobby", "young").await.is_ok());
    assert_eq!(bench.persister.asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn what_was_sent_before_an_epoch_began_is_looked_up() {
    // By the sender's clock, which may be right, or ahead as far as it may.
    for age in [0, -10_000, -14_000] {
        let bench = Bench::new(EmbeddedOptions::default()).await;
        let nonce = bench.aged(age);
        let first = bench.send(nonce, "lobby", "once").await.unwrap();
        for shard in bench.broker.shards().iter() {
            bench.broker.open_epoch(shard, Epoch(2)).await.unwrap();
        }
        // By more than clocks differ.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(if age == 0 { 0 } else { 3 })).await;
        tokio::time::resume();
        let event = draft(nonce, "lobby", "once").event;
        bench.persister.found.lock().push_back(Some(Accepted { event, position: first }));
        assert_eq!(bench.send(nonce, "lobby", "once").await, Ok(first), "where it stood, in the epoch before");
        assert_eq!(bench.persister.asked.load(Ordering::Relaxed), 1, "{age}");
        let in_it = bench.send(nonce, "lobby", "once").await;
        assert_eq!(in_it, Ok(Position::new(Epoch(2), 1)), "SQL has nothing of it, and nor has the log");
    }
}

#[tokio::test]
async fn a_first_copy_that_came_too_late_counts_for_nothing() {
    let bench = Bench::new(EmbeddedOptions::default()).await;
    let nonce = bench.aged(50_000);
    let Draft { topic, id, payload, .. } = draft(nonce, "lobby", "late");
    let made_at = bench.broker.now().offset_by(-91_000);
    bench.broker.publish(Outgoing { topic, id, made_at, epoch: None, payload }).await.unwrap();
    assert_eq!(bench.send(nonce, "lobby", "late").await, Err(ErrorCode::Pending), "not accepted: nobody reads it");
}

/// Retried when it is nearly old, a message that the client library holds back must be void before the broker forgets the
/// first copy.
#[tokio::test]
async fn a_young_draft_counts_as_made_when_its_nonce_was() {
    let bench = Bench::new(EmbeddedOptions::default()).await;
    let made_at = async |age: i64| {
        let (nonce, now) = (bench.aged(age), bench.broker.now());
        let at = bench.send(nonce, "lobby", "once").await.unwrap();
        let shard = bench.broker.shards().of(natter_shared::subject::Topic::Group(group("lobby")));
        let stored = bench.broker.get(shard, at).await.unwrap().unwrap();
        (stored.made_at.0 as i64 - now.0 as i64, nonce.millis() as i64 - now.0 as i64)
    };
    let (made, nonce) = made_at(55_000).await;
    assert_eq!(made, nonce);
    // Nobody's clock makes it younger than it is, and one that was looked up is as young as that.
    let (ahead, _) = made_at(-10_000).await;
    let (old, _) = made_at(70_000).await;
    assert!((0..5_000).contains(&ahead) && (0..5_000).contains(&old), "{ahead} {old}");
}

#[tokio::test]
async fn a_shard_that_is_behind_takes_nothing_and_says_so_at_once() {
    let bench = Bench::new(EmbeddedOptions::default()).await;
    let stored = bench.aged(0);
    bench.send(stored, "lobby", "before").await.unwrap();
    for shard in bench.broker.shards().iter() {
        bench.intake.set(usize::from(shard.0), false);
    }
    let begun = tokio::time::Instant::now();
    let refused = accept(&*bench.broker, &bench.intake, draft(bench.aged(0), "lobby", "no"), PATIENCE).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Busy);
    assert!(refused.retry_after.is_some_and(|after| after >= Duration::from_secs(2)), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    bench.intake.set(0, true);
    bench.intake.set(1, true);
    assert!(bench.send(bench.aged(0), "lobby", "yes").await.is_ok());
    assert!(!bench.intake.admits(Shard(2)), "there is no such shard");
}

#[tokio::test]
async fn what_does_not_fit_into_the_window_is_busy_at_once() {
    let options = EmbeddedOptions { max_in_flight: 1, ..EmbeddedOptions::default() };
    let bench = Bench::new(options).await;
    let bench = &bench;
    let sends = (0..20).map(|number| async move { bench.send(bench.aged(0), &format!("room-{number}"), "x").await });
    let outcomes = futures::future::join_all(sends).await;
    let busy = outcomes.iter().filter(|outcome| **outcome == Err(ErrorCode::Busy)).count();
    assert_eq!((outcomes.iter().filter(|outcome| outcome.is_ok()).count(), busy), (1, 19), "{outcomes:?}");
}
