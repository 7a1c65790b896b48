//! Who may send and who gets what, while memberships change and gateways are cut off.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use natter_shared::id::GroupId;
use natter_tests::{
    client::{ANSWER, Client, RequestError},
    cluster::Cluster,
    proxy::{Condition, Link, Select},
    record::{Record, position_of},
    token::User,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{api::done, chat::wait_until};

/// How old the knowledge of the gateway that accepts a message may be.
const BOUND: Duration = Duration::from_secs(5);

/// A call of the server API that must work.
async fn server(cluster: &Cluster, key: &str, method: Method, path: &str, body: &Value) -> Result<Value> {
    done(cluster, 0, key, method, &format!("server/{path}"), body.clone()).await
}

/// A group of ann and ben, made by the back end.
async fn group_of_two(cluster: &Cluster, key: &str) -> Result<GroupId> {
    let members = json!({"display_name": "Two", "members": [{"user": "id-ann", "role": "owner"}, {"user": "id-ben"}]});
    let group = server(cluster, key, Method::POST, "groups", &members).await?;
    group["id"].as_str().context("an id")?.parse().map_err(|_| anyhow::anyhow!("no id"))
}

/// Ben and cid are connected to a gateway whose connection that delivers live is silent; ben is removed, and sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_is_refused_within_five_seconds_by_a_gateway_that_hears_nothing() -> Result<()> {
    let cluster = Cluster::builder().gateways(2).proxied().start().await?;
    let key = cluster.api_key("shop")?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let mut cid = Client::connect(cluster.gateway(1), &User::named("cid")).await?;
    let group = group_of_two(&cluster, &key).await?;
    server(&cluster, &key, Method::PUT, &format!("groups/{group}/members/id-cid"), &json!({})).await?;
    for member in [&ben, &cid] {
        member.wait_until("the group", ANSWER, |record| record.position(group)).await?;
    }
    ben.send(group, "a member").await?;
    ann.wait_for_body("a member").await?;
    let proxy = cluster.gateways[1].nats.as_ref().context("a proxy")?;
    proxy.set(Select::named("-subscribe"), Condition { down: Link::Silent, ..Condition::default() });
    server(&cluster, &key, Method::DELETE, &format!("groups/{group}/members/id-ben"), &Value::Null).await?;
    let removed = Instant::now();
    let mut number = 0;
    let last = loop {
        let begun = removed.elapsed();
        match ben.send(group, &format!("no member {number}")).await {
            Ok(_) => ensure!(begun < BOUND, "accepted {begun:?} after the removal"),
            Err(error) => break error,
        }
        number += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    eprintln!("refused after {:?}, {number} accepted before: {last}", removed.elapsed());
    assert!(matches!(&last, RequestError::Refused(error) if error["code"] == "not_found"), "{last}");
    let refused = ben.request(json!({"type": "history", "group": group})).await.expect_err("no member");
    assert_eq!(refused.code(), "not_found", "{refused}");
    // As operators see it.
    let tells = async |path: &str| anyhow::Ok(reqwest::get(format!("http://{}{path}", cluster.gateway(1))).await?.text().await?);
    let looked_up = cluster.gateways[1].metric("natter_gateway_memberships_looked_up_total").await?;
    assert!(looked_up > Some(0.0), "{looked_up:?}");
    wait_until("what is missing", async || tells("/readyz").await.is_ok_and(|missing| missing.contains("streams"))).await;
    proxy.heal();
    // What the others said after the removal is not for ben, however late it comes.
    ann.send(group, "among us").await?;
    let has_it = |record: &Record| record.pushes.iter().any(|push| push["body"] == "among us");
    // Its gateway may have closed what it could not check in time.
    while !cid.wait_until("among us", ANSWER, |record| (has_it(record) || record.closed.is_some()).then(|| has_it(record))).await? {
        cid.reconnect_to_any(&[cluster.gateway(1)], ANSWER).await?;
    }
    assert!(!ben.bodies(group).contains(&"among us".to_owned()));
    Ok(())
}

/// Also where the gateway that hears nothing cannot ask either: it refuses, retryably, what it cannot
/// know.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_known_is_refused() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).proxied().env("NATTER_LIMITS__SEND_DEADLINE", "3s").start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let group = ann.join("lobby").await?;
    ann.send(group, "before").await?;
    let proxy = cluster.gateways[0].nats.as_ref().context("a proxy")?;
    // Publishing still works; neither what is delivered nor what is asked comes back.
    for silent in ["-subscribe", "-calls", "-recovery"] {
        proxy.set(Select::named(silent), Condition { down: Link::Silent, ..Condition::default() });
    }
    let begun = Instant::now();
    let refused = loop {
        match ann.send(group, "while deaf").await {
            Ok(_) => ensure!(begun.elapsed() < BOUND, "accepted after {:?}", begun.elapsed()),
            Err(error) => break error,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // Or its sessions are closed, because nobody could tell it of a block.
    match &refused {
        RequestError::Refused(error) => assert_eq!((&error["code"], &error["retryable"]), (&json!("unavailable"), &json!(true))),
        RequestError::Closed(Some((code, _))) => assert_eq!(*code, 1013),
        other => panic!("{other}"),
    }
    Ok(())
}

/// Added on one gateway, spoken to at once on another: fifty times.
#[tokio::test(flavor = "multi_thread")]
async fn an_added_member_gets_everything_from_the_first_message_on() -> Result<()> {
    let cluster = Cluster::builder().gateways(3).persisters(2).start().await?;
    let key = cluster.api_key("shop")?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let cid = Client::connect(cluster.gateway(2), &User::named("cid")).await?;
    let group = group_of_two(&cluster, &key).await?;
    ann.wait_until("the group", ANSWER, |record| record.position(group)).await?;
    let member = format!("groups/{group}/members/id-cid");
    for round in 0..50 {
        ann.send(group, &format!("before {round}")).await?;
        let nothing = json!({});
        let add = server(&cluster, &key, Method::PUT, &member, &nothing);
        let speak = async {
            // Some before the member is added, some at once after.
            for part in 0..6 {
                ben.send(group, &format!("{round}.{part}")).await?;
            }
            anyhow::Ok(())
        };
        let (added, spoken) = tokio::join!(add, speak);
        added?;
        spoken?;
        ann.send(group, &format!("after {round}")).await?;
        cid.wait_for_body(&format!("after {round}")).await?;
        server(&cluster, &key, Method::DELETE, &member, &Value::Null).await?;
    }
    // Of each round a suffix, in order, without a hole, and nothing from between the rounds.
    let (told, all) = (cid.bodies(group), ann.bodies(group));
    let resets = cid.record(|record| record.pushes.iter().filter(|push| push["type"] == "reset").count());
    assert_eq!(resets, 0);
    let mut rest = told.as_slice();
    for round in 0..50 {
        let of_round: Vec<&String> = all
            .iter()
            .skip_while(|body| **body != format!("before {round}"))
            .skip(1)
            .take_while(|body| !body.starts_with("before"))
            .collect();
        assert_eq!(of_round.len(), 7, "{of_round:?}");
        let end = rest.iter().position(|body| *body == format!("after {round}")).context("the last of each round")? + 1;
        let (heard, later) = rest.split_at(end);
        let expected = &of_round[of_round.len().saturating_sub(heard.len())..];
        assert!(heard.iter().eq(expected.iter().copied()), "round {round}: {heard:?} is no end of {of_round:?}");
        rest = later;
    }
    assert!(rest.is_empty(), "{rest:?}");
    Ok(())
}

/// Over HTTP a membership that has ended is known at once, too; and what SQL may not know is not
/// answered from it.
#[tokio::test(flavor = "multi_thread")]
async fn over_http_a_removed_member_neither_reads_nor_sends() -> Result<()> {
    let cluster = Cluster::builder().gateways(2).start().await?;
    let key = cluster.api_key("shop")?;
    for name in ["ann", "ben"] {
        Client::connect(cluster.gateway(0), &User::named(name)).await?;
    }
    let group = group_of_two(&cluster, &key).await?;
    let call = async |method: Method, body: Value| -> Result<StatusCode> {
        let url = format!("http://{}/api/v1/groups/{group}/messages", cluster.gateway(1));
        let token = User::named("ben").token();
        let request = reqwest::Client::new().request(method.clone(), url).bearer_auth(token);
        let request = if method == Method::POST { request.json(&body) } else { request };
        Ok(request.send().await?.status())
    };
    assert_eq!(call(Method::POST, json!({"body": "hello"})).await?, StatusCode::CREATED);
    assert_eq!(call(Method::GET, Value::Null).await?, StatusCode::OK);
    server(&cluster, &key, Method::DELETE, &format!("groups/{group}/members/id-ben"), &Value::Null).await?;
    assert_eq!(call(Method::POST, json!({"body": "hello?"})).await?, StatusCode::NOT_FOUND);
    assert_eq!(call(Method::GET, Value::Null).await?, StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn memberships_that_follow_each_other_are_told_in_the_groups_own_order() -> Result<()> {
    const ROUNDS: usize = 15;
    // Ann says as much as she can.
    let cluster = Cluster::builder()
        .gateways(2)
        .env("NATTER_LIMITS__FRAMES_PER_SECOND", "100000")
        .env("NATTER_LIMITS__FRAMES_BURST", "100000")
        .env("NATTER_LIMITS__USER_FRAMES_PER_SECOND", "100000")
        .env("NATTER_LIMITS__USER_FRAMES_BURST", "100000")
        .start()
        .await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let mut ben = Client::connect(cluster.gateway(0), &User::named("ben")).await?;
    ben.insist_for = ANSWER;
    let tab = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    let coming_and_going = async {
        for _ in 0..ROUNDS {
            ben.join("lobby").await?;
            ben.leave(group).await?;
        }
        ben.join("lobby").await?;
        ann.send(group, "the last").await?;
        anyhow::Ok(())
    };
    tokio::pin!(coming_and_going);
    let mut number = 0;
    loop {
        let body = format!("number {number}");
        tokio::select! {
            done = &mut coming_and_going => break done?,
            sent = ann.send(group, &body) => number += usize::from(sent.is_ok()),
        }
    }
    for (client, joins) in [(&ben, true), (&tab, false)] {
        client.wait_for_body("the last").await?;
        let pushes = client.record(|record| record.pushes.clone());
        let (mut last, mut ends, mut is_member) = (None, 0, false);
        for push in pushes.iter().filter(|push| push["group"] == json!(group)) {
            let position = position_of(&push["position"]);
            ensure!(position > last, "{push} after {last:?}");
            last = position;
            match push["change"].as_str() {
                Some("joined") => ensure!(!std::mem::replace(&mut is_member, true), "{push} to a member"),
                // Who joins by a request is told by its answer.
                Some("left") => {
                    ensure!(is_member || joins, "{push} to no member");
                    (is_member, ends) = (false, ends + 1);
                }
                _ => ensure!(is_member || joins, "{push} to no member"),
            }
        }
        ensure!(ends == ROUNDS, "{ends} ends were told");
    }
    Ok(())
}
