//! Lists as people see them: their groups, other users, their notifications; and what the
//! application's back end asks for.

use std::time::Duration;

use natter_shared::{
    event::{Audience, Event, GroupKind, Notification, Role, Seen, SeenWhat},
    frame::ErrorCode,
    id::{EventId, GroupId, Nonce, NotificationId, RoomName, UserId},
    rpc::{
        AddMember, ChatPage, CheckApiKey, CountInbox, CreateGroup, CreateSingle, EnsureGroup, FindGroup, FindMembership, Groups,
        InboxCursor, InboxEntry, ListGroups, ListNotifications, Members, MessageHistory, NewGroup, RemoveMember, RenameGroup,
    },
    subject::Topic,
};
use sea_orm::{ConnectionTrait, TransactionTrait};
use serde_json::value::RawValue;

use crate::{
    figures,
    harness::{Harness, user},
    on_both,
};

on_both!(
    groups_are_listed_with_their_last_message_and_the_other_one,
    notifications_come_newest_first_in_pages,
    archived_notifications_are_out_of_the_list_and_never_counted,
    a_page_of_notifications_is_cut_by_size,
    groups_are_renamed_and_still_found_by_their_nonce,
    the_back_end_makes_groups_and_finds_them,
    a_crowd_is_counted_up_to_a_bound,
    the_back_end_acts_without_being_a_member,
    a_key_is_known_by_its_hash_until_revoked,
);

async fn groups_are_listed_with_their_last_message_and_the_other_one(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    harness.sign_in(&alice, Some("Al")).await;
    harness.sign_in(&bob, Some("Bo")).await;
    let single = harness.call(CreateSingle { user: alice.clone(), other: bob.clone(), by_back_end: false }).await.unwrap().reply.group;
    let (quiet, ack) = harness.create(GroupKind::Group, &[&alice]).await;
    harness.applied(Topic::Group(quiet), ack).await;
    harness.say(single, &alice, "first").await;
    let long = "ü".repeat(300);
    let last = harness.say(single, &bob, &long).await;
    harness.applied(Topic::Group(single), last).await;
    let listed = harness.call(ListGroups { user: alice.clone(), after: None, limit: 10 }).await.unwrap().reply;
    assert_eq!((listed.groups.len(), listed.more), (2, false));
    let of = |group: GroupId| listed.groups.iter().find(|listed| listed.membership.group == group).unwrap();
    assert!(of(quiet).last_message.is_none() && of(quiet).other.is_none());
    let message = of(single).last_message.as_ref().unwrap();
    assert_eq!((message.position, &message.sender, message.body.clone()), (last.position, &bob, "ü".repeat(256)));
    let other = of(single).other.as_ref().unwrap();
    assert_eq!((&other.id, other.handle.as_str()), (&bob, "Bo"));
    assert_eq!(of(single).membership.unread, 2);
    // Each side is told its own name of it, whoever made it, wherever it is told.
    for (who, name) in [(&alice, "Al_with_Bo"), (&bob, "Bo_with_Al")] {
        let listed = harness.call(ListGroups { user: who.clone(), after: None, limit: 10 }).await.unwrap().reply;
        let listed = listed.groups.iter().find(|listed| listed.membership.group == single).unwrap();
        assert_eq!(listed.membership.display_name, name);
        let found = harness.call(FindMembership { user: who.clone(), group: single }).await.unwrap().reply.unwrap();
        assert_eq!(found.display_name, name);
        let signed_in = harness.sign_in(who, Some(&name[..2])).await;
        assert!(signed_in.groups.iter().any(|group| group.display_name == name));
        let page = harness.call(ChatPage { user: who.clone(), notifications: 1, users: 1, groups: 10 }).await.unwrap().reply;
        let shown = page.groups.iter().find(|shown| shown.membership.group == single).unwrap();
        assert!(shown.membership.display_name == name && shown.last_message.is_some() && shown.other.is_some());
        let hints = harness.log_of(Topic::User(who.key())).await;
        let hint = hints.iter().find_map(|stored| match Event::decode(&stored.payload).unwrap() {
            Event::GroupJoined(joined) if joined.group == single => Some(joined.display_name),
            _ => None,
        });
        assert_eq!(hint.as_deref(), Some(name));
    }
    let pages = harness.call(ListGroups { user: alice.clone(), after: None, limit: 1 }).await.unwrap().reply;
    assert!(pages.more);
    let after = Some(pages.groups[0].membership.group);
    let rest = harness.call(ListGroups { user: alice, after, limit: 1 }).await.unwrap().reply;
    assert!(rest.groups.len() == 1 && !rest.more);
}

fn page(who: &UserId) -> ListNotifications {
    ListNotifications { user: who.clone(), before: None, archived: false, unseen: false, limit: 50 }
}

fn bodies(entries: &[InboxEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.body.as_str()).collect()
}

async fn notifications_come_newest_first_in_pages(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    let (group, ack) = harness.create(GroupKind::Group, &[&alice, &bob]).await;
    harness.applied(Topic::Group(group), ack).await;
    let data = || Some(RawValue::from_string(r#"{"n":1}"#.into()).unwrap().into());
    let mut positions = Vec::new();
    for n in 0..6 {
        let to = if n % 2 == 0 { Audience::User(bob.clone()) } else { Audience::Group(group) };
        let topic = if n % 2 == 0 { Topic::User(bob.key()) } else { Topic::Group(group) };
        let nonce = Nonce::now();
        let id = NotificationId::derive(&alice, nonce);
        let notification = Notification { id, to, sender: Some(alice.clone()), nonce, body: n.to_string(), data: data() };
        let ack = harness.publish(topic, id.into(), &Event::Notification(notification)).await;
        harness.applied(topic, ack).await;
        positions.push(Some(ack.position));
    }
    let all = harness.call(page(&bob)).await.unwrap().reply;
    assert_eq!(bodies(&all.notifications), ["5", "4", "3", "2", "1", "0"]);
    assert!(all.notifications.iter().all(|entry| entry.data.as_ref().unwrap().get() == r#"{"n":1}"#));
    assert_eq!(all.notifications[0].group, Some(group));
    assert!(all.notifications.iter().rev().map(|entry| entry.position).eq(positions), "that of its topic");
    assert_eq!((all.inbox.unseen, all.more), (6, false));
    let (mut before, mut paged) = (None, Vec::new());
    loop {
        let next = harness.call(ListNotifications { before, limit: 4, ..page(&bob) }).await.unwrap().reply;
        let last = next.notifications.last().unwrap();
        before = Some(InboxCursor { sent_at: last.sent_at, id: last.id });
        paged.extend(next.notifications.iter().map(|entry| entry.body.clone()));
        if !next.more {
            break;
        }
    }
    assert_eq!(paged, ["5", "4", "3", "2", "1", "0"]);
    let ack = harness.seen(&bob, SeenWhat::Ids(vec![all.notifications[1].id, all.notifications[2].id]), false).await;
    harness.applied(Topic::User(bob.key()), ack).await;
    let unseen = harness.call(ListNotifications { unseen: true, ..page(&bob) }).await.unwrap().reply;
    assert_eq!(bodies(&unseen.notifications), ["5", "2", "1", "0"]);
    let counts = harness.call(CountInbox { user: bob }).await.unwrap().reply;
    assert_eq!((counts.unseen, counts.unread), (4, 6));
}

async fn archived_notifications_are_out_of_the_list_and_never_counted(harness: Harness) {
    let alice = user("alice");
    harness.sign_in(&alice, None).await;
    let topic = Topic::User(alice.key());
    let mut sent = Vec::new();
    for n in 0..5 {
        sent.push(harness.notify(Audience::User(alice.clone()), None, &n.to_string()).await);
        // Those of one millisecond are listed by id.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let archive = async |what| {
        let seen = Seen { user: alice.clone(), what, read: false, archived: true };
        let ack = harness.publish(topic, EventId::random(), &Event::Seen(seen)).await;
        harness.applied(topic, ack).await;
    };
    archive(SeenWhat::Ids(vec![sent[3].0])).await;
    let counts = async || {
        let inbox = harness.call(CountInbox { user: alice.clone() }).await.unwrap().reply;
        (inbox.unseen, inbox.unread)
    };
    assert_eq!(counts().await, (4, 4));
    archive(SeenWhat::Upto(sent[1].1.position)).await;
    assert_eq!(counts().await, (2, 2));
    let rest = harness.call(page(&alice)).await.unwrap().reply;
    assert_eq!(bodies(&rest.notifications), ["4", "2"]);
    let shown = harness.call(ChatPage { user: alice.clone(), notifications: 10, users: 1, groups: 1 }).await.unwrap().reply;
    assert_eq!(bodies(&shown.notifications), ["4", "2"]);
    let archived = harness.call(ListNotifications { archived: true, ..page(&alice) }).await.unwrap().reply;
    assert_eq!(bodies(&archived.notifications), ["3", "1", "0"]);
    assert!(archived.notifications.iter().all(|entry| entry.archived && entry.read && entry.seen));
    // Being seen again takes nothing out of the archive.
    let ack = harness.seen(&alice, SeenWhat::Ids(vec![sent[3].0]), false).await;
    harness.applied(topic, ack).await;
    assert_eq!(harness.count("inbox_state WHERE archived").await, 3);
}

async fn a_page_of_notifications_is_cut_by_size(harness: Harness) {
    let alice = user("alice");
    let body = "x".repeat(60_000);
    let mut last = None;
    for _ in 0..20 {
        last = Some(harness.notify(Audience::User(alice.clone()), None, &body).await.1);
    }
    harness.applied(Topic::User(alice.key()), last.unwrap()).await;
    let (mut before, mut seen) = (None, 0);
    loop {
        let next = harness.call(ListNotifications { before, ..page(&alice) }).await.unwrap().reply;
        assert!(next.notifications.len() <= 9);
        seen += next.notifications.len();
        before = next.notifications.last().map(|last| InboxCursor { sent_at: last.sent_at, id: last.id });
        if !next.more {
            break;
        }
    }
    assert_eq!(seen, 20);
}

async fn groups_are_renamed_and_still_found_by_their_nonce(harness: Harness) {
    let (alice, bob, eve) = (user("alice"), user("bob"), user("eve"));
    for user in [&alice, &bob, &eve] {
        harness.sign_in(user, None).await;
    }
    let nonce = Nonce::now();
    let create = |members: &[&UserId]| {
        let members = members.iter().map(|user| (*user).clone()).collect();
        harness.call(CreateGroup { user: alice.clone(), nonce, display_name: "ours".into(), members })
    };
    let group = create(&[&bob]).await.unwrap().reply.group;
    let rename = |by: Option<&UserId>, name: &str| harness.call(RenameGroup { by: by.cloned(), group, display_name: name.into() });
    let first = rename(Some(&alice), "theirs").await.unwrap().reply;
    assert_eq!(rename(Some(&alice), "theirs").await.unwrap().reply, first, "twice is once");
    let found = create(&[&bob]).await.unwrap().reply;
    assert_eq!((found.group, found.display_name.as_str()), (group, "theirs"), "the retry finds it under its new name");
    assert_eq!(create(&[&bob, &eve]).await.unwrap_err().code, ErrorCode::NonceReused);
    // Forth and back, as often as one likes.
    for name in ["ours", "theirs", "ours", "theirs"] {
        rename(None, name).await.unwrap();
        let groups = harness.call(Groups { user: bob.clone(), after: None, limit: 1 }).await.unwrap().reply;
        assert_eq!(groups.groups[0].display_name, name);
    }
    assert_eq!(rename(Some(&bob), "mine").await.unwrap_err().code, ErrorCode::Forbidden);
    assert_eq!(rename(Some(&eve), "mine").await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(rename(Some(&alice), " ").await.unwrap_err().code, ErrorCode::BadRequest);
    assert_eq!(rename(Some(&alice), &"x".repeat(257)).await.unwrap_err().code, ErrorCode::BadRequest);
    let single = harness.call(CreateSingle { user: alice.clone(), other: bob.clone(), by_back_end: false }).await.unwrap().reply.group;
    let call = RenameGroup { by: None, group: single, display_name: "x".into() };
    assert_eq!(harness.call(call).await.unwrap_err().code, ErrorCode::Forbidden);
    let call = RenameGroup { by: None, group: GroupId(uuid::Uuid::now_v7()), display_name: "x".into() };
    assert_eq!(harness.call(call).await.unwrap_err().code, ErrorCode::NotFound);
}

async fn the_back_end_makes_groups_and_finds_them(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    harness.sign_in(&alice, None).await;
    harness.sign_in(&bob, None).await;
    let nonce = Nonce::of_key("order-7");
    let ensure = |name: &str, members: &[(&UserId, Role)]| {
        let members = members.iter().map(|(user, role)| ((*user).clone(), *role)).collect();
        harness.call(EnsureGroup { group: NewGroup::Group { nonce, display_name: name.into(), members } })
    };
    let (one, other) = tokio::join!(ensure("Order 7", &[(&alice, Role::Admin)]), ensure("Order 7", &[(&alice, Role::Admin)]));
    let (one, other) = (one.unwrap().reply, other.unwrap().reply);
    assert_eq!((one.group, one.members, one.messages, one.kind), (other.group, 1, 0, GroupKind::Group));
    assert_eq!(ensure("Order 8", &[(&alice, Role::Admin)]).await.unwrap_err().code, ErrorCode::NonceReused);
    assert_eq!(ensure("Order 7", &[(&alice, Role::Member)]).await.unwrap_err().code, ErrorCode::NonceReused);
    harness.call(RenameGroup { by: None, group: one.group, display_name: "Order seven".into() }).await.unwrap();
    assert_eq!(ensure("Order 7", &[(&alice, Role::Admin)]).await.unwrap().reply.display_name, "Order seven");
    let members = vec![(user("nobody"), Role::Owner)];
    let unknown = NewGroup::Group { nonce: Nonce::now(), display_name: "x".into(), members };
    assert_eq!(harness.call(EnsureGroup { group: unknown }).await.unwrap_err().code, ErrorCode::NotFound);
    let open = |display_name: Option<&str>| {
        let (name, display_name) = (RoomName::room("Halle").unwrap(), display_name.map(str::to_owned));
        harness.call(EnsureGroup { group: NewGroup::Open { name, display_name } })
    };
    let made = open(Some("Die Halle")).await.unwrap().reply;
    assert_eq!((made.kind, made.display_name.as_str()), (GroupKind::Open, "Die Halle"));
    assert_eq!(open(None).await.unwrap().reply, made);
    harness.call(AddMember { by: None, group: one.group, user: bob.clone(), role: Role::Member }).await.unwrap();
    let said = harness.say(one.group, &bob, "hi").await;
    let found = harness.call_after(Topic::Group(one.group), said, FindGroup { group: one.group }).await.unwrap();
    assert_eq!((found.members, found.messages), (2, 1));
    assert!(harness.call(FindGroup { group: GroupId(uuid::Uuid::now_v7()) }).await.unwrap().reply.is_none());
}

async fn the_back_end_acts_without_being_a_member(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    harness.sign_in(&bob, None).await;
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let said = harness.say(group, &alice, "hi").await;
    harness.applied(Topic::Group(group), said).await;
    let history = |group| MessageHistory { user: None, group, before: None, after: None, limit: 10 };
    assert_eq!(harness.call(history(group)).await.unwrap().reply.messages.len(), 1);
    harness.call(AddMember { by: None, group, user: bob.clone(), role: Role::Owner }).await.unwrap();
    let members = |group| Members { user: None, group, after: None, limit: 10 };
    assert_eq!(harness.call(members(group)).await.unwrap().reply.members.len(), 2);
    assert!(harness.call(RemoveMember { by: None, group, user: bob }).await.unwrap().reply.until.is_some());
    let absent = GroupId(uuid::Uuid::now_v7());
    assert_eq!(harness.call(history(absent)).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(harness.call(members(absent)).await.unwrap_err().code, ErrorCode::NotFound);
}

async fn a_key_is_known_by_its_hash_until_revoked(harness: Harness) {
    let check = async |sha256: &str| harness.call(CheckApiKey { sha256: sha256.into() }).await.unwrap().reply;
    let id = uuid::Uuid::now_v7();
    let sql = match harness.database.get_database_backend() {
        sea_orm::DbBackend::Sqlite => format!("x'{}'", id.simple()),
        _ => format!("'{id}'"),
    };
    harness.sql(&format!("INSERT INTO api_keys (id, name, sha256, created_at) VALUES ({sql}, 'shop', 'aa', 1)")).await;
    let key = check("aa").await.unwrap();
    assert_eq!((key.id, key.name.as_str()), (id, "shop"));
    assert!(check("ab").await.is_none() && check("").await.is_none() && check("\0").await.is_none());
    harness.sql("UPDATE api_keys SET revoked_at = 2").await;
    assert!(check("aa").await.is_none());
}

/// As in an open group that all visitors come to.
async fn a_crowd_is_counted_up_to_a_bound(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    harness.sign_in(&bob, None).await;
    let (group, ack) = harness.create(GroupKind::Open, &[&alice]).await;
    harness.applied(Topic::Group(group), ack).await;
    let numbers = figures::numbers(&harness, 10_050);
    harness
        .sql(&format!(
            "INSERT INTO members (group_id, user_id, role, since_epoch, since_seq, since_ordinal, version) \
             SELECT g.id, 'visitor' || n, 'member', 1, 1, 0, 1 FROM groups g CROSS JOIN {numbers}"
        ))
        .await;
    assert_eq!(harness.call(FindGroup { group }).await.unwrap().reply.unwrap().members, 10_000);
    let add = AddMember { by: None, group, user: bob, role: Role::Member };
    assert_eq!(harness.call(add).await.unwrap_err().code, ErrorCode::TooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_a_group_is_there_is_told_without_a_look_at_its_members() {
    let harness = Harness::postgres().await;
    let (group, ack) = harness.create(GroupKind::Open, &[&user("alice")]).await;
    harness.applied(Topic::Group(group), ack).await;
    let locked = harness.database.begin().await.unwrap();
    locked.execute_unprepared("LOCK TABLE members IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let is_there = async |group| harness.call(Members { user: None, group, after: None, limit: 0 }).await;
    assert!(is_there(group).await.is_ok());
    assert_eq!(is_there(GroupId(uuid::Uuid::now_v7())).await.unwrap_err().code, ErrorCode::NotFound);
    locked.rollback().await.unwrap();
}
