//! Sessions over a broker that does what it is told, in front of an SQL that comes as far as it is told.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use natter_shared::{
    broker::Broker,
    config::{Config, Limits, Secret},
    event::{Event, GroupKind},
    frame::{ErrorCode, ReplyBody},
    id::{GroupId, GroupRef, Nonce},
    position::{Epoch, Position},
    rpc::ShardPosition,
    subject::Topic,
    timestamp::Timestamp,
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    Notice, Opened, Protocol, Serving, SessionHandle,
    handshake::open_v1,
    lists::Paging,
    open::{OpenError, ResumeFrom},
};
use crate::{
    app::App,
    auth::Identity,
    delivery::{
        GroupMeta, Joined, Start, Telling,
        tests::{Member, group, hint_of, message, notification, removal, script::Script, user},
    },
    knowledge::Knowledge,
    memory::Memory,
    socket::{Outlet, OutletState},
    testing,
};

struct Stage {
    script: Arc<Script>,
    app: Arc<App>,
    _ends: DropGuard,
}

impl Stage {
    async fn new() -> Self {
        Self::limited(|_| ()).await
    }

    async fn limited(limit: impl FnOnce(&mut Limits)) -> Self {
        let stage = Self::begun(Script::new(), limit);
        while !stage.app.hub.is_live() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        stage
    }

    /// Nothing is live yet.
    fn begun(script: Arc<Script>, limit: impl FnOnce(&mut Limits)) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        // Nothing is ever at position 0.
        script.store(Topic::Group(GroupId(uuid::Uuid::nil())), &message("before"), true);
        let mut config = Config::default();
        config.auth.secret = Some(Secret::new("0123456789abcdef0123456789abcdef"));
        limit(&mut config.limits);
        let app = testing::app(script.clone(), config, &Arc::new(Memory::new(1 << 60)), &tasks, &stop);
        Self { script, app, _ends: stop.drop_guard() }
    }

    async fn open(&self, name: &str) -> Result<Opened, OpenError> {
        self.open_over(name, Arc::new(Outlet::held(self.app.outlet_limits()))).await
    }

    async fn open_over(&self, name: &str, outlet: Arc<Outlet>) -> Result<Opened, OpenError> {
        self.app.open(Identity::of(user(name)), Protocol::V1, outlet, ResumeFrom::default()).await
    }
}

/// Its user's delivery was lost before its sign-in found that no log has come so far.
#[tokio::test]
async fn an_inbox_position_that_was_never_given_out_does_not_come_back() {
    let stage = Stage::new().await;
    let mut ann = Member::new("ann").await;
    let never = Position::new(Epoch(1), 999_999);
    stage.app.hub.join_inbox(&ann.session, Start::Now).await.unwrap();
    stage.app.follow(&ann.session, Notice::InboxLost { after: never }).await;
    stage.script.store(Topic::User(ann.session.key), &notification("ann", "hello"), false);
    let told = ann.until("hello").await;
    assert!(told.contains("\"reset\""), "{told}");
}

/// A connection of ann's that is about to say `connect`, and what serves it then.
async fn connection(stage: &Stage, connect: &Value) -> (WebSocketStream<TcpStream>, Serving) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let server = listener.accept().await.unwrap().0;
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    client.send(Message::text(connect.to_string())).await.unwrap();
    let identity = Identity { expires_at: Timestamp(u64::MAX), ..Identity::of(user("ann")) };
    let serving = open_v1(Arc::clone(&stage.app), server, Vec::new(), Ok(Some(identity))).await.unwrap();
    (client, serving)
}

async fn told(client: &mut WebSocketStream<TcpStream>) -> Value {
    serde_json::from_str(client.next().await.unwrap().unwrap().to_text().unwrap()).unwrap()
}

#[tokio::test]
async fn what_a_users_connections_have_stored_takes_of_one_rate() {
    let stage = Stage::limited(|limits| (limits.user_frames_per_second, limits.user_frames_burst) = (1, 4)).await;
    let (mut client, serving) = connection(&stage, &json!({"type": "connect", "id": 1})).await;
    tokio::spawn(serving);
    let ready = told(&mut client).await;
    assert_eq!(ready["limits"]["frames_per_second"], 1, "the lesser of the two: {ready}");
    // Another connection of ann's, that takes all there is.
    let other = stage.app.connections.sit(&user("ann").key(), 2).unwrap();
    let taken = || (0..100).take_while(|_| stage.app.connections.take_frame(other.share()).is_ok()).count();
    assert_eq!(taken(), 4);
    let (group, nonce) = (uuid::Uuid::nil(), Nonce::now());
    let frames = [
        json!({"type": "send", "id": 2, "group": group, "nonce": nonce, "body": "x"}),
        json!({"type": "notify", "id": 3, "to": {"user": "ann"}, "nonce": nonce, "body": "x"}),
        json!({"type": "read", "id": 4, "group": group, "position": "1.1"}),
        json!({"type": "seen", "id": 5, "ids": []}),
        json!({"type": "typing", "group": group}),
    ];
    for frame in &frames {
        taken();
        client.send(Message::text(frame.to_string())).await.unwrap();
        let answer = told(&mut client).await;
        assert_eq!((&answer["code"], &answer["id"]), (&json!("rate_limited"), &frame["id"]), "{answer}");
        assert!(answer["retry_after_ms"].as_u64() >= Some(500), "{answer}");
    }
    let refused = "natter_gateway_refused_total{limit=\"user_frames_per_second\"} 5";
    assert!(stage.app.metrics.encode().contains(refused));
    taken();
    let history = json!({"type": "history", "id": 6, "group": group, "limit": 0});
    client.send(Message::text(history.to_string())).await.unwrap();
    assert_eq!(told(&mut client).await["code"], "bad_request", "pages are another matter");
}

#[tokio::test]
async fn clients_are_told_the_time_anew_when_the_brokers_clock_was_set() {
    let stage = Stage::new().await;
    let (app, stop) = (Arc::clone(&stage.app), CancellationToken::new());
    let _ends = stop.clone().drop_guard();
    tokio::spawn(async move { app.tell_time(stop).await });
    let (mut client, serving) = connection(&stage, &json!({"type": "connect", "id": 1})).await;
    tokio::spawn(serving);
    let time = |frame: &Value| serde_json::from_value::<Timestamp>(frame["time"].clone()).unwrap();
    let ready = time(&told(&mut client).await);
    for (ahead, behind_ready) in [(-20_000, true), (100_000, false)] {
        stage.script.ahead.store(ahead, Ordering::Relaxed);
        let frame = tokio::time::timeout(Duration::from_secs(10), told(&mut client)).await.expect("nothing is told");
        assert_eq!((&frame["type"], time(&frame) < ready), (&json!("time"), behind_ready), "{frame}");
    }
}

/// Else a client that remembers the greatest position it was told, and loses the connection before what it missed has come, would go
/// on behind that.
#[tokio::test]
async fn ready_tells_of_an_inbox_the_position_it_was_resumed_from() {
    let stage = Stage::new().await;
    let store = |body| stage.script.store(Topic::User(user("ann").key()), &notification("ann", body), false);
    let [seen, ..] = ["seen", "first", "second"].map(store);
    let connect = json!({"type": "connect", "resume": {"groups": {}, "inbox": seen}});
    let (mut client, _serving) = connection(&stage, &connect).await;
    let ready = told(&mut client).await;
    assert_eq!((&ready["inbox_position"], &ready["inbox_recovered"]), (&json!(seen), &json!(true)));
    for body in ["first", "second"] {
        assert_eq!(told(&mut client).await["body"], body);
    }
}

#[tokio::test]
async fn a_resume_asks_where_a_log_ends_once_and_takes_of_the_users_rate() {
    let stage = Stage::limited(|limits| {
        limits.groups_per_connection = 20;
        (limits.http_requests_per_second, limits.http_requests_burst) = (1, 20);
    })
    .await;
    let ann = Member::new("ann").await;
    // SQL knows of no membership.
    *stage.script.member_since.lock() = Position::new(Epoch(1), 999_999);
    let resume = |at| {
        let points = (0..20).map(|number| (GroupRef::Id(GroupId(uuid::Uuid::from_u128(number))), at));
        stage.app.resume(&ann.session, points.collect())
    };
    let before = stage.script.ends_asked.load(Ordering::Relaxed);
    let never = Position::new(Epoch(u32::MAX), 1);
    assert!(matches!(resume(never).await, Ok(ReplyBody::Resumed { groups }) if groups.is_empty()));
    assert_eq!(stage.script.ends_asked.load(Ordering::Relaxed) - before, 2, "its state, and a fence");
    let refused = resume(never).await.err().map(|refusal| (refusal.code, refusal.retry_after_ms.is_some_and(|after| after > 10_000)));
    assert_eq!(refused, Some((ErrorCode::RateLimited, true)));
}

/// The client was told of it elsewhere.
#[tokio::test]
async fn a_membership_that_sql_does_not_know_of_yet_is_resumed() {
    let stage = Stage::new().await;
    let ann = Member::new("ann").await;
    let before = stage.script.fence_now();
    let since = stage.script.store(Topic::Group(group()), &message("welcome"), false);
    *stage.script.member_since.lock() = since;
    *stage.script.sql_is_at.lock() = Some(before);
    let resume = |position| stage.app.resume(&ann.session, BTreeMap::from([(GroupRef::Id(group()), position)]));
    let resumed = |outcome| match outcome {
        Ok(ReplyBody::Resumed { groups }) => groups.len(),
        _ => panic!("not resumed"),
    };
    for position in [before, Position::new(Epoch(1), 999_999)] {
        assert_eq!(resumed(resume(position).await), 0, "nothing shows that SQL is behind");
    }
    assert!(stage.script.asked_behind.lock().is_empty());
    let catches_up = async {
        while stage.script.asked_behind.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        *stage.script.sql_is_at.lock() = None;
    };
    let (outcome, ()) = tokio::join!(resume(since), catches_up);
    assert_eq!(resumed(outcome), 1);
}

/// SQL knows of another membership than the session follows, until one of the two has caught up.
#[tokio::test]
async fn a_membership_that_cannot_be_found_is_looked_up_at_a_pace() {
    let mut stage =
        Stage::limited(|limits| (limits.groups_per_connection, limits.http_requests_per_second, limits.http_requests_burst) = (1, 1, 1))
            .await;
    // No canary has come back.
    Arc::get_mut(&mut stage.app).unwrap().knowledge = Arc::new(Knowledge::new(stage.script.shards()));
    let ann = Member::new("ann").await;
    let at = Position::new(Epoch(1), 5);
    stage.app.begin_join(&ann.session, group(), at).map(drop).unwrap();
    let joined = Joined { start: at, position: at, complete: true };
    ann.session.groups.lock().get_mut(&group()).unwrap().joined = Some(joined);
    let deadline = Instant::now() + Duration::from_secs(1);
    let refused = stage.app.authorise(&ann.session, group(), deadline).await.err().map(|refusal| refusal.code);
    assert_eq!(refused, Some(ErrorCode::Unavailable));
    let looked_up = stage.app.metrics.looked_up.get();
    assert!((2..=10).contains(&looked_up), "{looked_up} times in a second");
    assert_eq!(stage.app.rates.take_look_ups(ann.session.key, 1), Ok(()), "a member's are not counted");
}

/// Each would keep its connection until somebody reads what it asked.
#[tokio::test]
async fn who_gives_up_signing_in_leaves_nothing_behind() {
    let script = Script::new();
    script.unfenced.store(true, Ordering::Relaxed);
    let stage = Stage::begun(script, |_| ());
    let attempts = (0..2000).map(async |number| {
        let opened = tokio::time::timeout(Duration::from_millis(50), stage.open(&format!("user{number}"))).await;
        assert!(opened.is_err(), "nobody follows it");
    });
    let seen = async {
        let here = || stage.app.sessions.iter().map(|session| Arc::downgrade(&session)).collect::<Vec<Weak<SessionHandle>>>();
        while here().len() < 2000 {
            tokio::task::yield_now().await;
        }
        here()
    };
    let (_, sessions) = tokio::join!(futures::future::join_all(attempts), seen);
    let gone = async {
        while sessions.iter().any(|session| session.strong_count() > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), gone).await.is_ok(), "sessions are left behind");
    stage.script.unfenced.store(false, Ordering::Relaxed);
    let opened = tokio::time::timeout(Duration::from_secs(10), stage.open("ann")).await;
    assert!(opened.is_ok_and(|opened| opened.is_ok()));
}

/// Too many others had hints before its rows were in SQL: nobody can tell it of its own.
#[tokio::test]
async fn groups_whose_hint_was_forgotten_before_sql_had_them_are_listed_once_it_has() {
    let stage = Stage::new().await;
    let since = stage.script.store(Topic::Group(group()), &message("it begins"), true);
    *stage.script.sql_is_at.lock() = Some(Position::new(since.epoch, since.seq - 1));
    *stage.script.member_since.lock() = since;
    stage.script.is_listed.store(true, Ordering::Relaxed);
    let hint = |name: &str| stage.script.store(Topic::User(user(name).key()), &hint_of(name, since), false);
    hint("bob");
    let ann = Member::new("ann").await;
    stage.app.hub.join_inbox(&ann.session, Start::Now).await.unwrap();
    for _ in 0..5 {
        for number in 0..1_000 {
            hint(&format!("user{number}"));
        }
        hint("ann");
        tokio::time::timeout(Duration::from_secs(10), ann.session.next_notice()).await.expect("its hint, behind the others'");
    }
    let mut bob = Member::held("bob").await;
    let opened = stage.open_over("bob", Arc::clone(&bob.session.outlet)).await.unwrap();
    let session = opened.session();
    session.outlet.release(Bytes::new());
    stage.script.announce();
    let told = tokio::time::timeout(Duration::from_secs(2), session.next_notice()).await;
    assert!(told.is_err(), "SQL has not come so far: {told:?}");
    *stage.script.sql_is_at.lock() = None;
    stage.script.announce();
    let told = tokio::time::timeout(Duration::from_secs(20), session.next_notice()).await.expect("it lists them again");
    stage.app.follow(session, told).await;
    stage.script.store(Topic::Group(group()), &message("hello"), false);
    assert!(bob.until("hello").await.contains("joined"));
}

/// Its page tells the client where it goes on: what came of it before would take the place of what the client remembers.
#[tokio::test]
async fn a_group_of_a_further_page_begins_with_its_page() {
    let stage = Stage::new().await;
    let ann = Member::new("ann").await;
    let since = stage.script.store(Topic::Group(group()), &message("it begins"), true);
    *stage.script.member_since.lock() = since;
    stage.script.is_listed.store(true, Ordering::Relaxed);
    let applied = Arc::from([ShardPosition { shard: 0, position: since }]);
    ann.session.note_sign_in(stage.script.shards(), applied, &HashMap::new(), 10);
    let paging = Paging::begin(Arc::clone(&ann.session));
    assert!(stage.app.relist(&ann.session, None).await.is_ok());
    let authorise = |wait| stage.app.authorise(&ann.session, group(), Instant::now() + wait);
    let refused = authorise(Duration::from_millis(300)).await.err().map(|refusal| refusal.code);
    assert_eq!(refused, Some(ErrorCode::Unavailable));
    assert!(ann.session.groups.lock().is_empty());
    drop(paging);
    assert!(authorise(Duration::from_secs(10)).await.is_ok(), "no page has it: it was left, and joined again");
}

/// Else its client, which goes by what it is told first, would be told again later what it had; and one that knows of the end would
/// keep a group that it is no member of.
#[tokio::test]
async fn a_membership_beyond_sql_goes_on_where_an_earlier_connection_was_told_of_it() {
    // What it was told of is read back, or is in the ring, or is still to come here.
    for (is_followed, is_missed) in [(false, true), (true, false), (true, true)] {
        for is_over in [false, true] {
            let stage = Stage::new().await;
            let (mut ann, mut bob) = (Member::new("ann").await, Member::new("bob").await);
            let applied = stage.script.fence_now();
            if is_followed {
                let meta = GroupMeta { kind: GroupKind::Group, display_name: "lobby".into(), at: Position::START };
                stage.app.hub.join_group(&bob.session, group(), &meta, Start::Now, applied, Telling::Nothing).await.unwrap();
            }
            let store = |event: &Event, is_missed| stage.script.store(Topic::Group(group()), event, is_missed);
            let since = store(&message("it begins"), is_missed);
            store(&message("had"), is_missed);
            let told = if is_over { store(&removal("ann"), is_missed) } else { store(&message("had too"), is_missed) };
            if !is_missed {
                bob.until(if is_over { "member_removed" } else { "had too" }).await;
            }
            let applied = Arc::from([ShardPosition { shard: 0, position: applied }]);
            ann.session.note_sign_in(stage.script.shards(), applied, &HashMap::from([(group(), told)]), 1);
            let Event::GroupJoined(joined) = hint_of("ann", since) else { panic!("a hint") };
            stage.app.follow(&ann.session, Notice::Joined(Box::new(joined))).await;
            store(&message("what follows"), false);
            let said = if is_over { ann.said().await } else { ann.until("what follows").await };
            let case = format!("followed {is_followed}, missed {is_missed}: {said}");
            if is_over {
                assert_eq!(said, "", "{case}");
            } else {
                let begins = format!(r#""change":"joined","user":"ann","position":"{told}""#);
                assert!(said.matches("joined").count() == 1 && said.contains(&begins) && !said.contains("had"), "{case}");
            }
            assert_eq!(ann.session.outlet.state(), OutletState::Open, "{case}");
        }
    }
}
