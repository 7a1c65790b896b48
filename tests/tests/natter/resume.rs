//! Coming back: what was missed is filled in, from the ring, the stream or SQL, or declared missing.

use anyhow::Result;
use natter_shared::{id::GroupId, position::Position};
use natter_tests::{
    client::{Client, groups_of},
    cluster::{Cluster, Store},
    record::position_of,
    token::User,
};
use serde_json::{Value, json};

super::on_both_stores!(what_was_missed_comes_first_and_in_order_on_any_gateway, old_gaps_are_filled_from_sql);

async fn say_all(client: &Client, group: GroupId, numbers: std::ops::Range<usize>) -> Result<()> {
    for number in numbers {
        client.send(group, &number.to_string()).await?;
    }
    Ok(())
}

fn counted(upto: usize) -> Vec<String> {
    (0..upto).map(|number| number.to_string()).collect()
}

fn state(ready: &Value, group: GroupId) -> Value {
    groups_of(ready).remove(&group.0).expect("a group of ours")
}

async fn what_was_missed_comes_first_and_in_order_on_any_gateway(store: Store) -> Result<()> {
    let cluster = Cluster::builder().gateways(3).store(store).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let mut ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    say_all(&ann, group, 0..5).await?;
    ben.wait_for_body("4").await?;
    // The sender's gateway has it in its ring, the last one knows nothing of the group.
    for (gateway, upto) in [(0, 10), (1, 15), (2, 20), (2, 25)] {
        ben.disconnect();
        say_all(&ann, group, upto - 5..upto - 1).await?;
        let ready = ben.reconnect(cluster.gateway(gateway)).await?;
        assert_eq!(state(&ready, group)["recovered"], true, "gateway {gateway}: {ready}");
        say_all(&ann, group, upto - 1..upto).await?;
        ben.wait_for_body(&(upto - 1).to_string()).await?;
        assert_eq!(ben.bodies(group), counted(upto), "gateway {gateway}");
    }
    Ok(())
}

async fn old_gaps_are_filled_from_sql(store: Store) -> Result<()> {
    let builder = Cluster::builder().gateways(2).store(store);
    let cluster = builder.env("NATTER_LIMITS__RING_EVENTS_PER_GROUP", "4").start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let mut ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    ben.disconnect();
    say_all(&ann, group, 0..60).await?;
    for (gateway, upto) in [(0, 60), (1, 120)] {
        ben.disconnect();
        say_all(&ann, group, ben.bodies(group).len().max(60)..upto).await?;
        let ready = ben.reconnect(cluster.gateway(gateway)).await?;
        assert_eq!(state(&ready, group)["recovered"], true, "{ready}");
        ben.wait_for_body(&(upto - 1).to_string()).await?;
        assert_eq!(ben.bodies(group), counted(upto));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_missed_is_declared_and_history_has_it() -> Result<()> {
    let builder = Cluster::builder().env("NATTER_LIMITS__RING_EVENTS_PER_GROUP", "4");
    let cluster = builder.env("NATTER_LIMITS__RECOVERY_EVENTS", "10").start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let mut ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    ben.disconnect();
    say_all(&ann, group, 0..40).await?;
    let ready = ben.reconnect(cluster.gateway(1)).await?;
    let group_state = state(&ready, group);
    assert_eq!(group_state["recovered"], false, "{ready}");
    let page = ben.request(json!({"type": "history", "group": group, "limit": 100})).await?;
    assert_eq!(page["messages"].as_array().map(Vec::len), Some(40));
    say_all(&ann, group, 40..41).await?;
    ben.wait_for_body("40").await?;
    // Everything after the position told follows, and nothing before it.
    let told = position_of(&group_state["position"]);
    let bodies = ben.bodies(group);
    assert!(bodies.len() < 12 && counted(41).ends_with(&bodies), "{bodies:?}");
    ben.record(|record| {
        let messages = record.pushes.iter().filter(|push| push["type"] == "message");
        messages.for_each(|push| assert!(position_of(&push["position"]) > told, "{push} after {told:?}"));
    });
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_from_another_time_is_declared_not_guessed() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let user = User::named("ann");
    let mut ann = Client::connect(cluster.gateway(0), &user).await?;
    let group = ann.join("lobby").await?;
    say_all(&ann, group, 0..3).await?;
    ann.disconnect();
    for position in ["1.999999", "77.1", "0.0"] {
        let stranger = Client::new(&user);
        let mut raw = stranger;
        raw.resume_from(group, position.parse()?);
        let ready = raw.reconnect(cluster.gateway(1)).await?;
        let group_state = state(&ready, group);
        let later = Client::connect(cluster.gateway(0), &user).await?;
        let marker = format!("after {position}");
        later.send(group, &marker).await?;
        raw.wait_for_body(&marker).await?;
        let bodies = raw.bodies(group);
        let complete = bodies.len() > 3;
        let declared = group_state["recovered"] == false || raw.record(|record| record.pushes.iter().any(|push| push["type"] == "reset"));
        assert!(declared || complete, "{position}: neither declared nor filled: {group_state}, {bodies:?}");
    }
    Ok(())
}

/// Of an installation that is gone, say.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_no_log_gave_out_hides_nothing_of_a_group_that_is_joined_afterwards() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let group = ann.join("lobby").await?;
    let stored = ann.send(group, "before").await?.position;
    let never = Position::new(stored.epoch, 999_999);
    let mut ben = Client::new(&User::named("ben"));
    ben.resume_from(group, never);
    ben.reconnect(cluster.gateway(0)).await?;
    let joined = ben.request(json!({"type": "join", "group": group})).await?;
    assert!(position_of(&joined["group"]["position"]).is_some_and(|position| stored < position && position < never), "{joined}");
    ben.send(group, "hello").await?;
    ann.send(group, "welcome").await?;
    ben.wait_for_body("welcome").await?;
    assert_eq!(ben.bodies(group), ["hello", "welcome"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_membership_that_is_over_is_not_told_again_to_who_comes_back() -> Result<()> {
    let cluster = Cluster::builder().gateways(2).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let mut ben = Client::connect(cluster.gateway(0), &User::named("ben")).await?;
    let (left, other) = (ann.join("left").await?, ann.join("other").await?);
    ben.join("other").await?;
    for round in 0..5 {
        ben.join("left").await?;
        say_all(&ann, left, 3 * round..3 * round + 3).await?;
        ben.wait_for_body(&(3 * round + 2).to_string()).await?;
        ben.leave(left).await?;
        // At once, to where the hints of the membership are fresh.
        for gateway in [1, 0] {
            ben.reconnect(cluster.gateway(gateway)).await?;
            let after = format!("after {round} on {gateway}");
            ann.send(other, &after).await?;
            ben.wait_for_body(&after).await?;
            // What a follow-up would write, it has written once a call behind it is answered.
            ben.join("other").await?;
        }
        assert_eq!(ben.bodies(left), counted(3 * round + 3), "round {round}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_claimed_to_be_recovered_across_two_memberships() -> Result<()> {
    let cluster = Cluster::builder().gateways(2).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let mut ben = Client::connect(cluster.gateway(0), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    say_all(&ann, group, 0..2).await?;
    ben.wait_for_body("1").await?;
    ben.disconnect();
    say_all(&ann, group, 2..4).await?;
    let elsewhere = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    elsewhere.leave(group).await?;
    say_all(&ann, group, 4..6).await?;
    elsewhere.join("lobby").await?;
    say_all(&ann, group, 6..8).await?;
    for gateway in [1, 0] {
        let ready = ben.reconnect(cluster.gateway(gateway)).await?;
        let recovered = &state(&ready, group)["recovered"];
        // From the newer membership on it is one like any other.
        assert_eq!(recovered, &json!(gateway == 0), "{ready}");
        ann.send(group, &format!("on {gateway}")).await?;
        ben.wait_for_body(&format!("on {gateway}")).await?;
    }
    let told = ben.bodies(group);
    assert!(told.iter().all(|body| !["4", "5"].contains(&body.as_str())), "said to members: {told:?}");
    Ok(())
}
