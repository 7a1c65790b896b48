//! Limits that need the whole path to be seen at their edge.

use anyhow::{Context, Result};
use natter_shared::id::{RoomName, open_group};
use natter_tests::{
    client::{ANSWER, Client, RequestError, groups_of},
    cluster::Cluster,
    http::HttpSession,
    standalone::Standalone,
    token::User,
};
use reqwest::Method;
use serde_json::json;

use super::api::call;

#[tokio::test(flavor = "multi_thread")]
async fn recovery_events_and_a_page_of_history_at_the_edge() -> Result<()> {
    let builder = Cluster::builder().gateways(1).env("NATTER_LIMITS__RECOVERY_EVENTS", "5").env("NATTER_LIMITS__HISTORY_PAGE", "7");
    let cluster = builder.env("NATTER_LIMITS__RING_EVENTS_PER_GROUP", "1").env("NATTER_LIMITS__GROUPS_PER_CONNECTION", "3").start().await?;
    let gateway = cluster.gateway(0);
    let (ann, mut ben) = (Client::connect(gateway, &User::named("ann")).await?, Client::connect(gateway, &User::named("ben")).await?);
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    // The ring has the last one; five are read back before it.
    for (missed, recovered) in [(6, true), (7, false)] {
        ann.send(group, &format!("before {missed}")).await?;
        ben.wait_for_body(&format!("before {missed}")).await?;
        ben.disconnect();
        for number in 0..missed {
            ann.send(group, &format!("missed {missed}.{number}")).await?;
        }
        // The ring has it when she does.
        ann.wait_for_body(&format!("missed {missed}.{}", missed - 1)).await?;
        let ready = ben.reconnect(gateway).await?;
        let state = groups_of(&ready).remove(&group.0).context("the group")?;
        assert_eq!(state["recovered"], recovered, "{missed} missed: {state}");
        let last = format!("after {missed}");
        ann.send(group, &last).await?;
        ben.wait_for_body(&last).await?;
        let got = ben.bodies(group).iter().filter(|body| body.starts_with(&format!("missed {missed}."))).count();
        assert_eq!(got == missed, recovered, "{got} of {missed} came");
    }
    let page = async |limit: u32| ann.request(json!({"type": "history", "group": group, "limit": limit})).await;
    assert_eq!(page(7).await?["messages"].as_array().map(Vec::len), Some(7));
    assert!(matches!(page(8).await, Err(RequestError::Refused(error)) if error["code"] == "bad_request"));
    let unsaid = ann.request(json!({"type": "history", "group": group})).await?;
    assert_eq!(unsaid["messages"].as_array().map(Vec::len), Some(7), "as many as there may be");

    let resume = async |groups: usize| {
        let points: serde_json::Map<_, _> = (0..groups).map(|_| (uuid::Uuid::now_v7().to_string(), json!("1.0"))).collect();
        ann.request(json!({"type": "resume", "groups": points})).await
    };
    assert_eq!(resume(3).await?["groups"], json!([]));
    assert_eq!(resume(4).await?["groups"], json!([]));
    ann.wait_for("word of the fourth", ANSWER, |push| push["type"] == "reset").await?;
    Ok(())
}

/// Groups are delivered in the order of their ids: whose come first is nobody's to choose for others.
#[tokio::test(flavor = "multi_thread")]
async fn groups_that_others_make_take_no_place_from_ones_own() -> Result<()> {
    let builder = Cluster::builder().gateways(1).env("NATTER_LIMITS__GROUPS_PER_CONNECTION", "3");
    let cluster = builder.env("NATTER_LIMITS__GROUPS_BY_OTHERS", "2").start().await?;
    let gateway = cluster.gateway(0);
    let (ann, mut ben) = (Client::connect(gateway, &User::named("ann")).await?, Client::connect(gateway, &User::named("ben")).await?);
    let mut own = Vec::new();
    // At the end of that order.
    let last = (0..)
        .map(|number| format!("room-{number}"))
        .filter(|name| RoomName::room(name).is_ok_and(|name| open_group(&name).0.as_bytes()[0] > 0xf8));
    for name in last.take(2) {
        own.push(ben.join(&name).await?);
        ann.join(&name).await?;
    }
    let mallory = User::named("mallory").token();
    for number in 0..6 {
        let new = json!({"display_name": format!("junk {number}"), "members": ["id-ben"]});
        let (status, answer) = call(&cluster, 0, &mallory, Method::POST, "groups", None, new).await?;
        assert_eq!((status.as_u16(), &answer["code"]), (400, &json!("too_many_groups")), "{answer}");
    }
    ben.disconnect();
    let ready = ben.reconnect(gateway).await?;
    assert_eq!(groups_of(&ready).len(), 2, "{ready}");
    for group in own {
        ann.send(group, &format!("to {group}")).await?;
        ben.wait_for_body(&format!("to {group}")).await?;
        ben.send(group, &format!("from {group}")).await?;
        ann.wait_for_body(&format!("from {group}")).await?;
    }
    Ok(())
}

/// As systemd and containers start processes: 1,024 files, of half a million that they may ask for.
#[tokio::test(flavor = "multi_thread")]
async fn open_files_are_raised_and_bound_connections() -> Result<()> {
    let natter = Standalone::start_with_open_files(
        300,
        400,
        &[("NATTER_LIMITS__HEADER_TIMEOUT", "60s"), ("NATTER_LIMITS__HANDSHAKE_TIMEOUT", "60s")],
    )
    .await?;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", natter.node.process.pid().context("a process")?))?;
    let files = limits.lines().find(|line| line.starts_with("Max open files")).context("a limit")?;
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["400", "400"]);
    assert!(natter.node.process.log().contains("open_files_bound_connections"), "{}", natter.node.process.log());
    let mut held = Vec::new();
    for _ in 0..144 {
        held.push(tokio::net::TcpStream::connect(natter.node.addr).await?);
    }
    let client = HttpSession::anonymous(natter.node.addr)?;
    let refused = client.get("/sign-in").await?;
    assert_eq!(refused.status(), 503);
    assert!(refused.text().await?.contains("as many connections as it may"));
    assert_eq!(client.get("/healthz").await?.status(), 200, "what is full is not dead");
    drop(held);
    Ok(())
}

/// These are no keys of the config.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_of_a_list_are_taken_and_no_more() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let (ann, key) = (Client::connect(cluster.gateway(0), &User::named("ann")).await?, cluster.api_key("shop")?);
    let seen = async |count: usize| {
        let ids: Vec<_> = (0..count).map(|_| uuid::Uuid::now_v7()).collect();
        ann.request(json!({"type": "seen", "ids": ids})).await
    };
    seen(1000).await?;
    let refused = seen(1001).await.expect_err("one too many");
    assert_eq!(refused.code(), "too_large", "{refused}");
    let notify = async |count: usize| {
        let users: Vec<_> = (0..count).map(|number| format!("user-{number}")).collect();
        let body = json!({"to": {"users": users}, "body": "sale"});
        call(&cluster, 0, &key, Method::POST, "server/notifications", Some(&count.to_string()), body).await
    };
    let (status, told) = notify(1000).await?;
    assert_eq!((status.as_u16(), told["notifications"].as_array().map(Vec::len)), (201, Some(1000)), "{told}");
    let (status, refused) = notify(1001).await?;
    assert_eq!((status.as_u16(), &refused["code"]), (413, &json!("too_large")), "{refused}");
    Ok(())
}
