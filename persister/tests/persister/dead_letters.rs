//! What cannot be applied is kept with its reason, and keeps nothing else up.

use bytes::Bytes;
use natter_shared::{
    broker::{Broker, Outgoing},
    event::GroupKind,
    id::EventId,
    subject::Topic,
};
use sea_orm::DbBackend;

use crate::{
    harness::{Harness, user},
    on_both,
};

on_both!(an_event_the_database_refuses_is_singled_out, what_cannot_be_read_is_kept_as_it_came);

async fn an_event_the_database_refuses_is_singled_out(mut harness: Harness) {
    let alice = user("alice");
    let (group, ack) = harness.create(GroupKind::Group, &[&alice]).await;
    harness.applied(Topic::Group(group), ack).await;
    harness
        .sql(match harness.database.get_database_backend() {
            DbBackend::Sqlite => {
                "CREATE TRIGGER no_poison BEFORE INSERT ON messages WHEN NEW.body = 'poison' BEGIN SELECT RAISE(ABORT, 'no'); END"
            }
            _ => "ALTER TABLE messages ADD CONSTRAINT no_poison CHECK (body <> 'poison')",
        })
        .await;
    // One batch with two of them in it.
    harness.stop().await;
    let mut last = ack;
    for n in 0..100 {
        let body = if n == 17 || n == 71 { "poison".to_owned() } else { n.to_string() };
        last = harness.say(group, &alice, &body).await;
    }
    harness.start().await;
    harness.applied(Topic::Group(group), last).await;
    assert_eq!(harness.count("messages").await, 98);
    assert_eq!(harness.count("dead_letters").await, 2);
    assert_eq!(harness.count("messages WHERE ordinal > 98").await, 0);
    let letter = &harness.rows("SELECT payload FROM dead_letters LIMIT 1").await[0];
    let payload: Vec<u8> = letter.try_get("", "payload").unwrap();
    assert!(String::from_utf8(payload).unwrap().contains("poison"));
}

async fn what_cannot_be_read_is_kept_as_it_came(harness: Harness) {
    let alice = user("alice");
    let (group, _) = harness.create(GroupKind::Group, &[&alice]).await;
    let topic = Topic::Group(group);
    for payload in [&b"not json"[..], br#"{"type":"dance"}"#, b"\xff\0", br#"{"type":"read"}"#] {
        let outgoing =
            Outgoing { topic, id: EventId::random(), made_at: harness.broker.now(), epoch: None, payload: Bytes::from_static(payload) };
        harness.broker.publish(outgoing).await.unwrap();
    }
    harness.say(group, &alice, "with \0 in it").await;
    let last = harness.say(group, &alice, "fine").await;
    harness.applied(topic, last).await;
    let expected = if harness.database.get_database_backend() == DbBackend::Postgres { 5 } else { 4 };
    assert_eq!(harness.count("dead_letters").await, expected);
    assert_eq!(harness.count("messages WHERE body = 'fine'").await, 1);
    let told = |reason: &str| harness.metric(&format!("natter_persister_dead_letters_total{{reason=\"{reason}\"}}"));
    assert_eq!(told("undecodable"), ["natter_persister_dead_letters_total{reason=\"undecodable\"} 4"]);
    assert_eq!(told("nonce_reused"), ["natter_persister_dead_letters_total{reason=\"nonce_reused\"} 0"]);
}
