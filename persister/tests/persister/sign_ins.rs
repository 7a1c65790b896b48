//! Signing in many at once.

use natter_shared::{
    event::Audience,
    frame::ErrorCode,
    id::Nonce,
    position::{Epoch, Position},
    rpc::{ChangeStanding, CreateGroup, OneOfMany, Request, ShardPosition, SignIn, SignInMany, SignedIn, StandingChange},
    subject::Topic,
    timestamp::Timestamp,
};

use crate::{
    harness::{Harness, user},
    on_both,
};

on_both!(many_sign_in_at_once_as_each_would_alone);

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
            (0 | 1, OneOfMany::SignedIn(signed_in)) => {
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
