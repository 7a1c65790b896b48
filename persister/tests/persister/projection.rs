//! Events become rows once, whatever is replayed, raced or aborted.

use std::time::Duration;

use natter_shared::{
    broker::{Broker, Outgoing},
    event::{Event, GroupKind, MemberAdded, MemberRemoved, Role},
    id::{EventId, Nonce, derived_event},
    rpc::{FindMembership, MessageHistory},
    subject::Topic,
};

use crate::{
    harness::{Harness, long_ago, message, user},
    on_both,
};

on_both!(
    a_replay_changes_nothing,
    two_persisters_that_race_apply_once,
    aborted_persisters_lose_and_double_nothing,
    the_same_message_twice_is_one_and_another_content_is_a_dead_letter,
    voids_are_skipped,
    a_hint_whose_first_copy_is_void_is_told_again,
    memberships_begin_and_end_at_their_events,
    unread_counts_are_exact,
    a_read_position_before_its_messages_counts_once_they_are_there,
);

async fn dump(harness: &Harness) -> Vec<String> {
    let mut out = Vec::new();
    for (table, columns) in [
        ("messages", "id, group_id, epoch, seq, ordinal"),
        ("group_events", "group_id, epoch, seq, event_id"),
        ("members", "group_id, user_id, since_seq, until_seq, since_ordinal, version"),
        ("group_counters", "group_id, messages"),
        ("notifications", "recipient, id, seq"),
        ("users", "id, handle"),
        ("read_positions", "user_id, seq, ordinal"),
    ] {
        for row in harness.rows(&format!("SELECT {columns} FROM {table} ORDER BY 1, 2")).await {
            let cells: Vec<String> = columns
                .split(", ")
                .map(|column| {
                    row.try_get::<Option<i64>>("", column)
                        .map(|n| format!("{n:?}"))
                        .or_else(|_| row.try_get::<uuid::Uuid>("", column).map(|id| id.to_string()))
                        .or_else(|_| row.try_get::<String>("", column))
                        .unwrap()
                })
                .collect();
            out.push(format!("{table}: {}", cells.join(" ")));
        }
    }
    out
}

async fn a_replay_changes_nothing(mut harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    let (group, _) = harness.create(GroupKind::Group, &[&alice, &bob]).await;
    let mut last = harness.say(group, &alice, "0").await;
    for n in 1..200 {
        last = harness.say(group, &alice, &n.to_string()).await;
    }
    harness.notify(natter_shared::event::Audience::Group(group), Some(&alice), "all").await;
    let removed = MemberRemoved { group, user: bob.clone(), by: Some(alice.clone()) };
    let left = harness.publish(Topic::Group(group), EventId::random(), &Event::MemberRemoved(removed)).await;
    harness.read(&bob, group, last.position).await;
    harness.applied(Topic::Group(group), left).await;
    let hint = harness.log_of(Topic::User(alice.key())).await.len();
    let state = harness.broker.log_state(harness.shard(Topic::User(bob.key()))).await.unwrap();
    harness.reached(harness.shard(Topic::User(bob.key())), natter_shared::position::Position::new(state.epoch, state.last)).await;
    harness.stop().await;
    let before = dump(&harness).await;
    assert!(before.len() > 200);
    // As an older backup of only the checkpoints would: everything comes again.
    harness.sql("UPDATE applied SET seq = 0, event_id = NULL").await;
    harness.start().await;
    harness.applied(Topic::Group(group), left).await;
    assert_eq!(dump(&harness).await, before);
    assert_eq!(harness.count("dead_letters").await, 0);
    // The hints were published under the same ids.
    assert_eq!(harness.log_of(Topic::User(alice.key())).await.len(), hint);
}

async fn two_persisters_that_race_apply_once(mut harness: Harness) {
    harness.stop().await;
    // Leases that run out at once: both work on every shard all the time.
    harness.options.lease_ttl = Duration::from_millis(3);
    harness.options.batch = 7;
    harness.start().await;
    harness.start().await;
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let mut last = harness.say(group, &alice, "first").await;
    for n in 1..500 {
        last = harness.say(group, &alice, &n.to_string()).await;
    }
    harness.applied(Topic::Group(group), last).await;
    assert_eq!(harness.count("messages").await, 500);
    assert_eq!(harness.count("(SELECT DISTINCT ordinal FROM messages) o").await, 500);
    assert_eq!(harness.count("messages WHERE ordinal > 500").await, 0);
    assert_eq!(harness.count("dead_letters").await, 0);
}

async fn aborted_persisters_lose_and_double_nothing(mut harness: Harness) {
    let users: Vec<_> = (0..20).map(|n| user(&format!("u{n}"))).collect();
    let (group, _) = harness.create(GroupKind::Group, &[&users[0]]).await;
    let mut last = harness.say(group, &users[0], "first").await;
    for round in 0..6 {
        for (n, user) in users.iter().enumerate() {
            let added = MemberAdded { group, user: user.clone(), role: Role::Member, by: Some(users[0].clone()) };
            harness.publish(Topic::Group(group), EventId::random(), &Event::MemberAdded(added)).await;
            last = harness.say(group, user, &format!("{round} {n}")).await;
        }
        harness.abort().await;
        harness.start().await;
    }
    harness.applied(Topic::Group(group), last).await;
    assert_eq!(harness.count("messages").await, 121);
    assert_eq!(harness.count("messages WHERE ordinal > 121").await, 0);
    assert_eq!(harness.count("members").await, 20);
    for user in &users {
        // Hints may have been published again after an abort, but under the same id.
        assert_eq!(harness.log_of(Topic::User(user.key())).await.len(), 1, "{user}");
    }
}

async fn the_same_message_twice_is_one_and_another_content_is_a_dead_letter(harness: Harness) {
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let nonce = Nonce::now();
    let first = message(group, &alice, nonce, "one");
    let topic = Topic::Group(group);
    harness.publish(topic, first.id.into(), &Event::Message(first.clone())).await;
    // The broker knows only the event's own id; after its window the same message comes again.
    harness.publish(topic, EventId::random(), &Event::Message(first.clone())).await;
    harness.publish(topic, EventId::random(), &Event::Message(message(group, &alice, nonce, "two"))).await;
    let last = harness.say(group, &alice, "three").await;
    harness.applied(topic, last).await;
    // Once more, now that it is in SQL.
    harness.publish(topic, EventId::random(), &Event::Message(first)).await;
    harness.publish(topic, EventId::random(), &Event::Message(message(group, &alice, nonce, "two"))).await;
    let last = harness.say(group, &alice, "four").await;
    harness.applied(topic, last).await;
    assert_eq!(harness.count("messages").await, 3);
    assert_eq!(harness.count("messages WHERE body = 'four' AND ordinal = 3").await, 1);
    assert_eq!(harness.count("dead_letters WHERE reason = 'nonce_reused'").await, 2);
    assert_eq!(harness.count("dead_letters").await, 2);
}

async fn voids_are_skipped(harness: Harness) {
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let late = message(group, &alice, Nonce::now(), "late");
    let payload = Event::Message(late.clone()).encode().unwrap();
    let made_at = long_ago(harness.broker.now());
    harness.broker.publish(Outgoing { topic: Topic::Group(group), id: late.id.into(), made_at, epoch: None, payload }).await.unwrap();
    let last = harness.say(group, &alice, "in time").await;
    harness.applied(Topic::Group(group), last).await;
    assert_eq!(harness.count("messages").await, 1);
    assert_eq!(harness.count("dead_letters").await, 0);
}

/// It came too late to count, as from a NATS that stood still; its id is remembered all the same.
async fn a_hint_whose_first_copy_is_void_is_told_again(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    let (group, created) = harness.create(GroupKind::Group, &[&alice]).await;
    harness.applied(Topic::Group(group), created).await;
    let added = EventId::random();
    let (topic, id) = (Topic::User(bob.key()), derived_event("joined", &[added.0.as_bytes(), bob.as_str().as_bytes()]));
    let (made_at, payload) = (long_ago(harness.broker.now()), Event::Canary.encode().unwrap());
    harness.broker.publish(Outgoing { topic, id, made_at, epoch: None, payload }).await.unwrap();
    let add = Event::MemberAdded(MemberAdded { group, user: bob.clone(), role: Role::Member, by: Some(alice) });
    let ack = harness.publish(Topic::Group(group), added, &add).await;
    harness.applied(Topic::Group(group), ack).await;
    let log = harness.log_of(topic).await;
    let told = log.iter().filter(|stored| !stored.is_void() && matches!(Event::decode(&stored.payload), Ok(Event::GroupJoined(_))));
    assert_eq!((log.len(), told.count()), (2, 1));
}

async fn memberships_begin_and_end_at_their_events(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    let (group, created) = harness.create(GroupKind::Group, &[&alice]).await;
    let topic = Topic::Group(group);
    let add = || Event::MemberAdded(MemberAdded { group, user: bob.clone(), role: Role::Admin, by: Some(alice.clone()) });
    let remove = || Event::MemberRemoved(MemberRemoved { group, user: bob.clone(), by: Some(alice.clone()) });
    let of = |user: &natter_shared::id::UserId| FindMembership { user: user.clone(), group };
    let added = harness.publish(topic, EventId::random(), &add()).await;
    let again = harness.publish(topic, EventId::random(), &add()).await;
    assert_eq!(harness.call_after(topic, again, of(&alice)).await.unwrap().since, created.position);
    assert_eq!(harness.call_after(topic, again, of(&bob)).await.unwrap().since, added.position);
    let removed = harness.publish(topic, EventId::random(), &remove()).await;
    let twice = harness.publish(topic, EventId::random(), &remove()).await;
    assert!(harness.call_after(topic, twice, of(&bob)).await.is_none());
    let seq = removed.position.seq;
    assert_eq!(harness.count(&format!("members WHERE user_id = 'bob' AND until_seq = {seq} AND version = 2")).await, 1);
    // All in one batch: the last state holds.
    let back = harness.publish(topic, EventId::random(), &add()).await;
    harness.publish(topic, EventId::random(), &remove()).await;
    let last = harness.publish(topic, EventId::random(), &add()).await;
    let bob_now = harness.call_after(topic, last, of(&bob)).await.unwrap();
    assert_eq!((bob_now.since, bob_now.role), (last.position, Role::Admin));
    assert!(back.position < last.position);
    // Hints: joined, left, joined, left, joined.
    assert_eq!(harness.log_of(Topic::User(bob.key())).await.len(), 5);
}

async fn unread_counts_are_exact(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let topic = Topic::Group(group);
    let mut acks = Vec::new();
    for n in 0..10 {
        acks.push(harness.say(group, &alice, &n.to_string()).await);
    }
    let added = MemberAdded { group, user: bob.clone(), role: Role::Member, by: Some(alice.clone()) };
    harness.publish(topic, EventId::random(), &Event::MemberAdded(added)).await;
    for n in 10..15 {
        acks.push(harness.say(group, &alice, &n.to_string()).await);
    }
    harness.applied(topic, acks[14]).await;
    let unread = async |user: &natter_shared::id::UserId| harness.sign_in(user, None).await.groups[0].unread;
    assert_eq!(unread(&alice).await, 15);
    assert_eq!(unread(&bob).await, 5, "what was there before is not unread");
    let ack = harness.read(&alice, group, acks[9].position).await;
    harness.applied(Topic::User(alice.key()), ack).await;
    assert_eq!(unread(&alice).await, 5);
    // Never backwards.
    let ack = harness.read(&alice, group, acks[3].position).await;
    harness.applied(Topic::User(alice.key()), ack).await;
    assert_eq!(unread(&alice).await, 5);
    let page = MessageHistory { user: Some(alice), group, before: None, after: None, limit: 50 };
    assert_eq!(harness.call(page).await.unwrap().reply.messages.len(), 15);
}

async fn a_read_position_before_its_messages_counts_once_they_are_there(harness: Harness) {
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let first = harness.say(group, &alice, "1").await;
    harness.applied(Topic::Group(group), first).await;
    // Two messages further than there are: as if the group's shard lagged behind the user's.
    let mut ahead = first.position;
    ahead.seq += 2;
    let ack = harness.read(&alice, group, ahead).await;
    harness.applied(Topic::User(alice.key()), ack).await;
    if harness.shard(Topic::User(alice.key())) != harness.shard(Topic::Group(group)) {
        harness.say(group, &alice, "2").await;
        harness.say(group, &alice, "3").await;
    }
    while harness.say(group, &alice, "more").await.position <= ahead {}
    let last = harness.say(group, &alice, "last").await;
    harness.applied(Topic::Group(group), last).await;
    let expected = harness.count(&format!("messages WHERE seq > {}", ahead.seq)).await;
    assert_eq!(harness.sign_in(&alice, None).await.groups[0].unread as i64, expected);
}
