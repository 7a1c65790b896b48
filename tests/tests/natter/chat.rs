//! Protocol v1 on two gateways: joining, saying, hearing, leaving, looking back.

use anyhow::{Context, Result};
use natter_shared::id::Nonce;
use natter_tests::{
    client::{ANSWER, Client, RequestError},
    cluster::{Cluster, Store},
    record::position_of,
    token::User,
};
use serde_json::{Value, json};
use uuid::Uuid;

super::on_both_stores!(
    a_message_reaches_every_member_on_every_gateway_once_and_in_one_order,
    a_retry_under_the_same_nonce_makes_no_second_message,
    history_is_what_was_said_in_pages,
    who_left_hears_nothing_more_until_joining_again,
);

/// Who has as many groups as a connection may is told so before joining, and of those that do not fit as missing something.
#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_groups_of_a_connection_nobody_joins_and_nothing_is_kept_secret() -> Result<()> {
    let cluster = Cluster::builder().env("NATTER_LIMITS__GROUPS_PER_CONNECTION", "2").start().await?;
    let ann = User::named("ann");
    let first = Client::connect(cluster.gateway(0), &ann).await?;
    let (one, two) = (first.join("one").await?, first.join("two").await?);
    let refused = first.join("three").await.expect_err("a third group");
    assert_eq!(refused.code(), "too_many_groups");
    assert_eq!(first.join("two").await?, two, "one that it has");
    first.leave(one).await?;
    let sql = cluster.sql().await?;
    assert_eq!(sql.count("SELECT COUNT(*) FROM members WHERE until_epoch IS NULL").await?, 1, "no member of the third");
    // By another way there are more: with one at a time there is room for each.
    let (four, five) = (first.join("four").await?, Client::connect(cluster.gateway(1), &User::named("ben")).await?.join("five").await?);
    let key = cluster.api_key("shop")?;
    let url = format!("http://{}/api/v1/server/groups/{five}/members/id-ann", cluster.gateway(0));
    let added = reqwest::Client::new().put(url).bearer_auth(&key).json(&json!({})).send().await?;
    assert!(added.status().is_success(), "{}", added.text().await?);
    let is_reset = |push: &Value| push["type"] == "reset" && push["group"] == json!(five);
    first.wait_for("a reset", ANSWER, is_reset).await?;
    let second = Client::connect(cluster.gateway(1), &ann).await?;
    let kept = second.record(|record| [two, four, five].map(|group| record.position(group).is_some()));
    assert_eq!(kept.iter().filter(|kept| **kept).count(), 2, "{kept:?}");
    let left_out = [two, four, five].into_iter().zip(kept).find(|(_, kept)| !kept).map(|(group, _)| json!(group));
    second.wait_for("a reset", ANSWER, |push| push["type"] == "reset" && Some(&push["group"]) == left_out.as_ref()).await?;
    Ok(())
}

async fn a_message_reaches_every_member_on_every_gateway_once_and_in_one_order(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let (ann, ben) = (User::named("ann"), User::named("ben"));
    let members = [
        Client::connect(cluster.gateway(0), &ann).await?,
        Client::connect(cluster.gateway(1), &ann).await?,
        Client::connect(cluster.gateway(1), &ben).await?,
    ];
    let group = members[0].join("lobby").await?;
    assert_eq!(members[2].join("lobby").await?, group);
    assert_eq!(members[1].join(&group.to_string()).await?, group, "joining again changes nothing");
    let mut sent = Vec::new();
    for round in 0..10 {
        for (number, member) in members.iter().enumerate() {
            sent.push(member.send(group, &format!("{round} from {number}")).await?);
        }
    }
    members[2].send_as(Nonce::now(), "lobby", "by name").await?;
    for member in &members {
        member.wait_for_body("by name").await?;
        assert_eq!(member.bodies(group), members[0].bodies(group));
        assert_eq!(member.bodies(group).len(), 31);
    }
    let push = members[2].wait_for_body("0 from 0").await?;
    assert_eq!(push["group"], json!(group));
    assert_eq!(push["sender"], ann.id.as_str());
    assert_eq!(push["id"], json!(sent[0].message), "the reply's id is the push's");
    assert_eq!(push["position"], json!(sent[0].position), "the reply's position is the push's");
    assert!(push["nonce"].is_string() && push["sent_at"].is_string(), "{push}");
    let sql = cluster.sql().await?;
    let rows = async || sql.message_count().await.unwrap_or_default();
    wait_until("31 rows", async || rows().await == 31).await;
    Ok(())
}

async fn a_retry_under_the_same_nonce_makes_no_second_message(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let ann = User::named("ann");
    let here = Client::connect(cluster.gateway(0), &ann).await?;
    let there = Client::connect(cluster.gateway(1), &ann).await?;
    let group = here.join("lobby").await?;
    there.wait_for("the group", ANSWER, |push| push["type"] == "group" && push["change"] == "joined").await?;
    let nonce = Nonce::now();
    let first = here.send_as(nonce, "lobby", "once").await?;
    assert_eq!(here.send_as(nonce, "lobby", "once").await?, first);
    assert_eq!(there.send_as(nonce, "lobby", "once").await?, first);
    for (client, body) in [(&here, "another body"), (&there, "yet another")] {
        let refused = client.send_as(nonce, "lobby", body).await.expect_err("a nonce is good for one message");
        assert_eq!(refused.code(), "nonce_reused", "{refused}");
    }
    here.join("elsewhere").await?;
    let refused = here.send_as(nonce, "elsewhere", "once").await.expect_err("a nonce is good for one group");
    assert_eq!(refused.code(), "nonce_reused", "{refused}");
    here.send(group, "the end").await?;
    for client in [&here, &there] {
        client.wait_for_body("the end").await?;
        assert_eq!(client.bodies(group), ["once", "the end"]);
    }
    let sql = cluster.sql().await?;
    wait_until("2 rows", async || sql.message_count().await.unwrap_or_default() == 2).await;
    Ok(())
}

async fn history_is_what_was_said_in_pages(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let client = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let group = client.join("lobby").await?;
    let mut sent = Vec::new();
    for number in 0..7 {
        sent.push(client.send(group, &format!("message {number}")).await?);
    }
    let page = async |more: Value| -> Result<Value, RequestError> {
        let mut frame = json!({"type": "history", "group": group, "limit": 3});
        frame.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client.request(frame).await
    };
    let numbers = |page: &Value| -> Vec<usize> {
        let position = |message: &Value| sent.iter().position(|fact| json!(fact.message) == message["id"]);
        page["messages"].as_array().unwrap().iter().map(|message| position(message).expect("a message of ours")).collect()
    };
    let newest = page(json!({})).await?;
    assert_eq!((numbers(&newest), &newest["more"]), (vec![4, 5, 6], &json!(true)), "read your own writes");
    assert_eq!(newest["messages"][0]["body"], "message 4");
    let older = page(json!({"before": sent[4].position})).await?;
    assert_eq!((numbers(&older), &older["more"]), (vec![1, 2, 3], &json!(true)));
    let oldest = page(json!({"before": sent[1].position})).await?;
    assert_eq!((numbers(&oldest), &oldest["more"]), (vec![0], &json!(false)));
    let later = page(json!({"after": sent[0].position})).await?;
    assert_eq!((numbers(&later), &later["more"]), (vec![1, 2, 3], &json!(true)));
    let last = page(json!({"after": sent[4].position})).await?;
    assert_eq!((numbers(&last), &last["more"]), (vec![5, 6], &json!(false)));
    // From page to page by their positions; and from a page with more to live delivery.
    let (mut after, mut paged) = (sent[1].position, Vec::new());
    loop {
        let page = page(json!({"after": after, "limit": 2})).await?;
        paged.extend(numbers(&page));
        after = position_of(&page["position"]).context("a position")?;
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(paged, [2, 3, 4, 5, 6]);
    let first = page(json!({"after": sent[1].position, "limit": 2})).await?;
    let mut reader = Client::new(&User::named("ann"));
    reader.resume_from(group, position_of(&first["position"]).context("a position")?);
    reader.reconnect(cluster.gateway(0)).await?;
    reader.wait_for_body("message 6").await?;
    assert_eq!(reader.bodies(group), ["message 4", "message 5", "message 6"]);
    Ok(())
}

async fn who_left_hears_nothing_more_until_joining_again(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    ann.send(group, "before").await?;
    ben.wait_for_body("before").await?;
    ben.leave(group).await?;
    ben.wait_for("the end of the membership", ANSWER, |push| push["type"] == "group" && push["change"] == "left").await?;
    ann.send(group, "meanwhile").await?;
    let refused = ben.send(group, "from outside").await.expect_err("no member any more");
    assert_eq!(refused.code(), "not_found", "{refused}");
    let refused = ben.request(json!({"type": "history", "group": group})).await.expect_err("no member any more");
    assert_eq!(refused.code(), "not_found", "{refused}");
    ben.leave(group).await?;
    ben.join("lobby").await?;
    ann.send(group, "after").await?;
    ben.wait_for_body("after").await?;
    let pushes = ben.record(|record| record.pushes.clone());
    assert_eq!(ben.bodies(group), ["before", "after"], "{pushes:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_reaches_the_others() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    ann.say(&json!({"type": "typing", "group": "lobby"}))?;
    let push = ben.wait_for("typing", ANSWER, |push| push["type"] == "typing").await?;
    assert_eq!((&push["group"], &push["user"]), (&json!(group), &json!("id-ann")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_says_who_one_is_and_what_one_may() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let mut client = Client::new(&User::named("ann"));
    let ready = client.reconnect(cluster.gateway(0)).await?;
    assert_eq!(ready["user"], json!({"id": "id-ann", "handle": "ann", "display_name": "Ann"}));
    assert_eq!(ready["groups"], json!([]));
    assert_eq!(ready["more"], false);
    assert_eq!((&ready["inbox"]["unseen"], &ready["inbox"]["unread"]), (&json!(0), &json!(0)));
    assert!(ready["session"].as_str().is_some_and(|id| id.parse::<Uuid>().is_ok()), "{ready}");
    assert!(ready["ping_interval_ms"].is_u64() && ready["limits"]["frame_bytes"].is_u64(), "{ready}");
    client.join("lobby").await?;
    let ready = client.reconnect(cluster.gateway(0)).await?;
    assert_eq!(ready["groups"][0]["name"], "lobby");
    assert_eq!(ready["groups"][0]["kind"], "open");
    assert_eq!(ready["groups"][0]["recovered"], true);
    Ok(())
}

/// Clients that join their rooms whatever `ready` says.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_tells_the_same_as_ready_did_and_what_was_read_since() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let (ann, mut ben) = (Client::connect(cluster.gateway(0), &User::named("ann")).await?, Client::new(&User::named("ben")));
    ben.reconnect(cluster.gateway(0)).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    let said = ann.send(group, "hello").await?;
    ben.wait_for_body("hello").await?;
    let ready = ben.reconnect(cluster.gateway(0)).await?;
    let joined = ben.request(json!({"type": "join", "group": "lobby"})).await?;
    let mut told = ready["groups"][0].clone();
    told["recovered"] = json!(false);
    let told_anew = |name: &str| (joined["group"][name].clone(), told[name].clone());
    for name in ["id", "kind", "name", "display_name", "role", "last_read"] {
        let (now, before) = told_anew(name);
        assert_eq!(now, before, "{name} of {joined}");
    }
    ben.request(json!({"type": "read", "group": group, "position": said.position})).await?;
    wait_until("what was read is told", async || {
        let joined = ben.request(json!({"type": "join", "group": "lobby"})).await;
        joined.is_ok_and(|joined| joined["group"]["last_read"] == json!(said.position) && joined["group"]["unread"] == json!(0))
    })
    .await;
    Ok(())
}

/// Polls until it is so.
pub(crate) async fn wait_until(what: &str, is_so: impl AsyncFn() -> bool) {
    let until = tokio::time::Instant::now() + ANSWER;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < until, "waited in vain for {what}");
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
}
