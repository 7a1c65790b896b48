//! docs/database.md: its queries are run as they stand there.

use natter_shared::{
    event::{Audience, Event, GroupCreated, GroupKind, Role, SeenWhat},
    id::{EventId, GroupId, RoomName},
    rpc::CreateSingle,
    subject::Topic,
};

use crate::{
    harness::{Harness, user},
    on_both,
};

on_both!(the_documents_queries_find_what_it_says);

const DOC: &str = include_str!("../../../docs/database.md");

/// The queries of the document, in its order.
fn queries() -> Vec<&'static str> {
    DOC.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

async fn the_documents_queries_find_what_it_says(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    harness.sign_in(&bob, Some("bob")).await;
    let group = GroupId(uuid::Uuid::now_v7());
    let topic = Topic::Group(group);
    let members = [&alice, &bob].map(|user| (user.clone(), Role::Member)).into();
    let name = Some(RoomName::slug("lobby").unwrap());
    let created = GroupCreated { group, kind: GroupKind::Open, name, display_name: "The lobby".into(), members };
    harness.publish(topic, EventId::random(), &Event::GroupCreated(created)).await;
    let first = harness.say(group, &bob, "one").await;
    harness.say(group, &bob, "two").await;
    harness.say(group, &alice, "three").await;
    let (_, last) = harness.notify(Audience::Group(group), Some(&bob), "to all").await;
    harness.applied(topic, last).await;
    let (seen, _) = harness.notify(Audience::User(alice.clone()), None, "seen").await;
    harness.notify(Audience::User(alice.clone()), None, "not seen").await;
    harness.seen(&alice, SeenWhat::Ids(vec![seen]), false).await;
    let single = harness.call(CreateSingle { user: bob.clone(), other: alice.clone(), by_back_end: false }).await.unwrap().reply.group;
    let last = harness.say(single, &bob, "four").await;
    harness.applied(Topic::Group(single), last).await;
    let read = harness.read(&alice, group, first.position).await;
    harness.applied(Topic::User(alice.key()), read).await;

    let queries = queries();
    let [unread, unseen, newest] = queries.as_slice() else { panic!("another number of queries: {queries:?}") };
    let rows = harness.rows(unread).await;
    let found: Vec<(String, i64)> =
        rows.iter().map(|row| (row.try_get("", "display_name").unwrap(), row.try_get("", "unread").unwrap())).collect();
    assert_eq!(found, [("The lobby".to_owned(), 2), ("bob_with_alice".to_owned(), 1)]);
    assert!(DOC.contains("as its opener saw it then: `bob_with_alice`"));
    assert_eq!(harness.rows(unseen).await[0].try_get::<i64>("", "unseen").unwrap(), 2);
    let rows = harness.rows(newest).await;
    let found: Vec<(String, String)> =
        rows.iter().map(|row| (row.try_get("", "display_name").unwrap(), row.try_get("", "body").unwrap())).collect();
    assert_eq!(found, [("alice", "three"), ("bob", "two"), ("bob", "one")].map(|(who, body)| (who.to_owned(), body.to_owned())));
}
