//! Limits that need the whole path to be seen at their edge.

use anyhow::{Context, Result};
use natter_tests::{
    client::{ANSWER, Client, RequestError, groups_of},
    cluster::Cluster,
    token::User,
};
use serde_json::json;

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
