//! The limits of a session, at their edges.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use natter_shared::{
    event::{Audience, GroupKind, Role},
    frame::{CloseCode, ErrorCode, GroupState, History, SeenTo},
    id::{GroupId, GroupRef, Nonce, UserId},
    position::{Epoch, Position},
    rpc::{self, OpenGroup, ShardPosition, SignIn},
    subject::{Shard, Topic},
    timestamp::Timestamp,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Protocol, SessionHandle, send::Outgoing};
use crate::{
    auth::Identity,
    delivery::{JoinError, Joined, Start},
    network_tests::Edge,
    socket::{Outlet, OutletState},
};

fn session(edge: &Edge) -> Arc<SessionHandle> {
    let outlet = Arc::new(Outlet::held(edge.app.outlet_limits()));
    SessionHandle::new(&Identity::of(UserId::new("ann").unwrap()), Protocol::V1, outlet)
}

#[tokio::test]
async fn groups_per_connection_at_the_edge() {
    let edge = Edge::start(|config| config.limits.groups_per_connection = 3).await;
    let session = session(&edge);
    let begin = |group: u128| edge.app.begin_join(&session, GroupId(Uuid::from_u128(group)), Position::START);
    assert!((1..=3).all(|group| begin(group).is_ok()));
    assert!(matches!(begin(4), Err(JoinError::TooMany(3))));
    assert_eq!(edge.refused("groups_per_connection"), 1);
    assert!(begin(1).is_ok(), "one that it has already");
    session.groups.lock().remove(&GroupId(Uuid::from_u128(1)));
    assert!(begin(4).is_ok());
}

#[tokio::test]
async fn what_ready_told_holds_for_the_membership_it_was_told_of() {
    let edge = Edge::start(|_| ()).await;
    let session = session(&edge);
    let group = |number| GroupId(Uuid::from_u128(number));
    let state = |id| GroupState {
        id,
        kind: GroupKind::Open,
        name: None,
        display_name: "Lobby".to_owned(),
        role: Role::Member,
        position: Position::START,
        last_read: None,
        unread: 7,
        unread_at: Position::START,
        recovered: true,
    };
    let joined = Joined { start: Position::START, position: Position::START, complete: true };
    for number in 1..=2 {
        edge.app.begin_join(&session, group(number), Position::START).map(drop).unwrap();
        session.groups.lock().get_mut(&group(number)).unwrap().joined = Some(joined);
    }
    assert!(session.told_of(group(1)).is_none(), "nothing was told");
    session.remember_told([1, 2, 3].map(|number| state(group(number))).into());
    let told = session.told_of(group(1)).unwrap();
    assert_eq!((told.unread, told.recovered), (7, false), "a join is no resume");
    assert!(session.told_of(group(3)).is_none(), "not followed");
    session.groups.lock().get_mut(&group(1)).unwrap().since = Position::new(Epoch(1), 5);
    assert!(session.told_of(group(1)).is_none(), "another membership");
    session.groups.lock().get_mut(&group(2)).unwrap().ends = true;
    assert!(session.told_of(group(2)).is_none(), "it ends");
    session.groups.lock().get_mut(&group(2)).unwrap().ends = false;
    assert!(session.told_of(group(2)).is_some());
    session.forget_told();
    assert!(session.told_of(group(2)).is_none());
}

/// However many groups SQL listed, and whichever those were.
#[tokio::test]
async fn what_an_earlier_connection_was_told_beyond_sql_is_remembered() {
    let edge = Edge::start(|_| ()).await;
    let shards = edge.app.broker.shards();
    let at = |seq| Position::new(Epoch(1), seq);
    let groups: Vec<_> = (0..1000).map(|number| GroupId(Uuid::from_u128(number))).collect();
    // SQL has come to a hundred in each shard but the first, where it has come to a thousand.
    let upto = |shard: Shard| if shard.0 == 0 { 1000 } else { 100 };
    let applied: Arc<[_]> = shards.iter().map(|shard| ShardPosition { shard: shard.0, position: at(upto(shard)) }).collect();
    let resume = groups.iter().copied().zip((0..).map(at)).collect();
    let session = session(&edge);
    session.note_sign_in(shards, Arc::clone(&applied), &resume, 1000);
    for (group, told) in groups.iter().zip(0..) {
        let shard = shards.of(Topic::Group(*group));
        assert_eq!(session.told_ahead(*group), (told > upto(shard)).then(|| at(told)), "{told} of {shard}");
        let since = at(upto(shard));
        assert_eq!(edge.app.start_of(&session, *group, since).await.unwrap(), Start::Now, "it was listed, or had ended");
        let since = at(upto(shard).max(told) + 1);
        assert_eq!(edge.app.start_of(&session, *group, since).await.unwrap(), Start::After(since), "all of the membership is new");
    }
    let session = self::session(&edge);
    session.note_sign_in(shards, applied, &resume, 10);
    assert_eq!(groups.iter().filter(|group| session.told_ahead(**group).is_some()).count(), 10);
}

#[tokio::test]
async fn a_session_stands_on_one_token() {
    let edge = Edge::start(|_| ()).await;
    let session = session(&edge);
    let token = |expires_at, issued_at| {
        let (expires_at, issued_at) = (Timestamp(expires_at), Timestamp(issued_at));
        Identity { expires_at, issued_at, ..Identity::of(session.user.clone()) }
    };
    let stands_on = || (session.expires_at(), session.issued_at());
    // Revoked before 75, the session goes on: its first token still holds.
    for (expires_at, issued_at, expected) in
        [(400, 100, (400, 100)), (1000, 50, (400, 100)), (399, 200, (400, 100)), (400, 150, (400, 150)), (1000, 200, (1000, 200))]
    {
        session.extend(&token(expires_at, issued_at));
        let (expires_at, issued_at) = expected;
        assert_eq!(stands_on(), (Timestamp(expires_at), Timestamp(issued_at)), "the newest, and nothing of another");
    }
}

#[tokio::test]
async fn pages_of_history_take_of_the_users_rate() {
    let edge = Edge::start(|config| (config.limits.http_requests_per_second, config.limits.http_requests_burst) = (1, 1)).await;
    let session = session(&edge);
    edge.app.rates.take_user(session.key).unwrap();
    let asked = History { id: None, group: GroupRef::Id(GroupId(Uuid::nil())), before: None, after: None, limit: None };
    let refused = edge.app.history(&session, asked).await.err().map(|refusal| (refusal.code, refusal.retry_after_ms.is_some()));
    assert_eq!((refused, edge.refused("http_requests_per_second")), (Some((ErrorCode::RateLimited, true)), 1));
}

#[tokio::test]
async fn what_has_to_be_looked_up_takes_of_the_users_rate() {
    let edge = Edge::start(|config| {
        let limits = &mut config.limits;
        limits.groups_per_connection = 1;
        (limits.http_requests_per_second, limits.http_requests_burst) = (1, 1);
    })
    .await;
    let (session, group) = (session(&edge), GroupId(Uuid::nil()));
    edge.app.rates.take_look_ups(session.key, 1).unwrap();
    let to = Audience::User(session.user.clone());
    let outcomes = [
        edge.app.join(&session, GroupRef::Id(group)).await,
        edge.app.leave(&session, group).await,
        edge.app.notify(&session, to, Nonce::now(), "hello".to_owned(), None).await,
        edge.app.read(&session, group, Position::START).await,
    ];
    for outcome in outcomes {
        let refused = outcome.err().map(|refusal| (refusal.code, refusal.retry_after_ms.is_some()));
        assert_eq!(refused, Some((ErrorCode::RateLimited, true)));
    }
    assert_eq!(edge.refused("http_requests_per_second"), 4);
}

#[tokio::test]
async fn what_a_resume_has_not_looked_up_is_given_back() {
    let edge = Edge::start(|config| {
        let limits = &mut config.limits;
        limits.groups_per_connection = 20;
        (limits.http_requests_per_second, limits.http_requests_burst) = (1, 20);
    })
    .await;
    let session = session(&edge);
    let points = (0..30).map(|number| (GroupRef::Id(GroupId(Uuid::from_u128(number))), Position::START)).collect();
    edge.broker.away.store(true, Ordering::Relaxed);
    assert_eq!(edge.app.resume(&session, points).await.err().map(|refusal| refusal.code), Some(ErrorCode::Unavailable));
    assert!(edge.app.rates.take_look_ups(session.key, 20).is_err(), "the first was asked for");
    assert_eq!(edge.app.rates.take_look_ups(session.key, 19), Ok(()));
}

#[tokio::test]
async fn notifications_to_groups_take_of_the_users_rate() {
    let edge = Edge::start(|config| config.limits.group_notifications_per_minute = 3).await;
    let session = session(&edge);
    let notify = async |to| {
        let outcome = edge.app.notify(&session, to, Nonce::now(), "hello".to_owned(), None).await;
        outcome.err().map(|refusal| (refusal.code, refusal.retry_after_ms))
    };
    let group = || Audience::Group(GroupId(Uuid::nil()));
    for _ in 0..3 {
        assert!(notify(group()).await.is_some_and(|(code, _)| code != ErrorCode::RateLimited));
    }
    let (code, after) = notify(group()).await.unwrap();
    assert_eq!((code, edge.refused("group_notifications_per_minute")), (ErrorCode::RateLimited, 1));
    assert!(after.is_some_and(|after| (15_000..=20_001).contains(&after)), "{after:?}");
    assert_eq!(notify(Audience::User(session.user.clone())).await, None, "those to users are another matter");
}

#[tokio::test]
async fn in_flight_sends_at_the_edge() {
    let edge = Edge::start(|config| config.limits.in_flight_sends = 3).await;
    let session = session(&edge);
    let send = || {
        let (group, nonce, body) = (GroupId(Uuid::nil()), Nonce::now(), "hello".to_owned());
        edge.app.send(&session, Outgoing { id: None, group, nonce, body, reply_to: None, data: None });
    };
    // Nothing is answered before this test waits.
    for refused in [0, 0, 0, 1, 2] {
        send();
        assert_eq!(edge.refused("in_flight_sends"), refused);
    }
    while !session.is_idle() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for refused in [2, 2, 2, 3] {
        send();
        assert_eq!(edge.refused("in_flight_sends"), refused, "whose sends are answered may send again");
    }
}

#[tokio::test]
async fn a_defect_gives_back_the_place_it_had_and_the_session_comes_back() {
    let edge = Edge::start(|config| config.limits.in_flight_sends = 2).await;
    let session = session(&edge);
    let send = || {
        let (group, nonce, body) = (GroupId(Uuid::nil()), Nonce::now(), "hello".to_owned());
        edge.app.send(&session, Outgoing { id: None, group, nonce, body, reply_to: None, data: None });
    };
    edge.broker.is_defective.store(true, Ordering::Relaxed);
    // The second waits behind the first.
    send();
    send();
    let idle = tokio::time::timeout(Duration::from_secs(10), session.idle());
    idle.await.expect("what meets a defect counts as unanswered");
    assert_eq!((session.in_flight.load(Ordering::Relaxed), session.lanes.lock().len()), (0, 0));
    assert_eq!(session.outlet.state(), OutletState::Sealed(CloseCode::TryAgain));
    edge.broker.is_defective.store(false, Ordering::Relaxed);
    send();
    assert!(session.lanes.lock().is_empty() && session.is_idle(), "what came after those would be stored before them");
}

#[tokio::test]
async fn a_defect_keeps_nobody_else_from_signing_in() {
    let edge = Edge::start(|_| ()).await;
    let sign_in = || {
        let app = Arc::clone(&edge.app);
        let call = SignIn { user: UserId::new("ann").unwrap(), handle: None, display_name: None, limit: 1, issued_at: None };
        let signed_in = tokio::spawn(async move { app.sign_ins.sign_in(call).await.is_ok() });
        async { tokio::time::timeout(Duration::from_secs(10), signed_in).await.expect("nobody is asked any more") }
    };
    edge.broker.is_defective.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(sign_in().await.is_err(), "asked for alone, it meets the defect by itself");
    }
    edge.broker.is_defective.store(false, Ordering::Relaxed);
    assert!(sign_in().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn send_deadline_at_the_edge() {
    let deadline = Duration::from_secs(15);
    let edge = Edge::start(|config| config.limits.send_deadline = deadline).await;
    let session = session(&edge);
    let seen = || async { edge.app.seen(&session, SeenTo { id: None, ids: Some(Vec::new()), upto: None, mark: None }).await };
    edge.broker.stores_nothing.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    assert_eq!(seen().await.err().map(|refusal| refusal.code), Some(ErrorCode::Pending));
    let took = begun.elapsed();
    assert!(took <= deadline && took > Duration::from_secs(13), "{took:?}");
    // Back just before it.
    let back = async {
        tokio::time::sleep(Duration::from_secs(12)).await;
        edge.broker.stores_nothing.store(false, Ordering::Relaxed);
    };
    assert!(tokio::join!(seen(), back).0.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_join_waits_no_longer_than_a_call_and_is_not_made_for_who_has_gone() {
    let edge = Edge::start(|_| ()).await;
    let session = session(&edge);
    let join = || edge.app.join_open(&session, OpenGroup::Id(GroupId(Uuid::nil())));
    edge.broker.holds_joins.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    assert_eq!(join().await.err().map(|error| error.code), Some(ErrorCode::Unavailable));
    assert_eq!(begun.elapsed().as_secs(), rpc::TIMEOUT.as_secs());
    edge.broker.holds_joins.store(false, Ordering::Relaxed);
    session.mark_closed();
    assert_eq!(join().await.err().map(|error| error.code), Some(ErrorCode::Unavailable));
    assert_eq!(edge.broker.first_joins.load(Ordering::Relaxed), 0);
}
