//! What is too old goes, and everything that is told of the rest stays true.

use std::time::Duration;

use bytes::Bytes;
use natter_shared::{
    broker::{Ack, Broker, Outgoing},
    event::{Audience, GroupKind, SeenWhat},
    id::{EventId, GroupId, NotificationId, UserId},
    position::Position,
    rpc::{CountInbox, EventsAfter, ListGroups, ListNotifications, MessageHistory},
    subject::Topic,
};

use uuid::Uuid;

use crate::{
    harness::{Harness, user},
    on_both,
};

on_both!(
    old_messages_go_and_nothing_told_of_the_rest_is_wrong,
    old_notifications_go_with_their_texts_and_counts,
    each_key_deletes_its_own_kind_and_no_other,
    only_the_holder_of_a_shard_deletes,
    what_could_not_be_applied_goes_as_messages_do,
);

/// Makes everything with a position up to `upto` look a day old.
async fn age(harness: &Harness, group: GroupId, upto: Position) {
    let id = match harness.database.get_database_backend() {
        sea_orm::DbBackend::Sqlite => format!("x'{}'", group.0.simple()),
        _ => format!("'{group}'"),
    };
    let before = format!("WHERE group_id = {id} AND seq <= {}", upto.seq);
    harness.sql(&format!("UPDATE messages SET sent_at = sent_at - 86400000 {before}")).await;
    harness.sql(&format!("UPDATE notifications SET sent_at = sent_at - 86400000 {before}")).await;
    harness.sql(&format!("UPDATE group_events SET stored_at = stored_at - 86400000 {before}")).await;
}

async fn unread(harness: &Harness, group: GroupId, who: &UserId) -> u64 {
    harness.sign_in(who, None).await.groups.iter().find(|found| found.group == group).unwrap().unread
}

async fn keep_an_hour(harness: &mut Harness) {
    harness.stop().await;
    harness.options.keep_messages = Some(Duration::from_hours(1));
    harness.options.keep_notifications = Some(Duration::from_hours(1));
    harness.options.retention_interval = Duration::from_millis(50);
    harness.start().await;
}

async fn said(harness: &Harness, group: GroupId, sender: &UserId, count: usize) -> Vec<Ack> {
    let mut acks = Vec::new();
    for n in 0..count {
        acks.push(harness.say(group, sender, &n.to_string()).await);
    }
    harness.applied(Topic::Group(group), *acks.last().unwrap()).await;
    acks
}

async fn old_messages_go_and_nothing_told_of_the_rest_is_wrong(mut harness: Harness) {
    let (alice, bob, carol, dave) = (user("alice"), user("bob"), user("carol"), user("dave"));
    let (group, _) = harness.create(GroupKind::Group, &[&alice, &bob, &carol, &dave]).await;
    let (other, _) = harness.create(GroupKind::Group, &[&alice]).await;
    // More than one batch of them.
    let acks = said(&harness, group, &alice, 700).await;
    said(&harness, other, &alice, 3).await;
    // Bob has read into what stays, Carol into what goes, Dave nothing.
    let ack = harness.read(&bob, group, acks[650].position).await;
    harness.applied(Topic::User(bob.key()), ack).await;
    let ack = harness.read(&carol, group, acks[100].position).await;
    harness.applied(Topic::User(carol.key()), ack).await;
    // Whose ordinal was not known when it was read, and cannot be looked up any more.
    harness.sql("UPDATE read_positions SET ordinal = NULL").await;
    assert_eq!(
        (unread(&harness, group, &bob).await, unread(&harness, group, &carol).await, unread(&harness, group, &dave).await),
        (49, 599, 700)
    );
    age(&harness, group, acks[599].position).await;
    keep_an_hour(&mut harness).await;
    harness.eventually("deleted", async || (harness.count("messages").await == 103).then_some(())).await;
    assert_eq!(
        (unread(&harness, group, &bob).await, unread(&harness, group, &carol).await, unread(&harness, group, &dave).await),
        (49, 100, 100),
        "what is gone is not unread"
    );
    // Reading on counts on.
    let ack = harness.read(&dave, group, acks[300].position).await;
    harness.applied(Topic::User(dave.key()), ack).await;
    assert_eq!(unread(&harness, group, &dave).await, 100);
    let ack = harness.read(&dave, group, acks[689].position).await;
    harness.applied(Topic::User(dave.key()), ack).await;
    assert_eq!(unread(&harness, group, &dave).await, 10);
    // History just ends.
    let page = MessageHistory { user: Some(dave.clone()), group, before: Some(acks[610].position), after: None, limit: 50 };
    let page = harness.call(page).await.unwrap().reply;
    assert_eq!((page.messages.len(), page.more), (10, false));
    // Recovery from before what went says so; from there on it is complete.
    let after = async |position| {
        let call = EventsAfter { user: Some(dave.clone()), group: Some(group), after: position, limit: 500 };
        let page = harness.call(call).await.unwrap().reply;
        (page.complete, page.events.len())
    };
    assert!(!after(Position::START).await.0);
    assert!(!after(acks[598].position).await.0);
    assert_eq!(after(acks[599].position).await, (true, 100));
    assert_eq!(after(acks[690].position).await, (true, 9));
    let call = EventsAfter { user: Some(alice.clone()), group: Some(other), after: Position::START, limit: 500 };
    assert!(harness.call(call).await.unwrap().reply.complete, "another group is not concerned");
    // New ones are counted on.
    let last = said(&harness, group, &alice, 1).await[0];
    assert_eq!(unread(&harness, group, &bob).await, 50);
    let listed = harness.call(ListGroups { user: bob, after: None, limit: 5 }).await.unwrap().reply;
    assert_eq!(listed.groups[0].last_message.as_ref().unwrap().position, last.position);
    assert_eq!(harness.count("messages WHERE ordinal = 701").await, 1);
}

async fn old_notifications_go_with_their_texts_and_counts(mut harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    let (group, _) = harness.create(GroupKind::Group, &[&alice, &bob]).await;
    let topic = Topic::User(bob.key());
    let mut direct = Vec::new();
    for n in 0..6 {
        direct.push(harness.notify(Audience::User(bob.clone()), Some(&alice), &format!("direct {n}")).await);
    }
    harness.applied(topic, direct[5].1).await;
    let mut shared = Vec::new();
    for n in 0..6 {
        shared.push(harness.notify(Audience::Group(group), Some(&alice), &format!("shared {n}")).await);
    }
    harness.applied(Topic::Group(group), shared[5].1).await;
    let seen = harness.seen(&bob, SeenWhat::Ids(vec![direct[0].0, direct[5].0]), true).await;
    harness.applied(topic, seen).await;
    // Of what never was, or was deleted before: by its id a day ago, now, and without a time.
    let now = harness.broker.now();
    let strays = [now.offset_by(-86_400_000).0, now.0, 0].map(|time| NotificationId(Uuid::from_u128((u128::from(time) << 80) + 7)));
    let seen = harness.seen(&bob, SeenWhat::Ids(strays.to_vec()), false).await;
    harness.applied(topic, seen).await;
    let upto = direct[2].1.position.seq;
    harness.sql(&format!("UPDATE notifications SET sent_at = sent_at - 86400000 WHERE group_id IS NULL AND seq <= {upto}")).await;
    age(&harness, group, shared[2].1.position).await;
    keep_an_hour(&mut harness).await;
    harness.eventually("deleted", async || (harness.count("notifications").await == 6).then_some(())).await;
    harness
        .eventually("texts deleted", async || (harness.count("group_events WHERE kind = 'notification'").await == 3).then_some(()))
        .await;
    let counts = harness.call(CountInbox { user: bob.clone() }).await.unwrap().reply;
    assert_eq!((counts.unseen, counts.unread), (5, 5));
    harness.eventually("marks deleted", async || (harness.count("inbox_state").await == 3).then_some(())).await;
    assert_eq!(harness.count("inbox_state WHERE is_read").await, 1);
    let page = ListNotifications { user: bob.clone(), before: None, archived: false, unseen: false, limit: 50 };
    let page = harness.call(page).await.unwrap().reply;
    assert_eq!((page.notifications.len(), page.more), (6, false));
    assert!(page.notifications.iter().all(|entry| !entry.body.is_empty()));
    let after = async |group, position| {
        let call = EventsAfter { user: Some(bob.clone()), group, after: position, limit: 500 };
        let page = harness.call(call).await.unwrap().reply;
        (page.complete, page.events.len())
    };
    assert!(!after(None, direct[1].1.position).await.0);
    assert_eq!(after(None, direct[2].1.position).await, (true, 3));
    assert!(!after(Some(group), shared[1].1.position).await.0);
    assert_eq!(after(Some(group), shared[2].1.position).await, (true, 3));
}

async fn each_key_deletes_its_own_kind_and_no_other(mut harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    let (group, _) = harness.create(GroupKind::Group, &[&alice, &bob]).await;
    let hour = Some(Duration::from_hours(1));
    harness.options.retention_interval = Duration::from_millis(20);
    for (messages, notifications) in [(hour, None), (None, hour)] {
        harness.stop().await;
        (harness.options.keep_messages, harness.options.keep_notifications) = (messages, notifications);
        harness.start().await;
        let (deleted, kept) = if messages.is_some() { ("messages", "notifications") } else { ("notifications", "messages") };
        // Twice: once the second one is gone, all that was there with the first one has been looked at.
        for _ in 0..2 {
            let (_, told) = harness.notify(Audience::User(bob.clone()), Some(&alice), "told").await;
            harness.applied(Topic::User(bob.key()), told).await;
            let said = said(&harness, group, &alice, 1).await[0];
            harness.sql("UPDATE notifications SET sent_at = sent_at - 86400000").await;
            age(&harness, group, said.position).await;
            harness.eventually("deleted", async || (harness.count(deleted).await == 0).then_some(())).await;
        }
        assert_eq!(harness.count(kept).await, 2, "{kept} while {deleted} go");
    }
}

async fn only_the_holder_of_a_shard_deletes(mut harness: Harness) {
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let acks = said(&harness, group, &alice, 5).await;
    age(&harness, group, acks[2].position).await;
    // This one keeps everything, and holds all leases; the second one would delete.
    harness.options.keep_messages = Some(Duration::from_hours(1));
    harness.options.retention_interval = Duration::from_millis(20);
    harness.start().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(harness.count("messages").await, 5);
    keep_an_hour(&mut harness).await;
    harness.eventually("deleted", async || (harness.count("messages").await == 2).then_some(())).await;
}

async fn what_could_not_be_applied_goes_as_messages_do(mut harness: Harness) {
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let mut acks = Vec::new();
    for _ in 0..3 {
        let payload = Bytes::from_static(b"not json");
        let (topic, id, made_at) = (Topic::Group(group), EventId::random(), harness.broker.now());
        acks.push(harness.broker.publish(Outgoing { topic, id, made_at, epoch: None, payload }).await.unwrap());
    }
    said(&harness, group, &alice, 1).await;
    assert_eq!(harness.count("dead_letters").await, 3);
    harness.sql(&format!("UPDATE dead_letters SET stored_at = stored_at - 86400000 WHERE seq <= {}", acks[1].position.seq)).await;
    keep_an_hour(&mut harness).await;
    harness.eventually("deleted", async || (harness.count("dead_letters").await == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_old_postgres_is_asked_for_no_transaction() {
    let mut harness = Harness::postgres().await;
    let zed = user("zed");
    harness
        .sql(
            "INSERT INTO users (id, key, handle, display_name, placeholder, created_at) \
             SELECT 'u' || n, gen_random_uuid(), 'u' || n, 'u', FALSE, 0 FROM generate_series(1, 1000) n",
        )
        .await;
    let (_, ack) = harness.notify(Audience::User(zed.clone()), None, "text").await;
    harness.applied(Topic::User(zed.key()), ack).await;
    let now = harness.broker.now().0;
    harness
        .sql(&format!(
            "INSERT INTO notifications (recipient, id, epoch, seq, nonce, body, sent_at) \
             SELECT id, gen_random_uuid(), 1, 1000000, gen_random_uuid(), 'text', {now} FROM users WHERE id <> 'zed'"
        ))
        .await;
    // Each that finds nothing to do is rolled back.
    let rolled_back = async |harness: &Harness| {
        let sql = "SELECT xact_rollback AS n FROM pg_stat_database WHERE datname = current_database()";
        harness.rows(sql).await[0].try_get::<i64>("", "n").unwrap()
    };
    let before = rolled_back(&harness).await;
    harness.sql("UPDATE notifications SET sent_at = sent_at - 86400000 WHERE recipient = 'zed'").await;
    keep_an_hour(&mut harness).await;
    // Who comes last: all others were looked at before.
    harness.eventually("deleted", async || (harness.count("notifications").await == 1000).then_some(())).await;
    // What a connection counts is told when it ends, at the latest.
    harness.stop().await;
    let own = i64::from(harness.database.get_postgres_connection_pool().size());
    let others = "pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'";
    harness.eventually("its connections end", async || (harness.count(others).await <= own).then_some(())).await;
    let more = rolled_back(&harness).await - before;
    assert!(more < 100, "{more} transactions");
}
