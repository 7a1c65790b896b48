//! Pages: their edges, their cuts, and what they promise to hold.

use natter_shared::{
    event::{Event, GroupKind, GroupRenamed},
    frame::ErrorCode,
    id::EventId,
    position::{Epoch, Position},
    rpc::{self, AwaitApplied, EventsAfter, FindAccepted, Groups, MessageHistory, ShardPosition},
    subject::Topic,
};

use crate::{
    harness::{Harness, user},
    on_both,
};

on_both!(
    pages_of_messages_meet_at_their_edges,
    recovery_brings_messages_and_memberships_in_order,
    answers_are_cut_by_size,
    what_a_newer_release_wrote_hides_nothing_else,
    groups_come_in_pages,
    what_was_accepted_is_found_by_id,
    an_answer_from_before_what_was_known_is_none,
);

/// As after a failover to a database that lacks the last second.
async fn an_answer_from_before_what_was_known_is_none(harness: Harness) {
    let alice = user("alice");
    let (group, mut last) = harness.create(GroupKind::Group, &[&alice]).await;
    let (topic, shard) = (Topic::Group(group), harness.shard(Topic::Group(group)).0);
    for n in 0..20 {
        last = harness.say(group, &alice, &n.to_string()).await;
    }
    harness.applied(topic, last).await;
    let at = ShardPosition { shard, position: last.position };
    let error = harness.eventually("refused", async || {
        // The persister finds out soon.
        harness.sql(&format!("UPDATE applied SET seq = seq - 10, event_id = NULL WHERE shard = {shard} AND seq > 10")).await;
        rpc::call(&*harness.broker, AwaitApplied {}, Some(at)).await.err()
    });
    assert_eq!(error.await.code, ErrorCode::Unavailable);
    let again = async || rpc::call(&*harness.broker, AwaitApplied {}, Some(at)).await.ok();
    harness.eventually("answered again", again).await;
}

async fn pages_of_messages_meet_at_their_edges(harness: Harness) {
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let mut positions = Vec::new();
    for n in 0..25 {
        positions.push(harness.say(group, &alice, &n.to_string()).await);
    }
    harness.applied(Topic::Group(group), positions[24]).await;
    let page = async |before, after, limit| {
        let call = MessageHistory { user: Some(alice.clone()), group, before, after, limit };
        let page = harness.call(call).await.unwrap().reply;
        (page.messages.iter().map(|event| event.position).collect::<Vec<_>>(), page.more)
    };
    let all: Vec<Position> = positions.iter().map(|ack| ack.position).collect();
    assert_eq!(page(None, None, 10).await, (all[15..].to_vec(), true));
    assert_eq!(page(Some(all[15]), None, 10).await, (all[5..15].to_vec(), true));
    assert_eq!(page(Some(all[5]), None, 5).await, (all[..5].to_vec(), false));
    assert_eq!(page(Some(all[0]), None, 5).await, (vec![], false));
    assert_eq!(page(None, Some(all[4]), 10).await, (all[5..15].to_vec(), true));
    assert_eq!(page(None, Some(all[14]), 10).await, (all[15..].to_vec(), false));
    assert_eq!(page(None, Some(all[24]), 10).await, (vec![], false));
    assert_eq!(page(None, None, 25).await, (all.clone(), false));
}

async fn recovery_brings_messages_and_memberships_in_order(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    harness.sign_in(&bob, None).await;
    let (group, created) = harness.create(GroupKind::Group, &[&alice]).await;
    let topic = Topic::Group(group);
    harness.say(group, &alice, "1").await;
    let added = natter_shared::event::MemberAdded { group, user: bob, role: natter_shared::event::Role::Member, by: Some(alice.clone()) };
    harness.publish(topic, natter_shared::id::EventId::random(), &Event::MemberAdded(added)).await;
    let last = harness.say(group, &alice, "2").await;
    let ask = |after, limit| EventsAfter { user: Some(alice.clone()), group: Some(group), after, limit };
    let page = harness.call_after(topic, last, ask(created.position, 10)).await;
    let kinds: Vec<bool> = page.events.iter().map(|event| matches!(event.event, Event::Message(_))).collect();
    assert_eq!(kinds, [true, false, true]);
    assert!(page.complete && !page.more);
    let page = harness.call_after(topic, last, ask(created.position, 2)).await;
    assert_eq!((page.events.len(), page.more), (2, true));
    let all = harness.call_after(topic, last, ask(Position::START, 10)).await;
    assert_eq!((all.events.len(), all.complete), (4, true));
    let future = Position::new(Epoch(last.position.epoch.0 + 50), 1);
    assert!(!harness.call_after(topic, last, ask(future, 10)).await.complete);
}

async fn answers_are_cut_by_size(harness: Harness) {
    let alice = user("alice");
    let (group, created) = harness.create(GroupKind::Group, &[&alice]).await;
    let body = "x".repeat(60_000);
    let mut last = created;
    for _ in 0..20 {
        last = harness.say(group, &alice, &body).await;
    }
    let topic = Topic::Group(group);
    let (mut after, mut seen) = (created.position, 0);
    loop {
        let call = EventsAfter { user: Some(alice.clone()), group: Some(group), after, limit: 500 };
        let page = harness.call_after(topic, last, call).await;
        assert!(page.events.len() <= 9 && !page.events.is_empty());
        seen += page.events.len();
        after = page.events.last().unwrap().position;
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, 20);
}

async fn what_a_newer_release_wrote_hides_nothing_else(harness: Harness) {
    let alice = user("alice");
    let (group, created) = harness.create(GroupKind::Group, &[&alice]).await;
    let topic = Topic::Group(group);
    let mut stored = Vec::new();
    for n in 0..600 {
        let renamed = Event::GroupRenamed(GroupRenamed { group, display_name: n.to_string(), by: None });
        stored.push(harness.publish(topic, EventId::random(), &renamed).await.position);
    }
    harness.reached(harness.shard(topic), stored[599]).await;
    let read = async || {
        let (mut after, mut seen) = (created.position, Vec::new());
        for _ in 0..10 {
            let call = EventsAfter { user: Some(alice.clone()), group: Some(group), after, limit: 500 };
            let page = harness.call(call).await.unwrap().reply;
            seen.extend(page.events.iter().map(|event| event.position));
            if !page.more {
                return seen;
            }
            after = page.events.last().expect("something to go on from").position;
        }
        panic!("never comes to an end");
    };
    let newer = async |upto: Position| {
        let sql = r#"UPDATE group_events SET payload = '{"type":"future"}' WHERE kind = 'group_renamed' AND seq <= "#;
        harness.sql(&format!("{sql}{}", upto.seq)).await;
    };
    newer(stored[0]).await;
    assert!(read().await == stored[1..], "all but one");
    // More than a page of them.
    newer(stored[549]).await;
    assert!(read().await == stored[550..], "the last ones");
}

async fn groups_come_in_pages(harness: Harness) {
    let alice = user("alice");
    harness.sign_in(&alice, None).await;
    let mut made = Vec::new();
    for _ in 0..7 {
        let (group, ack) = harness.create(GroupKind::Group, &[&alice]).await;
        harness.applied(Topic::Group(group), ack).await;
        made.push(group);
    }
    made.sort();
    let page = async |after, limit| {
        let page = harness.call(Groups { user: alice.clone(), after, limit }).await.unwrap().reply;
        (page.groups.iter().map(|membership| membership.group).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(page(None, 3).await, (made[..3].to_vec(), true));
    assert_eq!(page(Some(made[2]), 4).await, (made[3..].to_vec(), false));
    assert_eq!(page(Some(made[6]), 4).await, (vec![], false));
}

async fn what_was_accepted_is_found_by_id(harness: Harness) {
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let message = crate::harness::message(group, &alice, natter_shared::id::Nonce::now(), "here");
    let id = message.id.into();
    let ack = harness.publish(Topic::Group(group), id, &Event::Message(message)).await;
    let found = harness.call_after(Topic::Group(group), ack, FindAccepted { id }).await.unwrap();
    assert_eq!(found.position, ack.position);
    let Event::Message(message) = found.event else { panic!("not a message") };
    assert_eq!(message.body, "here");
    let to_group = harness.notify(natter_shared::event::Audience::Group(group), Some(&alice), "n").await;
    let found = harness.call_after(Topic::Group(group), to_group.1, FindAccepted { id: to_group.0.into() }).await.unwrap();
    assert_eq!(found.position, to_group.1.position);
    let to_user = harness.notify(natter_shared::event::Audience::User(alice.clone()), None, "n").await;
    let found = harness.call_after(Topic::User(alice.key()), to_user.1, FindAccepted { id: to_user.0.into() }).await.unwrap();
    assert_eq!(found.position, to_user.1.position);
    let none = FindAccepted { id: natter_shared::id::EventId::random() };
    assert!(harness.call(none).await.unwrap().reply.is_none());
}
