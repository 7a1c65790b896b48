//! Signing in many at once, and joining.

use std::time::{Duration, Instant};

use natter_shared::{
    event::Audience,
    frame::ErrorCode,
    id::{Nonce, RoomName},
    position::{Epoch, Position},
    rpc::{
        ChangeStanding, CreateGroup, FirstJoinMany, JoinOpen, JoinOpenMany, LeaveGroup, OneOfMany, OpenGroup, Request, ShardPosition,
        SignIn, SignInMany, SignedIn, StandingChange,
    },
    subject::Topic,
    timestamp::Timestamp,
};
use sea_orm::{ConnectionTrait, TransactionTrait};

use crate::{
    harness::{Harness, user},
    on_both,
};

on_both!(
    many_sign_in_at_once_as_each_would_alone,
    many_sign_in_for_the_first_time_as_each_would_alone,
    many_join_at_once_as_each_would_alone,
    many_join_for_the_first_time_as_each_would_alone
);

fn join(name: &str, room: &str) -> JoinOpen {
    JoinOpen { user: user(name), group: OpenGroup::Name(RoomName::slug(room).unwrap()) }
}

async fn many_sign_in_at_once_as_each_would_alone(harness: Harness) {
    let names = ["alice", "bob", "carol", "erin"];
    for name in names {
        harness.sign_in(&user(name), Some(name)).await;
    }
    for name in ["one", "two", "three"] {
        let members = vec![user("bob")];
        let call = CreateGroup { user: user("alice"), nonce: Nonce::now(), display_name: name.to_owned(), members };
        harness.call(call).await.unwrap();
    }
    let (_, ack) = harness.notify(Audience::User(user("alice")), None, "look").await;
    harness.applied(Topic::User(user("alice").key()), ack).await;
    let blocked = ChangeStanding { user: user("carol"), change: StandingChange::Block };
    harness.call(blocked).await.unwrap();
    let ask = |name: &str, handle: &str, limit: u32| SignIn {
        user: user(name),
        handle: Some(handle.to_owned()),
        display_name: None,
        limit,
        issued_at: Some(Timestamp::now()),
    };
    let not_yet = ShardPosition { shard: 0, position: Position::new(Epoch(9), 1) };
    let asked = [
        ask("alice", "alice", 2),
        ask("bob", "bob", 200),
        ask("carol", "carol", 200),
        // Never seen, as somebody whom there is; another name than before; a second time. Then one who comes before SQL has.
        ask("dave", "bob", 200),
        ask("erin", "Erin", 200),
        ask("alice", "alice", 2),
    ];
    let of = |call: &SignIn, min_position| Request { min_position, call: call.clone() };
    let users = asked.iter().map(|call| of(call, None)).chain([of(&asked[1], Some(not_yet))]).collect();
    let many = harness.call(SignInMany { users }).await.unwrap();
    assert_eq!(many.applied.len(), harness.call(asked[0].clone()).await.unwrap().applied.len());
    for (index, one) in many.reply.iter().enumerate() {
        let json = |value: &SignedIn| serde_json::to_value(value).unwrap();
        match (index, one) {
            (0 | 1, OneOfMany::Answered(signed_in)) => {
                let alone = harness.call(asked[index].clone()).await.unwrap().reply;
                assert_eq!(json(signed_in), json(&alone));
                assert_eq!((signed_in.groups.len(), signed_in.more, signed_in.inbox.unseen), [(2, true, 1), (3, false, 0)][index]);
            }
            (2, OneOfMany::Refused(error)) => assert_eq!(error.code, ErrorCode::Blocked),
            (3..=6, OneOfMany::Alone) => {}
            other => panic!("{other:?}"),
        }
    }
    let too_many = SignInMany { users: vec![of(&asked[1], None); 257] };
    assert_eq!(harness.call(too_many).await.unwrap_err().code, ErrorCode::TooLarge);
}

async fn many_sign_in_for_the_first_time_as_each_would_alone(harness: Harness) {
    harness.sign_in(&user("alice"), Some("alice")).await;
    let (_, ack) = harness.notify(Audience::User(user("mentioned")), None, "look").await;
    harness.applied(Topic::User(user("mentioned").key()), ack).await;
    harness.call(ChangeStanding { user: user("blocked"), change: StandingChange::Block }).await.unwrap();
    let ask = |name: &str, handle: Option<&str>, display_name: Option<&str>| SignIn {
        user: user(name),
        handle: handle.map(str::to_owned),
        display_name: display_name.map(str::to_owned),
        limit: 200,
        issued_at: Some(Timestamp::now()),
    };
    let asked = [
        ask("bob", Some("Bob"), Some("Bob B.")),
        ask("carol", None, None),
        // Over two connections at once.
        ask("dave", Some("dave"), None),
        ask("dave", Some("dave"), None),
        // The handle, or the id, of another; the same handle at once.
        ask("erin", Some("alice"), None),
        ask("frank", Some("mentioned"), None),
        ask("one", Some("same"), None),
        ask("two", Some("same"), None),
        ask("mentioned", Some("mentioned"), None),
        ask("blocked", Some("blocked"), None),
    ];
    let of = |call: &SignIn| Request { min_position: None, call: call.clone() };
    let many = harness.call(SignInMany { users: asked.iter().map(of).collect() }).await.unwrap().reply;
    let mut answered = Vec::new();
    for (call, one) in asked.iter().zip(&many) {
        match one {
            OneOfMany::Answered(signed_in) => {
                let alone = harness.call(call.clone()).await.unwrap().reply;
                assert_eq!(serde_json::to_value(signed_in).unwrap(), serde_json::to_value(&alone).unwrap());
                answered.push((call.user.as_str(), alone.profile.handle, alone.profile.display_name));
            }
            OneOfMany::Alone => answered.push((call.user.as_str(), "alone".to_owned(), String::new())),
            OneOfMany::Refused(refused) => {
                assert_eq!((refused.code, call.user.as_str()), (ErrorCode::Blocked, "blocked"));
            }
        }
    }
    let expected = [
        ("bob", "Bob", "Bob B."),
        ("carol", "carol", "carol"),
        ("dave", "dave", "dave"),
        ("dave", "alone", ""),
        ("erin", "alone", ""),
        ("frank", "alone", ""),
        ("one", "same", "same"),
        ("two", "alone", ""),
        ("mentioned", "alone", ""),
    ];
    assert_eq!(answered, expected.map(|(user, handle, name)| (user, handle.to_owned(), name.to_owned())));
    assert_eq!(harness.count("users WHERE id = 'blocked'").await, 0);
    for (call, handle) in [(&asked[4], "erin"), (&asked[5], "frank"), (&asked[7], "two"), (&asked[8], "mentioned")] {
        assert_eq!(harness.call(call.clone()).await.unwrap().reply.profile.handle, handle);
    }
}

async fn many_join_at_once_as_each_would_alone(harness: Harness) {
    for (name, room) in [("alice", "lobby"), ("alice", "attic"), ("bob", "lobby"), ("carol", "lobby")] {
        harness.sign_in(&user(name), Some(name)).await;
        harness.call(join(name, room)).await.unwrap();
    }
    let lobby = join("carol", "lobby").group;
    harness.call(LeaveGroup { user: user("carol"), group: lobby.id(), since: None }).await.unwrap();
    let not_yet = ShardPosition { shard: 0, position: Position::new(Epoch(9), 1) };
    let asked = [
        join("alice", "lobby"),
        JoinOpen { user: user("alice"), group: OpenGroup::Id(join("alice", "attic").group.id()) },
        join("bob", "lobby"),
        // The same once more, over another connection.
        join("bob", "lobby"),
        // Never a member; one no more; a room that nobody has made. Then one who comes before SQL has.
        join("bob", "attic"),
        join("carol", "lobby"),
        join("bob", "cellar"),
        join("alice", "lobby"),
    ];
    let of = |(index, call): (usize, &JoinOpen)| Request { min_position: (index == 7).then_some(not_yet), call: call.clone() };
    let many = harness.call(JoinOpenMany { joins: asked.iter().enumerate().map(of).collect() }).await.unwrap();
    assert_eq!(many.reply.len(), asked.len());
    for (index, one) in many.reply.iter().enumerate() {
        match (index, one) {
            (0..=3, OneOfMany::Answered(membership)) => {
                let alone = harness.call(asked[index].clone()).await.unwrap().reply;
                assert_eq!(serde_json::to_value(membership).unwrap(), serde_json::to_value(&alone).unwrap());
            }
            (4..=7, OneOfMany::Alone) => {}
            other => panic!("{other:?}"),
        }
    }
    let too_many = JoinOpenMany { joins: vec![of((0, &asked[0])); 257] };
    assert_eq!(harness.call(too_many).await.unwrap_err().code, ErrorCode::TooLarge);
}

async fn many_join_for_the_first_time_as_each_would_alone(harness: Harness) {
    for name in ["alice", "bob", "carol"] {
        harness.sign_in(&user(name), Some(name)).await;
        harness.call(join(name, "lobby")).await.unwrap();
    }
    let (lobby, cellar) = (join("carol", "lobby").group, join("carol", "cellar").group);
    harness.call(LeaveGroup { user: user("carol"), group: lobby.id(), since: None }).await.unwrap();
    let closed = CreateGroup { user: user("alice"), nonce: Nonce::now(), display_name: "Closed".to_owned(), members: Vec::new() };
    let closed = harness.call(closed).await.unwrap().reply.group;
    let asked = [
        // Three into a room that nobody has made, by its name or its id, one of them twice; back again; a member.
        join("alice", "cellar"),
        JoinOpen { user: user("bob"), group: OpenGroup::Id(cellar.id()) },
        join("carol", "cellar"),
        join("carol", "cellar"),
        join("carol", "lobby"),
        join("alice", "lobby"),
        // Neither open nor known.
        JoinOpen { user: user("bob"), group: OpenGroup::Id(closed) },
        JoinOpen { user: user("bob"), group: OpenGroup::Id(join("bob", "nowhere").group.id()) },
    ];
    let many = harness.call(FirstJoinMany { joins: asked.to_vec() }).await.unwrap();
    assert_eq!(many.reply.len(), asked.len());
    for (index, one) in many.reply.iter().enumerate() {
        match (index, one) {
            (0..=5, OneOfMany::Answered(membership)) => {
                let alone = harness.call(asked[index].clone()).await.unwrap().reply;
                assert_eq!(serde_json::to_value(membership).unwrap(), serde_json::to_value(&alone).unwrap());
            }
            (6..=7, OneOfMany::Refused(refused)) => assert_eq!(refused.code, ErrorCode::NotFound),
            other => panic!("{other:?}"),
        }
    }
    let events = "group_events WHERE kind = 'member_added' AND group_id = ";
    let literal = |id: uuid::Uuid| if harness.server.is_some() { format!("'{id}'") } else { format!("x'{}'", id.simple()) };
    assert_eq!(harness.count(&format!("{events}{}", literal(cellar.id().0))).await, 3);
    assert_eq!(harness.count(&format!("{events}{}", literal(lobby.id().0))).await, 4);
    let too_many = FirstJoinMany { joins: vec![join("alice", "lobby"); 257] };
    assert_eq!(harness.call(too_many).await.unwrap_err().code, ErrorCode::TooLarge);
}

/// The database lets one shard wait.
#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_join_takes_nobody_along() {
    let harness = Harness::postgres().await;
    let shard_of = |room: &str| harness.shard(Topic::Group(join("alice", room).group.id()));
    harness.sign_in(&user("alice"), Some("alice")).await;
    let held = shard_of("held");
    let other = (0..100).map(|number| format!("other{number}")).find(|room| shard_of(room) != held).unwrap();
    for room in ["held", &other] {
        harness.call(join("bob", room)).await.unwrap();
    }
    let lock = harness.database.begin().await.unwrap();
    lock.execute_unprepared(&format!("UPDATE applied SET seq = seq WHERE shard = {held}")).await.unwrap();
    let many = harness.call(FirstJoinMany { joins: vec![join("alice", "held"), join("alice", &other)] }).await.unwrap().reply;
    let [OneOfMany::Refused(refused), OneOfMany::Answered(_)] = &many[..] else { panic!("{many:?}") };
    assert_eq!(refused.code, ErrorCode::Unavailable);
    lock.rollback().await.unwrap();
    let joined = harness.call(FirstJoinMany { joins: vec![join("alice", "held")] }).await.unwrap().reply;
    assert!(matches!(&joined[..], [OneOfMany::Answered(_)]), "{joined:?}");
    assert_eq!(harness.count("group_events WHERE kind = 'member_added'").await, 4);
}

/// Another transaction has a name that one of them claims.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_known_does_not_wait_for_who_is_not() {
    let harness = Harness::postgres().await;
    let ask = |name: &str| SignIn { user: user(name), handle: Some(name.to_owned()), display_name: None, limit: 200, issued_at: None };
    harness.call(ask("alice")).await.unwrap();
    let lock = harness.database.begin().await.unwrap();
    let sql = "INSERT INTO users (id, key, handle, display_name, placeholder, created_at) VALUES ('other', gen_random_uuid(), 'bob', '', FALSE, 0)";
    lock.execute_unprepared(sql).await.unwrap();
    let begun = Instant::now();
    let users = ["alice", "bob"].map(|name| Request { min_position: None, call: ask(name) }).to_vec();
    let many = harness.call(SignInMany { users }).await.unwrap().reply;
    assert!(matches!(&many[..], [OneOfMany::Answered(_), OneOfMany::Alone]), "{many:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    lock.commit().await.unwrap();
    assert!(harness.call(ask("bob")).await.unwrap().reply.profile.handle.starts_with("bob~"));
}

/// Before autovacuum has ever counted: the planner takes every table for all but empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_user_costs_no_look_at_all_others() {
    const ROUNDS: usize = 30;
    const USERS: usize = 20;
    let mut harness = Harness::postgres().await;
    for round in 0..ROUNDS {
        let names: Vec<String> = (0..USERS).map(|number| format!("user-{round}-{number}")).collect();
        let sign_in = |name: &String| SignIn {
            user: user(name),
            handle: Some(name.clone()),
            display_name: None,
            limit: 200,
            issued_at: Some(Timestamp::now()),
        };
        let users = names.iter().map(|name| Request { min_position: None, call: sign_in(name) }).collect();
        let signed_in = harness.call(SignInMany { users }).await.unwrap().reply;
        assert!(signed_in.iter().all(|one| matches!(one, OneOfMany::Answered(_))), "{signed_in:?}");
        let joins = names.iter().map(|name| join(name, &format!("room{round}"))).collect();
        let joined = harness.call(FirstJoinMany { joins }).await.unwrap().reply;
        assert!(joined.iter().all(|one| matches!(one, OneOfMany::Answered(_))), "{joined:?}");
        let joins = names.iter().map(|name| Request { min_position: None, call: join(name, &format!("room{round}")) }).collect();
        harness.call(JoinOpenMany { joins }).await.unwrap();
    }
    // A connection that ends says what it has read.
    harness.stop().await;
    let read = "SELECT CAST(sum(t.seq_tup_read + coalesce(i.idx_tup_read, 0)) AS BIGINT) AS read FROM pg_stat_user_tables t \
                JOIN (SELECT relid, sum(idx_tup_read) AS idx_tup_read FROM pg_stat_user_indexes GROUP BY relid) i ON i.relid = t.relid \
                WHERE t.relname IN ('users', 'members', 'groups')";
    let users = (ROUNDS * USERS) as i64;
    let told = async || harness.rows(read).await[0].try_get::<Option<i64>>("", "read").unwrap().filter(|read| *read >= users);
    let each = harness.eventually("what was read", told).await / users;
    assert!(each <= 30, "{each} rows for each user");
}
