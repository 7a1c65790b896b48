//! Signing in many at once, and joining.

use natter_shared::{
    event::Audience,
    frame::ErrorCode,
    id::{Nonce, RoomName},
    position::{Epoch, Position},
    rpc::{
        ChangeStanding, CreateGroup, JoinOpen, JoinOpenMany, LeaveGroup, OneOfMany, OpenGroup, Request, ShardPosition, SignIn, SignInMany,
        SignedIn, StandingChange,
    },
    subject::Topic,
    timestamp::Timestamp,
};

use crate::{
    harness::{Harness, user},
    on_both,
};

on_both!(many_sign_in_at_once_as_each_would_alone, many_join_at_once_as_each_would_alone);

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
        // Never seen; another name than before; a second time. Then one who comes before SQL has.
        ask("dave", "dave", 200),
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

async fn many_join_at_once_as_each_would_alone(harness: Harness) {
    let join = |name: &str, room: &str| JoinOpen { user: user(name), group: OpenGroup::Name(RoomName::slug(room).unwrap()) };
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
