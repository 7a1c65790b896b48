//! Notifications: to whom they go, and what their recipients do with them.

use natter_shared::{
    broker::{Broker, Delivery, Interest, Subscription},
    event::{Audience, Ephemeral, Event, GroupKind, InboxCounts, MemberAdded, MemberRemoved, Role, Seen, SeenWhat},
    frame::ErrorCode,
    id::{EventId, Nonce, NotificationId, UserId},
    position::Position,
    rpc::{ChatPage, CountInbox, EventsAfter, InboxCursor, ListNotifications, TellInboxes},
    subject::Topic,
};

use crate::{
    harness::{Harness, user},
    on_both,
};

on_both!(
    a_group_notification_goes_to_the_members_of_its_moment,
    seen_may_come_before_its_notification,
    seen_touches_only_ones_own,
    seen_upto_covers_the_users_topic_up_to_there,
    changed_inboxes_are_announced,
    what_was_not_told_is_told_by_the_next,
    counts_are_told_to_who_is_asked_for,
    counts_are_of_the_newest,
    a_page_is_looked_for_in_so_many_and_the_next_goes_on_after_them,
    what_is_marked_by_its_position_is_gone_through_once,
);

/// Lists are in the order of time, by the millisecond.
async fn in_the_next_millisecond() {
    let then = Nonce::now().millis();
    while Nonce::now().millis() == then {
        tokio::task::yield_now().await;
    }
}

async fn a_group_notification_goes_to_the_members_of_its_moment(mut harness: Harness) {
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    harness.stop().await;
    // All of it in one batch.
    let (group, _) = harness.create(GroupKind::Group, &[&alice, &bob]).await;
    let topic = Topic::Group(group);
    let to = || Audience::Group(group);
    let (first, _) = harness.notify(to(), Some(&alice), "first").await;
    let added = MemberAdded { group, user: carol.clone(), role: Role::Member, by: Some(alice.clone()) };
    harness.publish(topic, EventId::random(), &Event::MemberAdded(added)).await;
    let (second, _) = harness.notify(to(), Some(&alice), "second").await;
    let removed = MemberRemoved { group, user: bob.clone(), by: Some(alice.clone()) };
    harness.publish(topic, EventId::random(), &Event::MemberRemoved(removed)).await;
    in_the_next_millisecond().await;
    let (third, last) = harness.notify(to(), None, "third").await;
    harness.start().await;
    harness.applied(topic, last).await;
    let recipients = async |id: NotificationId| -> Vec<String> {
        let rows = harness.rows("SELECT recipient, id FROM notifications ORDER BY recipient").await;
        let of = rows.iter().filter(|row| row.try_get::<uuid::Uuid>("", "id").unwrap() == id.0);
        of.map(|row| row.try_get("", "recipient").unwrap()).collect()
    };
    assert_eq!(recipients(first).await, ["bob"]);
    assert_eq!(recipients(second).await, ["bob", "carol"]);
    assert_eq!(recipients(third).await, ["alice", "carol"]);
    let page = harness.call(ChatPage { user: carol, notifications: 10, users: 10, groups: 10 }).await.unwrap().reply;
    let bodies: Vec<&str> = page.notifications.iter().map(|entry| entry.body.as_str()).collect();
    assert_eq!(bodies, ["third", "second"]);
    assert_eq!(page.notifications[1].sender.as_ref().unwrap().id, alice);
    assert_eq!((page.inbox.unseen, page.inbox.unread), (2, 2));
}

async fn seen_may_come_before_its_notification(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    let (group, ack) = harness.create(GroupKind::Group, &[&alice, &bob]).await;
    harness.applied(Topic::Group(group), ack).await;
    let nonce = Nonce::now();
    let id = NotificationId::derive(&alice, nonce);
    let seen = harness.seen(&bob, SeenWhat::Ids(vec![id]), true).await;
    harness.applied(Topic::User(bob.key()), seen).await;
    let notification = natter_shared::event::Notification {
        id,
        to: Audience::Group(group),
        sender: Some(alice.clone()),
        nonce,
        body: "seen already".into(),
        data: None,
    };
    let ack = harness.publish(Topic::Group(group), id.into(), &Event::Notification(notification)).await;
    harness.applied(Topic::Group(group), ack).await;
    let page = harness.call(ChatPage { user: bob, notifications: 10, users: 10, groups: 10 }).await.unwrap().reply;
    assert!(page.notifications[0].seen && page.notifications[0].read);
    assert_eq!((page.inbox.unseen, page.inbox.unread), (0, 0));
}

async fn seen_touches_only_ones_own(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    let (for_alice, _) = harness.notify(Audience::User(alice.clone()), None, "a").await;
    let (for_bob, ack) = harness.notify(Audience::User(bob.clone()), None, "b").await;
    harness.applied(Topic::User(bob.key()), ack).await;
    let ack = harness.seen(&alice, SeenWhat::Ids(vec![for_alice, for_bob]), true).await;
    harness.applied(Topic::User(alice.key()), ack).await;
    let counts = async |user| {
        let inbox = harness.sign_in(user, None).await.inbox;
        (inbox.unseen, inbox.unread)
    };
    assert_eq!(counts(&alice).await, (0, 0));
    assert_eq!(counts(&bob).await, (1, 1));
}

async fn seen_upto_covers_the_users_topic_up_to_there(harness: Harness) {
    let alice = user("alice");
    let mut acks = Vec::new();
    for n in 0..5 {
        acks.push(harness.notify(Audience::User(alice.clone()), None, &n.to_string()).await.1);
    }
    let topic = Topic::User(alice.key());
    let ack = harness.seen(&alice, SeenWhat::Upto(acks[2].position), false).await;
    harness.applied(topic, ack).await;
    let inbox = harness.sign_in(&alice, None).await.inbox;
    assert_eq!((inbox.unseen, inbox.unread), (2, 5));
    assert!(inbox.version >= ack.position);
    let ack = harness.seen(&alice, SeenWhat::Upto(acks[1].position), true).await;
    harness.applied(topic, ack).await;
    let inbox = harness.sign_in(&alice, None).await.inbox;
    assert_eq!((inbox.unseen, inbox.unread), (2, 3));
    let call = EventsAfter { user: Some(alice), group: None, after: acks[2].position, limit: 10 };
    let page = harness.call(call).await.unwrap().reply;
    assert_eq!(page.events.iter().map(|event| event.position).collect::<Vec<_>>(), [acks[3].position, acks[4].position]);
    assert!(page.complete && !page.more);
}

/// The counts that come next on a subscription.
async fn told(live: &mut Subscription) -> InboxCounts {
    let mut batch = Vec::new();
    let told = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        loop {
            assert!(live.next_batch(&mut batch, 10).await);
            for delivery in batch.drain(..) {
                if let Delivery::Ephemeral { payload, .. } = delivery {
                    return serde_json::from_slice::<Ephemeral>(&payload).unwrap();
                }
            }
        }
    });
    let Ephemeral::Inbox(counts) = told.await.expect("told") else { panic!("not an inbox") };
    counts
}

async fn changed_inboxes_are_announced(harness: Harness) {
    let alice = user("alice");
    let mut live = harness.broker.subscribe(Interest::Topic(Topic::User(alice.key()))).await.unwrap();
    let (_, ack) = harness.notify(Audience::User(alice.clone()), None, "look").await;
    let counts = told(&mut live).await;
    assert_eq!((counts.unseen, counts.unread), (1, 1));
    assert!(counts.version >= ack.position);
}

/// Committed, and then its persister ended: nobody knows whether it told.
async fn what_was_not_told_is_told_by_the_next(mut harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    let (group, _) = harness.create(GroupKind::Group, &[&alice, &bob]).await;
    let (_, first) = harness.notify(Audience::User(alice.clone()), None, "look").await;
    let (_, second) = harness.notify(Audience::Group(group), Some(&alice), "all of you").await;
    harness.applied(Topic::User(alice.key()), first).await;
    harness.applied(Topic::Group(group), second).await;
    harness.stop().await;
    let live_of = async |user: &UserId| harness.broker.subscribe(Interest::Topic(Topic::User(user.key()))).await.unwrap();
    let (mut for_alice, mut for_bob) = (live_of(&alice).await, live_of(&bob).await);
    harness.start().await;
    for live in [&mut for_alice, &mut for_bob] {
        let counts = told(live).await;
        assert_eq!((counts.unseen, counts.unread), (1, 1));
    }
}

async fn counts_are_told_to_who_is_asked_for(harness: Harness) {
    let alice = user("alice");
    let (_, ack) = harness.notify(Audience::User(alice.clone()), None, "look").await;
    harness.applied(Topic::User(alice.key()), ack).await;
    // What the notification itself brings has been told by the time that its second telling is.
    let mut live = harness.broker.subscribe(Interest::Topic(Topic::User(alice.key()))).await.unwrap();
    for _ in 0..2 {
        harness.call(TellInboxes { users: vec![alice.clone()] }).await.unwrap();
        let counts = told(&mut live).await;
        assert_eq!((counts.unseen, counts.unread), (1, 1));
    }
    let crowd = (0..=TellInboxes::MOST).map(|number| user(&format!("u{number}"))).collect();
    let refused = harness.call(TellInboxes { users: crowd }).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::BadRequest);
}

async fn counts_are_of_the_newest(mut harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    harness.stop().await;
    harness.options.inbox_counted = 3;
    harness.start().await;
    let mut last = None;
    for number in 0..5 {
        in_the_next_millisecond().await;
        last = Some(harness.notify(Audience::User(alice.clone()), None, &number.to_string()).await);
        let counted = harness.call_after(Topic::User(alice.key()), last.unwrap().1, CountInbox { user: alice.clone() }).await;
        let want = (number + 1).min(3);
        assert_eq!((counted.unseen, counted.unread), (want, want));
    }
    let (newest, _) = last.unwrap();
    let ack = harness.seen(&alice, SeenWhat::Ids(vec![newest]), false).await;
    let counted = harness.call_after(Topic::User(alice.key()), ack, CountInbox { user: alice.clone() }).await;
    assert_eq!((counted.unseen, counted.unread), (2, 3));
    let none = harness.call(CountInbox { user: bob }).await.unwrap().reply;
    assert_eq!((none.unseen, none.unread), (0, 0));
}

async fn archive(harness: &Harness, user: &UserId, what: SeenWhat) {
    let seen = Event::Seen(Seen { user: user.clone(), what, read: true, archived: true });
    let ack = harness.publish(Topic::User(user.key()), EventId::random(), &seen).await;
    harness.applied(Topic::User(user.key()), ack).await;
}

async fn a_page_is_looked_for_in_so_many_and_the_next_goes_on_after_them(mut harness: Harness) {
    harness.stop().await;
    harness.options.inbox_looked_through = 3;
    harness.start().await;
    let alice = user("alice");
    let mut ids = Vec::new();
    for number in 0..8 {
        in_the_next_millisecond().await;
        ids.push(harness.notify(Audience::User(alice.clone()), None, &number.to_string()).await.0);
    }
    archive(&harness, &alice, SeenWhat::Ids(ids.split_off(3))).await;
    // Sizes of all pages, and the texts in them.
    let pages = async |archived, unseen, limit| {
        let (mut before, mut sizes, mut texts): (Option<InboxCursor>, Vec<usize>, Vec<String>) = (None, Vec::new(), Vec::new());
        loop {
            let call = ListNotifications { user: alice.clone(), before, archived, unseen, limit };
            let page = harness.call(call).await.unwrap().reply;
            assert_eq!(page.more, page.next.is_some());
            sizes.push(page.notifications.len());
            texts.extend(page.notifications.into_iter().map(|entry| entry.body));
            match page.next {
                Some(next) => before = Some(next),
                None => return (sizes, texts),
            }
        }
    };
    for unseen in [false, true] {
        let (sizes, texts) = pages(false, unseen, 10).await;
        assert_eq!((sizes.as_slice(), texts), ([0, 1, 2].as_slice(), ["2", "1", "0"].map(str::to_owned).into()));
    }
    let (sizes, texts) = pages(true, false, 2).await;
    assert_eq!((sizes.as_slice(), texts), ([2, 2, 1, 0].as_slice(), ["7", "6", "5", "4", "3"].map(str::to_owned).into()));
    let page = harness.call(ChatPage { user: alice.clone(), notifications: 10, users: 10, groups: 10 }).await.unwrap().reply;
    assert!(page.notifications.is_empty(), "of the newest");
}

async fn what_is_marked_by_its_position_is_gone_through_once(harness: Harness) {
    let alice = user("alice");
    let topic = Topic::User(alice.key());
    let mut last = Position::START;
    for number in 0..3 {
        last = harness.notify(Audience::User(alice.clone()), None, &number.to_string()).await.1.position;
    }
    let mark = async |upto, read| {
        let ack = harness.seen(&alice, SeenWhat::Upto(upto), read).await;
        harness.applied(topic, ack).await;
    };
    let states = async || (harness.count("inbox_state").await, harness.count("inbox_state WHERE is_read").await);
    mark(last, false).await;
    assert_eq!(states().await, (3, 0));
    // What would be found anew, if it were looked for.
    harness.sql("DELETE FROM inbox_state").await;
    mark(last, false).await;
    assert_eq!(states().await, (0, 0));
    mark(last, true).await;
    assert_eq!(states().await, (3, 3), "more than seen");
    harness.sql("DELETE FROM inbox_state").await;
    let before = Position::new(last.epoch, last.seq - 1);
    for (upto, read) in [(last, true), (last, false), (before, true)] {
        mark(upto, read).await;
        assert_eq!(states().await, (0, 0), "{upto} {read}");
    }
    // A position that is still to come marks what there is, each time.
    let to_come = Position::new(last.epoch, u64::MAX >> 1);
    for number in 1..4 {
        harness.notify(Audience::User(alice.clone()), None, "later").await;
        mark(to_come, false).await;
        assert_eq!(states().await, (number, 0));
    }
    archive(&harness, &alice, SeenWhat::Upto(to_come)).await;
    assert_eq!(states().await, (6, 6));
}
