//! What is addressed to a user: notifications, their counts, how far a group is read.

use std::time::Duration;

use anyhow::Result;
use natter_shared::id::Nonce;
use natter_tests::{
    client::{ANSWER, Client, groups_of},
    cluster::{Cluster, Store},
    token::User,
};
use serde_json::{Value, json};

super::on_both_stores!(
    notifications_reach_their_recipient_and_are_counted_until_seen,
    a_group_is_notified_as_one,
    reading_is_remembered_and_told_to_the_users_other_connections,
);

fn notify(to: &Value, body: &str) -> Value {
    json!({"type": "notify", "to": to, "nonce": Nonce::now(), "body": body})
}

async fn counts(client: &Client, unseen: u64) -> Result<Value> {
    let what = format!("{unseen} unseen");
    let is_it = |push: &&Value| push["type"] == "inbox";
    let last_is = move |record: &natter_tests::record::Record| {
        record.pushes.iter().rfind(is_it).filter(|push| push["unseen"] == json!(unseen)).cloned()
    };
    client.wait_until(&what, ANSWER, last_is).await
}

async fn notifications_reach_their_recipient_and_are_counted_until_seen(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let mut ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let other = Client::connect(cluster.gateway(0), &User::named("ben")).await?;
    let to_ben = notify(&json!({"user": "id-ben"}), "look here");
    let reply = ann.request(to_ben.clone()).await?;
    let again = ann.request(to_ben).await?;
    assert_eq!(again["notification_id"], reply["notification_id"], "a retry is the same notification");
    for client in [&ben, &other] {
        let push = client.wait_for("the notification", ANSWER, |push| push["type"] == "notification").await?;
        assert_eq!(push["id"], reply["notification_id"]);
        assert_eq!((&push["sender"], &push["body"]), (&json!("id-ann"), &json!("look here")));
        let inbox = counts(client, 1).await?;
        assert_eq!(inbox["unread"], 1);
    }
    ben.disconnect();
    let second = ann.request(notify(&json!({"user": "id-ben"}), "and here")).await?;
    let ready = ben.reconnect(cluster.gateway(0)).await?;
    assert_eq!(ready["inbox_recovered"], true, "{ready}");
    let push = ben.wait_for("what was missed", ANSWER, |push| push["body"] == "and here").await?;
    assert_eq!(push["id"], second["notification_id"]);
    counts(&other, 2).await?;
    ben.request(json!({"type": "seen", "ids": [reply["notification_id"]]})).await?;
    counts(&other, 1).await?;
    ben.request(json!({"type": "seen", "upto": second["position"]})).await?;
    counts(&other, 0).await?;
    for (id, mark, unread) in [(&reply["notification_id"], "read", 1), (&second["notification_id"], "archived", 0)] {
        ben.request(json!({"type": "seen", "ids": [id], "mark": mark})).await?;
        other.wait_for("fewer unread", ANSWER, |push| push["type"] == "inbox" && push["unread"] == unread).await?;
    }
    let mut fresh = Client::new(&User::named("ben"));
    let ready = fresh.reconnect(cluster.gateway(1)).await?;
    assert_eq!(ready["inbox"]["unseen"], 0, "{ready}");
    let sql = cluster.sql().await?;
    assert_eq!(sql.count("SELECT COUNT(*) FROM notifications WHERE recipient = 'id-ben'").await?, 2);
    let heard = other.record(|record| record.pushes.iter().filter(|push| push["type"] == "notification").count());
    assert_eq!(heard, 2, "each once");
    Ok(())
}

async fn a_group_is_notified_as_one(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let mut members = Vec::new();
    for (number, name) in ["ann", "ben", "cid"].into_iter().enumerate() {
        let client = Client::connect(cluster.gateway(number % 2), &User::named(name)).await?;
        client.join("lobby").await?;
        members.push(client);
    }
    let outsider = Client::connect(cluster.gateway(0), &User::named("dan")).await?;
    let refused = outsider.request(notify(&json!({"group": "lobby"}), "psst")).await.expect_err("no member");
    assert_eq!(refused.code(), "not_found", "{refused}");
    let reply = members[0].request(notify(&json!({"group": "lobby"}), "all of you")).await?;
    for member in &members[1..] {
        let push = member.wait_for("the notification", ANSWER, |push| push["type"] == "notification").await?;
        assert_eq!((&push["id"], &push["body"]), (&reply["notification_id"], &json!("all of you")));
    }
    let sql = cluster.sql().await?;
    let rows = "SELECT COUNT(*) FROM notifications WHERE recipient IN ('id-ben', 'id-cid')";
    super::chat::wait_until("their rows", async || sql.count(rows).await.unwrap_or_default() == 2).await;
    assert_eq!(sql.count("SELECT COUNT(*) FROM notifications WHERE recipient = 'id-dan'").await?, 0);
    Ok(())
}

async fn reading_is_remembered_and_told_to_the_users_other_connections(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let tab = Client::connect(cluster.gateway(0), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    let mut sent = Vec::new();
    for number in 0..3 {
        sent.push(ann.send(group, &format!("{number}")).await?);
    }
    ben.wait_for_body("2").await?;
    ben.request(json!({"type": "read", "group": group, "position": sent[1].position})).await?;
    let push = tab.wait_for("read", ANSWER, |push| push["type"] == "read").await?;
    assert_eq!((&push["group"], &push["position"]), (&json!(group), &json!(sent[1].position)));
    let state = async || -> Result<Value> {
        let mut fresh = Client::new(&User::named("ben"));
        Ok(groups_of(&fresh.reconnect(cluster.gateway(1)).await?).remove(&group.0).expect("a group"))
    };
    // Counts are of SQL, which follows.
    let until = tokio::time::Instant::now() + ANSWER;
    loop {
        let state = state().await?;
        if state["unread"] == 1 && state["last_read"] == json!(sent[1].position) {
            return Ok(());
        }
        assert!(tokio::time::Instant::now() < until, "{state}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
