//! A user's copy of everything, and a user's end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use natter_persister::admin::{self, Command, UserCommand};
use natter_shared::{
    broker::{Broker, Delivery, Interest, Outgoing},
    event::{Audience, Data, Ephemeral, Event, GroupKind, Message, Notification, SeenWhat},
    frame::ErrorCode,
    id::{EventId, GroupId, Nonce, NotificationId, UserId},
    position::{Epoch, Position},
    rpc::{CreateSingle, FindMembership, FindUser, Groups, ListNotifications, ListUsers, MessageHistory, SignIn},
    subject::Topic,
};

use crate::{
    harness::{Harness, message, user},
    on_both,
};

on_both!(
    an_export_has_all_that_is_stored_of_a_user,
    an_export_has_no_words_of_others_that_name_the_user,
    what_an_erasure_by_an_earlier_release_left_is_dropped,
    an_export_has_what_was_said_where_nobody_else_is,
    an_erased_user_is_gone_and_others_keep_what_is_theirs,
    an_erasure_goes_on_after_a_crash,
    what_was_on_its_way_when_the_user_left_is_erased_too,
    nobody_unknown_is_erased,
    requests_of_other_persisters_hold_up_none,
);

pub(crate) async fn erase(harness: &Harness, who: &UserId) -> Result<(), admin::AdminError> {
    let command = Command::User(UserCommand::Erase { id: who.clone(), no_wait: false, timeout: 40 });
    admin::run(command, &harness.options.database).await
}

async fn export(harness: &Harness, who: &UserId) -> Vec<serde_json::Value> {
    let mut out = Vec::new();
    admin::export(who, &harness.options.database, &mut out).await.unwrap();
    String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Alice and Bob, a group and a room for two, with something of each in everything.
async fn lives(harness: &Harness) -> (UserId, UserId, GroupId, GroupId) {
    let (alice, bob) = (user("alice-id"), user("bob-id"));
    for (user, handle) in [(&alice, "al\"ice"), (&bob, "bob")] {
        let call = SignIn {
            user: user.clone(),
            handle: Some(handle.into()),
            display_name: Some(format!("{handle} secret")),
            limit: 1,
            issued_at: None,
        };
        harness.call(call).await.unwrap();
    }
    let (group, ack) = harness.create(GroupKind::Group, &[&alice, &bob]).await;
    harness.applied(Topic::Group(group), ack).await;
    let single = harness.call(CreateSingle { user: alice.clone(), other: bob.clone(), by_back_end: false }).await.unwrap().reply.group;
    for at in [group, single] {
        harness.say(at, &alice, "alice secret").await;
        let last = harness.say(at, &bob, "bob says").await;
        harness.applied(Topic::Group(at), last).await;
        let read = harness.read(&alice, at, last.position).await;
        harness.applied(Topic::User(alice.key()), read).await;
    }
    let said = [
        (Audience::User(alice.clone()), &bob, "to alice secret"),
        (Audience::User(bob.clone()), &alice, "from alice secret"),
        (Audience::Group(group), &alice, "from alice to all secret"),
        (Audience::Group(group), &bob, "from bob to all"),
    ];
    for (to, sender, body) in said {
        let topic = match &to {
            Audience::User(user) => Topic::User(user.key()),
            Audience::Group(group) => Topic::Group(*group),
        };
        let (_, ack) = harness.notify(to, Some(sender), body).await;
        harness.applied(topic, ack).await;
    }
    let other = NotificationId::derive(&alice, Nonce::now());
    for what in [SeenWhat::Upto(Position::new(Epoch(1), 1)), SeenWhat::Ids(vec![other])] {
        let ack = harness.seen(&alice, what, false).await;
        harness.applied(Topic::User(alice.key()), ack).await;
    }
    assert_eq!(harness.count("marked_upto WHERE recipient = 'alice-id'").await, 1);
    assert_eq!(harness.count("inbox_state WHERE recipient = 'alice-id'").await, 1);
    // One that could not be applied: kept with all it says.
    let ack = harness
        .publish(Topic::Group(single), EventId::random(), &Event::Message(message(group, &alice, Nonce::now(), "misplaced secret")))
        .await;
    harness.applied(Topic::Group(single), ack).await;
    assert_eq!(harness.count("dead_letters").await, 1);
    (alice, bob, group, single)
}

async fn an_export_has_all_that_is_stored_of_a_user(harness: Harness) {
    let (alice, ..) = lives(&harness).await;
    let lines = export(&harness, &alice).await;
    let of = |kind: &str| lines.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    assert_eq!((of("profile").len(), of("membership").len(), of("read_mark").len(), of("message").len()), (1, 2, 2, 2));
    assert_eq!(of("profile")[0]["handle"], "al\"ice");
    assert_eq!(of("inbox_mark").len(), 1);
    assert_eq!((&of("inbox_mark")[0]["mark"], &of("inbox_mark")[0]["position"]), (&"seen".into(), &"1.1".into()));
    assert!(of("message").iter().all(|message| message["body"] == "alice secret"));
    let bodies = |kind| of(kind).iter().map(|line| line["body"].as_str().unwrap().to_owned()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(bodies("notification_received"), ["from bob to all", "to alice secret"].map(str::to_owned).into());
    assert_eq!(bodies("notification_sent"), ["from alice secret", "from alice to all secret"].map(str::to_owned).into());
    assert_eq!(of("notification_sent").len(), 2);
    assert_eq!(of("notification_sent").iter().filter(|line| line["recipient"] == "bob-id").count(), 1);
    assert_eq!(of("dead_letter").len(), 1);
    assert_eq!(of("dead_letter")[0]["event"]["body"], "misplaced secret", "{:?}", of("dead_letter"));
}

async fn an_export_has_what_was_said_where_nobody_else_is(harness: Harness) {
    let (alice, bob) = (user("alice"), user("bob"));
    harness.sign_in(&alice, None).await;
    harness.sign_in(&bob, None).await;
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let (id, ack) = harness.notify(Audience::Group(group), Some(&alice), "to nobody").await;
    harness.applied(Topic::Group(group), ack).await;
    let lines = export(&harness, &alice).await;
    let sent: Vec<_> = lines.iter().filter(|line| line["type"] == "notification_sent").collect();
    assert_eq!(sent.len(), 1, "{lines:?}");
    assert_eq!(
        (&sent[0]["id"], &sent[0]["body"], &sent[0]["group"]),
        (&id.to_string().into(), &"to nobody".into(), &group.to_string().into())
    );
    assert_eq!(export(&harness, &bob).await.len(), 1, "the profile");
}

/// Bob's to Carol, which could not be applied, has Alice's name in what he attached.
async fn an_export_has_no_words_of_others_that_name_the_user(harness: Harness) {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(user);
    for user in [&alice, &bob, &carol] {
        harness.sign_in(user, None).await;
    }
    let (group, _) = harness.create(GroupKind::Group, &[&bob, &carol]).await;
    let (elsewhere, _) = harness.create(GroupKind::Group, &[&bob, &carol]).await;
    let about = serde_json::from_str::<Data>(r#"{"about":"alice"}"#).unwrap();
    let misplaced = Message { data: Some(about), ..message(elsewhere, &bob, Nonce::now(), "private") };
    let topic = Topic::Group(group);
    harness.publish(topic, EventId::random(), &Event::Message(misplaced)).await;
    let payload = Bytes::from_static(br#"{"type":"dance","with":"alice","say":"private"}"#);
    let unread = Outgoing { topic, id: EventId::random(), made_at: harness.broker.now(), epoch: None, payload };
    let ack = harness.broker.publish(unread).await.unwrap();
    harness.applied(topic, ack).await;
    assert_eq!(harness.count("dead_letters").await, 2);
    let letters = async |who: &UserId| {
        let lines = export(&harness, who).await;
        lines.into_iter().filter(|line| line["type"] == "dead_letter").collect::<Vec<_>>()
    };
    let of_alice = letters(&alice).await;
    assert_eq!(of_alice.len(), 1, "the one that nobody can read: {of_alice:?}");
    assert_eq!(of_alice[0]["position"], ack.position.to_string());
    assert!(!of_alice[0].to_string().contains("private") && of_alice[0].get("reason").is_none(), "{of_alice:?}");
    assert_eq!(letters(&bob).await[0]["event"]["body"], "private");
}

/// An erased user's row that an erasure by the release before left; others keep theirs.
async fn what_an_erasure_by_an_earlier_release_left_is_dropped(mut harness: Harness) {
    let (alice, ..) = lives(&harness).await;
    erase(&harness, &alice).await.unwrap();
    harness.stop().await;
    let rows = ["alice-id", "bob-id"].map(|user| format!("('{user}', 'seen', 1, 1)")).join(", ");
    harness.sql(&format!("INSERT INTO marked_upto (recipient, mark, epoch, seq) VALUES {rows}")).await;
    harness.start().await;
    harness.eventually("dropped", async || (harness.count("marked_upto WHERE recipient = 'alice-id'").await == 0).then_some(())).await;
    assert_eq!(harness.count("marked_upto").await, 1, "Bob's");
}

/// Every text of every table, as the database has it.
async fn everything(harness: &Harness) -> String {
    let mut out = String::new();
    let json = match harness.database.get_database_backend() {
        sea_orm::DbBackend::Sqlite => None,
        _ => Some(()),
    };
    for table in harness.tables().await {
        if json.is_some() {
            let sql = format!("SELECT CAST(row_to_json(t) AS text) AS line FROM (SELECT * FROM {table}) t");
            for row in harness.rows(&sql).await {
                out.push_str(&row.try_get::<String>("", "line").unwrap());
            }
            continue;
        }
        for column in harness.rows(&format!("SELECT name FROM pragma_table_info('{table}')")).await {
            let column: String = column.try_get("", "name").unwrap();
            for row in harness.rows(&format!("SELECT CAST({column} AS text) AS text FROM {table}")).await {
                out.push_str(&row.try_get::<Option<String>>("", "text").unwrap_or_default().unwrap_or_default());
                out.push('\n');
            }
        }
    }
    // PostgreSQL shows bytes in hex.
    out.replace(&data_encoding::HEXLOWER.encode(b"secret"), "secret")
}

async fn an_erased_user_is_gone_and_others_keep_what_is_theirs(harness: Harness) {
    let (alice, bob, group, single) = lives(&harness).await;
    assert!(everything(&harness).await.contains("alice secret"));
    let mut live = harness.broker.subscribe(Interest::Topic(Topic::User(alice.key()))).await.unwrap();
    erase(&harness, &alice).await.unwrap();
    let kept = everything(&harness).await;
    for table in ["marked_upto", "inbox_state"] {
        assert_eq!(harness.count(&format!("{table} WHERE recipient = 'alice-id'")).await, 0, "{table}");
    }
    for gone in ["alice secret", "to all secret", "misplaced secret", "al\"ice", "al\\\"ice"] {
        assert!(!kept.contains(gone), "{gone} is still there");
    }
    assert!(kept.contains("bob says") && kept.contains("from bob to all"));
    // Connections are told to close.
    let mut batch = Vec::new();
    let told = tokio::time::timeout(Duration::from_secs(10), async {
        while live.next_batch(&mut batch, 100).await {
            for delivery in batch.drain(..) {
                if let Delivery::Ephemeral { payload, .. } = delivery
                    && let Ok(Ephemeral::Disconnect { reconnect: false }) = serde_json::from_slice(&payload)
                {
                    return true;
                }
            }
        }
        false
    });
    assert!(told.await.expect("told"));
    // Memberships ended by events that everybody saw.
    for at in [group, single] {
        assert!(harness.call(FindMembership { user: alice.clone(), group: at }).await.unwrap().reply.is_none());
        let log = harness.log_of(Topic::Group(at)).await;
        assert!(
            log.iter().any(|stored| matches!(Event::decode(&stored.payload), Ok(Event::MemberRemoved(removed)) if removed.user == alice))
        );
    }
    // Nobody finds her, and nobody can bring her into a group; her handle is free.
    assert!(harness.call(FindUser::Id(alice.clone())).await.unwrap().reply.is_none());
    assert!(harness.call(FindUser::Handle("al\"ice".into())).await.unwrap().reply.is_none());
    let all = ListUsers { user: None, prefix: String::new(), after: None, after_name: None, limit: 10 };
    assert_eq!(harness.call(all).await.unwrap().reply.users.len(), 1);
    let again = CreateSingle { user: bob.clone(), other: alice.clone(), by_back_end: false };
    assert_eq!(harness.call(again.clone()).await.unwrap_err().code, ErrorCode::NotFound);
    // Bob's counts and history are as long as they were.
    let groups = harness.call(Groups { user: bob.clone(), after: None, limit: 10 }).await.unwrap().reply.groups;
    assert!(groups.iter().all(|group| group.unread == 2), "{groups:?}");
    assert_eq!(groups.iter().find(|membership| membership.group == single).unwrap().display_name, "bob_with_erased");
    let history = MessageHistory { user: Some(bob.clone()), group, before: None, after: None, limit: 10 };
    let page = harness.call(history).await.unwrap().reply;
    let bodies: Vec<_> = page.messages.into_iter().filter_map(|event| event.event.into_message()).map(|message| message.body).collect();
    assert_eq!(bodies, ["", "bob says"]);
    let inbox = ListNotifications { user: bob.clone(), before: None, archived: false, unseen: false, limit: 10 };
    let inbox = harness.call(inbox).await.unwrap().reply;
    assert_eq!(inbox.notifications.len(), 2);
    assert!(inbox.notifications.iter().all(|entry| entry.body.is_empty()));
    // Again is harmless; and a token still brings somebody in, as somebody new.
    erase(&harness, &alice).await.unwrap();
    let call = SignIn { user: alice.clone(), handle: Some("alice2".into()), display_name: None, limit: 10, issued_at: None };
    let back = harness.call(call).await.unwrap().reply;
    assert_eq!((back.profile.handle.as_str(), back.profile.display_name.as_str(), back.groups.len()), ("alice2", "alice2", 0));
    assert_eq!(harness.call(again).await.unwrap().reply.display_name, "bob_with_alice2");
    assert!(harness.call(FindMembership { user: alice, group: single }).await.unwrap().reply.is_some());
}

async fn an_erasure_goes_on_after_a_crash(mut harness: Harness) {
    let (alice, bob, group, _) = lives(&harness).await;
    let mut last = None;
    for n in 0..30 {
        last = Some(harness.say(group, if n % 2 == 0 { &alice } else { &bob }, "more secret").await);
    }
    harness.applied(Topic::Group(group), last.unwrap()).await;
    harness.abort().await;
    let command = Command::User(UserCommand::Erase { id: alice.clone(), no_wait: true, timeout: 1 });
    admin::run(command, &harness.options.database).await.unwrap();
    // As if it had died after half of the messages.
    let half = harness.rows("SELECT id FROM messages ORDER BY id LIMIT 1 OFFSET 17").await[0].try_get::<uuid::Uuid>("", "id").unwrap();
    harness.sql(&format!("UPDATE erasures SET stage = 'messages', after_id = '[\"{half}\"]'")).await;
    harness.start().await;
    harness.eventually("erased", async || (harness.count("erasures WHERE finished_at IS NOT NULL").await == 1).then_some(())).await;
    let emptied = harness.count("messages WHERE sender = 'alice-id' AND body = ''").await;
    assert!(emptied > 5 && emptied < 17, "what came before was done, and is not done again: {emptied}");
    assert_eq!(harness.count("messages WHERE sender = 'bob-id' AND body = ''").await, 0);
}

async fn what_was_on_its_way_when_the_user_left_is_erased_too(mut harness: Harness) {
    harness.stop().await;
    harness.options.last_words = Duration::from_secs(10);
    harness.start().await;
    let (alice, bob, group, single) = lives(&harness).await;
    let command = Command::User(UserCommand::Erase { id: alice.clone(), no_wait: true, timeout: 1 });
    admin::run(command, &harness.options.database).await.unwrap();
    let remains = "members WHERE user_id = 'alice-id' AND until_epoch IS NULL";
    harness.eventually("left", async || (harness.count(remains).await == 0).then_some(())).await;
    // What a gateway took before that, and gets stored now.
    let (left, made_at) = (Instant::now(), harness.broker.now());
    let mut late = 0;
    while left.elapsed() < Duration::from_secs(2) {
        let nonce = Nonce::now();
        let notification = |to| {
            let id = NotificationId::derive(&alice, nonce);
            let body = "late secret".to_owned();
            Notification { id, to, sender: Some(alice.clone()), nonce, body, data: None }
        };
        let said = message(group, &alice, nonce, "late secret");
        let (direct, shared) = (notification(Audience::User(bob.clone())), notification(Audience::Group(group)));
        let all = [
            (Topic::Group(group), said.id.into(), Event::Message(said.clone())),
            // One that cannot be applied.
            (Topic::Group(single), EventId::random(), Event::Message(said)),
            match late % 2 {
                0 => (Topic::User(bob.key()), direct.id.into(), Event::Notification(direct)),
                _ => (Topic::Group(group), shared.id.into(), Event::Notification(shared)),
            },
        ];
        for (topic, id, event) in all {
            let payload = event.encode().unwrap();
            harness.broker.publish(Outgoing { topic, id, made_at, epoch: None, payload }).await.unwrap();
        }
        late += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    harness.eventually("erased", async || (harness.count("erasures WHERE finished_at IS NOT NULL").await == 1).then_some(())).await;
    assert_eq!(harness.count("messages WHERE sender = 'alice-id'").await, 2 + late, "all of them count");
    assert!(!everything(&harness).await.contains("late secret"));
}

async fn nobody_unknown_is_erased(harness: Harness) {
    let error = erase(&harness, &user("nobody")).await.unwrap_err();
    assert!(error.to_string().contains("no user"), "{error}");
    assert_eq!(harness.count("erasures").await, 0);
}

/// The oldest are of a shard whose holder does nothing about them.
async fn requests_of_other_persisters_hold_up_none(harness: Harness) {
    harness.lease_to_the_dead(0..1, Duration::from_mins(5)).await;
    let first = || harness.metric("natter_persister_applied_seq").into_iter().any(|line| line.contains("shard=\"0\""));
    harness.eventually("the first shard is another's", async || (!first()).then_some(())).await;
    let is_elsewhere = |user: &UserId| harness.shard(Topic::User(user.key())).0 == 0;
    let users = |prefix: &'static str| (0..).map(move |number| user(&format!("{prefix}{number}")));
    let elsewhere = users("e").filter(is_elsewhere).take(150).map(|user| (user, 1));
    let here = users("h").filter(|user| !is_elsewhere(user)).take(3).map(|user| (user, 2));
    let rows: Vec<String> = elsewhere.chain(here).map(|(user, requested_at)| format!("('{user}', {requested_at}, 'messages')")).collect();
    harness.sql(&format!("INSERT INTO erasures (user_id, requested_at, stage) VALUES {}", rows.join(", "))).await;
    harness.eventually("carried out", async || (harness.count("erasures WHERE finished_at IS NOT NULL").await == 3).then_some(())).await;
    assert_eq!(harness.count("erasures WHERE finished_at IS NULL AND requested_at = 1").await, 150);
}
