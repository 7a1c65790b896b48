//! The chat-room protocol's socket and forms, byte for byte, over two gateways.

use std::time::Duration;

use anyhow::{Context, Result};
use natter_tests::{
    chatroom::ChatRoom,
    client::{ANSWER, Client},
    cluster::{Cluster, Store},
    http::HttpSession,
    token::User,
};
use serde_json::{Value, json};

use super::chat::wait_until;

/// Who signs in by name has the name as id and handle.
fn by_name(name: &str) -> User {
    User { id: name.to_owned(), handle: name.to_owned(), name: name.to_owned() }
}

super::on_both_stores!(chat_frames_are_exactly_those_of_the_original, notifications_are_found_on_the_next_page_until_seen);

async fn chat_frames_are_exactly_those_of_the_original(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let mut ann = ChatRoom::open(cluster.gateway(0), &by_name("ann"), "lobby").await?;
    let mut tab = ChatRoom::open(cluster.gateway(0), &by_name("ann"), "lobby").await?;
    let mut ben = ChatRoom::open(cluster.gateway(1), &by_name("ben"), "lobby").await?;
    let v1 = Client::connect(cluster.gateway(1), &by_name("cid")).await?;
    let group = v1.join("lobby").await?;
    // The room is the socket's own where no group is named.
    ann.chat(None, "hello").await?;
    let expected = json!({"type": "chat", "message": "hello", "group_name": group, "display_name": "lobby"});
    assert_eq!(ben.next(ANSWER).await?, expected);
    assert_eq!(tab.next(ANSWER).await?, expected, "the sender's other tab");
    v1.wait_for_body("hello").await?;
    ben.chat(Some(&group.to_string()), "hi").await?;
    assert_eq!(ann.next(ANSWER).await?["message"], "hi", "not its own hello, which it has drawn itself");
    assert_eq!(tab.next(ANSWER).await?["message"], "hi");
    v1.send(group, "from v1").await?;
    for room in [&mut ann, &mut ben, &mut tab] {
        assert_eq!(room.next(ANSWER).await?["message"], "from v1");
    }
    // Other groups come on the same socket.
    let other = Client::connect(cluster.gateway(0), &by_name("ben")).await?;
    let elsewhere = other.join("elsewhere").await?;
    let third = Client::connect(cluster.gateway(0), &by_name("dan")).await?;
    third.join("elsewhere").await?;
    third.send(elsewhere, "over there").await?;
    let frame = ben.next(ANSWER).await?;
    assert_eq!((&frame["group_name"], &frame["display_name"]), (&json!(elsewhere), &json!("elsewhere")));
    // Mistakes are said, and the socket stays open.
    for (text, code) in [
        ("{", "bad_frame"),
        (r#"{"message":"x"}"#, "bad_frame"),
        (r#"{"message":"x","type":"dance"}"#, "unknown_type"),
        (r#"{"type":"chat"}"#, "bad_request"),
        (r#"{"message":"x","type":"chat","groupname":"019aaaaa-0000-7000-8000-000000000000"}"#, "not_found"),
        (r#"{"message":"x","type":"notification","user_name":"nobody at all"}"#, "not_found"),
    ] {
        ann.send_text(text).await?;
        let frame = ann.next(ANSWER).await.with_context(|| text.to_owned())?;
        assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!(code)), "{text}");
        assert!(frame["message"].is_string());
    }
    ann.chat(None, "still here").await?;
    assert_eq!(ben.next(ANSWER).await?["message"], "still here");
    Ok(())
}

/// The class of a notification on a user's page.
async fn class_on_page(session: &HttpSession, id: &str) -> Result<Option<String>> {
    let page = session.page("/chat/lobby/").await?;
    let Some((before, after)) = page.split_once(&format!(r#"id="notification_{id}""#)) else { return Ok(None) };
    let tag = before.rsplit('<').next().unwrap_or_default().to_owned() + after.split('>').next().unwrap_or_default();
    Ok(tag.split_once("class=\"").and_then(|(_, rest)| rest.split('"').next()).map(str::to_owned))
}

async fn notifications_are_found_on_the_next_page_until_seen(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let ann_http = HttpSession::signed_in(cluster.gateway(0), "ann").await?;
    let ben_http = HttpSession::signed_in(cluster.gateway(1), "ben").await?;
    let mut ann = ChatRoom::open(cluster.gateway(0), &by_name("ann"), "lobby").await?;
    let mut ben = ChatRoom::open(cluster.gateway(1), &by_name("ben"), "lobby").await?;
    ann.notify("ben", "look <b>here</b>").await?;
    ben.notify("ann", "and you").await?;
    let to_ben = ben.next(ANSWER).await?;
    let to_ann = ann.next(ANSWER).await?;
    let id = |frame: &Value| frame["id"].as_str().map(str::to_owned).context("an id");
    let (to_ben_id, to_ann_id) = (id(&to_ben)?, id(&to_ann)?);
    assert_eq!(to_ben, json!({"type": "notification", "message": "look <b>here</b>", "id": to_ben_id}));
    let sql = cluster.sql().await?;
    let rows = async || -> Result<Vec<String>> {
        let rows = sql.rows("SELECT id FROM notifications WHERE recipient = 'ben'").await?;
        rows.iter().map(|row| Ok(row.try_get::<uuid::Uuid>("", "id")?.to_string())).collect()
    };
    wait_until("the row", async || rows().await.is_ok_and(|rows| rows == [to_ben_id.clone()])).await;
    let unseen = "list-group-item-primary";
    let is_unseen = async |http: &HttpSession, id: &str| {
        class_on_page(http, id).await.ok().flatten().is_some_and(|class| class.split(' ').any(|one| one == unseen))
    };
    assert!(is_unseen(&ben_http, &to_ben_id).await && is_unseen(&ann_http, &to_ann_id).await);
    assert!(!ben_http.page("/chat/lobby/").await?.contains("<b>here"), "escaped");
    // Both ids by Ann: hers is seen, Ben's is none of her business.
    let form = [("type", "Clean_Seen"), ("seen_id[]", to_ann_id.as_str()), ("seen_id[]", to_ben_id.as_str())];
    assert_eq!(ann_http.post_form("/chat/lobby/", &form).await?.status(), 200);
    assert!(!is_unseen(&ann_http, &to_ann_id).await, "in the very next GET");
    assert!(class_on_page(&ann_http, &to_ann_id).await?.is_some(), "seen ones are shown too");
    assert!(is_unseen(&ben_http, &to_ben_id).await, "Ben has not seen his");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_users_make_one_group_and_its_first_message_arrives() -> Result<()> {
    let cluster = Cluster::builder().store(Store::Postgres).start().await?;
    for round in 0..5 {
        let names = [format!("ann{round}"), format!("ben{round}")];
        let mut https = Vec::new();
        let mut rooms = Vec::new();
        for (number, name) in names.iter().enumerate() {
            https.push(HttpSession::signed_in(cluster.gateway(number), name).await?);
            rooms.push(ChatRoom::open(cluster.gateway(number), &by_name(name), "lobby").await?);
        }
        let create = async |mine: usize, other: usize| -> Result<Value> {
            let form = [("type", "Create_Group_Single"), ("user", names[other].as_str())];
            let answer = https[mine].post_form("/chat/lobby/", &form).await?;
            assert_eq!(answer.status(), 200);
            assert!(answer.headers()["content-type"].to_str()?.starts_with("text/html"));
            assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
            Ok(serde_json::from_str(&answer.text().await?)?)
        };
        let (by_ann, by_ben) = tokio::join!(create(0, 1), create(1, 0));
        let (by_ann, by_ben) = (by_ann?, by_ben?);
        assert_eq!(by_ann["id"], by_ben["id"]);
        assert_eq!(by_ann["display_name"], json!(format!("{}_with_{}", names[0], names[1])));
        assert_eq!(by_ben["display_name"], json!(format!("{}_with_{}", names[1], names[0])));
        let group = by_ann["id"].as_str().context("an id")?;
        rooms[0].chat(Some(group), "first").await?;
        let arrived = rooms[1].next(ANSWER).await;
        if arrived.is_err() {
            eprintln!("the sender was told {:?}", rooms[0].next(Duration::from_millis(100)).await);
        }
        let frame = arrived.with_context(|| format!("the first, in round {round}"))?;
        assert_eq!((&frame["type"], &frame["message"], &frame["group_name"]), (&json!("chat"), &json!("first"), &json!(group)));
        rooms[1].chat(Some(group), "second").await?;
        let frame = rooms[0].next(ANSWER).await.with_context(|| format!("the second, in round {round}"))?;
        assert_eq!(frame["message"], "second");
    }
    let sql = cluster.sql().await?;
    assert_eq!(sql.count("SELECT COUNT(*) FROM groups WHERE kind = 'single'").await?, 5);
    Ok(())
}

/// This protocol has no acks: nobody would say it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_right_before_a_close_is_told() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let mut ben = ChatRoom::open(cluster.gateway(0), &by_name("ben"), "lobby").await?;
    for round in 0..5 {
        let mut ann = ChatRoom::open(cluster.gateway(0), &by_name("ann"), "lobby").await?;
        let lines = [format!("one {round}"), format!("two {round}"), format!("three {round}")];
        for line in &lines {
            ann.chat(None, line).await?;
        }
        ann.close().await?;
        for line in &lines {
            assert_eq!(ben.next(ANSWER).await?["message"], **line);
        }
    }
    Ok(())
}
