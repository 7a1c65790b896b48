//! Blocked users and revoked tokens: no delivery, no call and no sign-in, on every gateway, confirmed
//! by all that are there, and by itself on one that is cut off.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{SinkExt, StreamExt};
use natter_shared::id::GroupId;
use natter_tests::{
    chatroom::ChatRoom,
    client::{ANSWER, Client, RequestError},
    cluster::{Cluster, Store},
    process::PATIENCE,
    proxy::{Condition, Link, Select},
    socket::upgrade_v1,
    token::{SECRET, User, now, sign},
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

super::on_both_stores!(
    a_block_ends_everything_on_every_gateway_until_it_is_taken_back,
    revoked_tokens_are_void_and_newer_ones_are_not,
    a_block_committed_by_one_persister_reaches_gateways_over_the_other,
);

/// How long anything of a blocked user may go on.
const BOUND: Duration = Duration::from_secs(5);

/// A call of the server API.
async fn order(cluster: &Cluster, gateway: usize, key: &str, user: &str, what: &str, body: &Value) -> Result<Value> {
    let url = format!("http://{}/api/v1/server/users/{user}/{what}", cluster.gateway(gateway));
    let answer = reqwest::Client::new().post(url).bearer_auth(key).json(body).send().await?;
    let status = answer.status();
    let answer: Value = answer.json().await?;
    ensure!(status == StatusCode::OK, "{what}: {status} {answer}");
    Ok(answer)
}

fn count(answer: &Value, list: &str) -> usize {
    answer[list].as_array().map(Vec::len).unwrap_or_default()
}

/// The status and the problem's code of a GET.
async fn get(cluster: &Cluster, gateway: usize, token: &str, path: &str) -> Result<(u16, String)> {
    let url = format!("http://{}/api/v1/{path}", cluster.gateway(gateway));
    let answer = reqwest::Client::new().get(url).bearer_auth(token).send().await?;
    let status = answer.status().as_u16();
    let body: Value = answer.json().await?;
    Ok((status, body["code"].as_str().unwrap_or_default().to_owned()))
}

/// The status of a call, and the code of its problem.
async fn post(cluster: &Cluster, gateway: usize, token: &str, path: &str, body: &Value) -> Result<(u16, String)> {
    let url = format!("http://{}/api/v1/{path}", cluster.gateway(gateway));
    let answer = reqwest::Client::new().post(url).bearer_auth(token).json(body).send().await?;
    let status = answer.status().as_u16();
    let body: Value = answer.json().await?;
    Ok((status, body["code"].as_str().unwrap_or_default().to_owned()))
}

/// How signing in with this token is refused: the error's code, and the close.
async fn refused(cluster: &Cluster, gateway: usize, token: &str) -> Result<(String, u16)> {
    let mut socket = upgrade_v1(cluster.gateway(gateway), &[]).await?;
    socket.send(Message::text(json!({"type": "connect", "id": 1, "token": token}).to_string())).await?;
    let error: Value = serde_json::from_str(socket.next().await.context("an answer")??.to_text()?)?;
    let code = error["code"].as_str().with_context(|| format!("no error: {error}"))?.to_owned();
    match socket.next().await.context("a close")?? {
        Message::Close(Some(close)) => Ok((code, close.code.into())),
        other => anyhow::bail!("no close: {other}"),
    }
}

async fn a_block_ends_everything_on_every_gateway_until_it_is_taken_back(store: Store) -> Result<()> {
    let cluster = Cluster::builder().gateways(3).persisters(2).store(store).start().await?;
    let (ann, ben) = (User::named("ann"), User::named("ben"));
    let sender = Client::connect(cluster.gateway(0), &ann).await?;
    let group = sender.join("lobby").await?;
    let mut tabs = Vec::new();
    for gateway in 0..3 {
        tabs.push(Client::connect(cluster.gateway(gateway), &ben).await?);
    }
    tabs[0].join("lobby").await?;
    let mut room = ChatRoom::open(cluster.gateway(1), &ben, "lobby").await?;
    assert_eq!(get(&cluster, 2, &ben.token(), "me").await?.0, 200);
    let key = cluster.api_key("shop")?;
    let begun = Instant::now();
    let answer = order(&cluster, 1, &key, "id-ben", "block", &json!({})).await?;
    assert_eq!((&answer["blocked"], count(&answer, "confirmed"), count(&answer, "unconfirmed")), (&json!(true), 3, 0), "{answer}");
    // Confirmed is closed: nothing is waited for any more.
    for tab in &tabs {
        let (code, _) = tab.wait_for_close(BOUND.saturating_sub(begun.elapsed())).await?;
        assert_eq!(code, 4403);
    }
    assert!(room.next(BOUND).await.is_err_and(|error| error.to_string().contains("4403")), "the chat room, too");
    sender.send(group, "not for ben").await?;
    for gateway in 0..3 {
        assert_eq!(get(&cluster, gateway, &ben.token(), "me").await?, (403, "blocked".to_owned()));
        assert_eq!(get(&cluster, gateway, &ben.token(), &format!("groups/{group}/messages")).await?, (403, "blocked".to_owned()));
        assert_eq!(refused(&cluster, gateway, &ben.token()).await?, ("blocked".to_owned(), 4403));
        assert!(cluster.gateways[gateway].metric("natter_gateway_revoked_total").await? >= Some(1.0));
    }
    assert!(tabs.iter().all(|tab| tab.bodies(group).is_empty()), "delivered to who is blocked");
    let again = order(&cluster, 2, &key, "id-ben", "block", &json!({})).await?;
    assert_eq!(count(&again, "confirmed"), 3, "harmless to repeat: {again}");
    assert_eq!(sender.record(|record| record.closed.clone()), None, "nobody else");
    // A gateway that starts later has the list before it is ready.
    let mut cluster = cluster;
    cluster.add_gateway()?;
    cluster.gateways[3].wait_ready().await?;
    assert_eq!(get(&cluster, 3, &ben.token(), "me").await?, (403, "blocked".to_owned()));
    let answer = order(&cluster, 0, &key, "id-ben", "unblock", &json!({})).await?;
    assert_eq!((&answer["blocked"], count(&answer, "unconfirmed")), (&json!(false), 0), "{answer}");
    let back = Client::connect(cluster.gateway(2), &ben).await?;
    back.send(group, "ben again").await?;
    sender.wait_for_body("ben again").await?;
    assert_eq!(get(&cluster, 3, &ben.token(), "me").await?.0, 200);
    Ok(())
}

/// A token issued at this second.
fn issued_at(user: &User, second: Option<u64>) -> String {
    let mut claims = user.claims();
    match second {
        Some(second) => claims["iat"] = json!(second),
        None => drop(claims.as_object_mut().expect("claims are an object").remove("iat")),
    }
    sign(&claims, SECRET)
}

async fn revoked_tokens_are_void_and_newer_ones_are_not(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let ben = User::named("ben");
    let before = now() - 100;
    let [old, new, undated] = [Some(before), Some(before + 50), None].map(|second| issued_at(&ben, second));
    let connect = async |token: &str, gateway: usize| -> Result<Client> {
        let mut client = Client::with_token(&ben, token.to_owned());
        client.reconnect(cluster.gateway(gateway)).await?;
        Ok(client)
    };
    let (with_old, with_new, with_undated) = (connect(&old, 0).await?, connect(&new, 1).await?, connect(&undated, 1).await?);
    let refreshed = connect(&old, 1).await?;
    refreshed.request(json!({"type": "refresh", "token": new})).await?;
    let key = cluster.api_key("shop")?;
    // The time of a token is a whole second: those of this one are void too.
    let answer = order(&cluster, 0, &key, "id-ben", "revoke", &json!({"before": time_of(before + 1)})).await?;
    assert_eq!((count(&answer, "confirmed"), &answer["blocked"]), (2, &json!(false)), "{answer}");
    for client in [&with_old, &with_undated] {
        assert_eq!(client.wait_for_close(BOUND).await?.0, 4401);
    }
    for (token, gateway) in [(&old, 0), (&old, 1), (&undated, 0)] {
        assert_eq!(refused(&cluster, gateway, token).await?, ("unauthorized".to_owned(), 4401));
        assert_eq!(get(&cluster, gateway, token, "me").await?, (401, "unauthorized".to_owned()));
    }
    connect(&new, 0).await?;
    assert_eq!(get(&cluster, 1, &new, "me").await?.0, 200);
    let error = with_new.request(json!({"type": "refresh", "token": old})).await.expect_err("void");
    assert_eq!(error.code(), "unauthorized", "{error}");
    for client in [&with_new, &refreshed] {
        client.join("lobby").await.context("stands on a token that holds")?;
    }
    assert!(cluster.gateways[1].metric("natter_gateway_refreshed_total").await? >= Some(1.0));
    let url = format!("http://{}/api/v1/server/users/id-ben/revoke", cluster.gateway(0));
    let future = json!({"before": time_of(now() + 60)});
    let answer = reqwest::Client::new().post(url).bearer_auth(&key).json(&future).send().await?;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "nobody is locked out for times to come");
    order(&cluster, 1, &key, "id-ben", "revoke", &json!({})).await?;
    for client in [&with_new, &refreshed] {
        assert_eq!(client.wait_for_close(BOUND).await?.0, 4401);
    }
    Ok(())
}

fn time_of(second: u64) -> String {
    natter_shared::timestamp::Timestamp(second * 1000).to_string()
}

/// The persister that commits is killed at once: what it has not told, the other one tells.
async fn a_block_committed_by_one_persister_reaches_gateways_over_the_other(store: Store) -> Result<()> {
    let mut cluster = Cluster::builder().gateways(2).store(store).start().await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let sql = cluster.sql().await?;
    // As by a persister that died after its commit.
    let version = natter_shared::timestamp::Timestamp::now().0;
    sql.rows(&format!("UPDATE standings_version SET version = {version}")).await?;
    sql.rows(&format!("INSERT INTO standings (user_id, blocked_at, void_before, version) VALUES ('id-ben', 1, 0, {version})")).await?;
    assert_eq!(ben.wait_for_close(BOUND).await?.0, 4403);
    cluster.persisters[0].process.kill_and_start()?;
    cluster.persisters[0].wait_ready().await?;
    assert_eq!(refused(&cluster, 0, &User::named("ben").token()).await?, ("blocked".to_owned(), 4403));
    Ok(())
}

/// Three gateways; one hears no announcement (and still delivers), one is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_cut_off_ends_its_sessions_by_itself() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(3).proxied().start().await?;
    let (ann, ben) = (User::named("ann"), User::named("ben"));
    let sender = Client::connect(cluster.gateway(0), &ann).await?;
    let group = sender.join("lobby").await?;
    let mut cut_off = Client::connect(cluster.gateway(1), &ben).await?;
    cut_off.join("lobby").await?;
    let mut other = Client::connect(cluster.gateway(1), &User::named("cid")).await?;
    other.join("lobby").await?;
    let killed = Client::connect(cluster.gateway(2), &ben).await?;
    killed.wait_until("the lobby", ANSWER, |record| record.position(group)).await?;
    let key = cluster.api_key("shop")?;
    cluster.gateways[2].process.kill()?;
    let proxy = cluster.gateways[1].nats.as_ref().context("a proxy")?;
    proxy.set(Select::named("-calls"), Condition::both(Link::Silent));
    let answer = order(&cluster, 0, &key, "id-ben", "block", &json!({})).await?;
    assert_eq!((count(&answer, "confirmed"), count(&answer, "unconfirmed")), (1, 2), "{answer}");
    // That is 4.25 s; a busy machine takes longer for anything.
    let (code, _) = cut_off.wait_for_close(2 * BOUND).await?;
    assert_eq!(code, 1013, "it cannot know who is blocked");
    assert!(cut_off.reconnect(cluster.gateway(1)).await.is_err(), "let in before it knows who is blocked");
    // Nor over HTTP, where it would do for a message that its publishing is not cut off.
    let said = post(&cluster, 1, &ben.token(), &format!("groups/{group}/messages"), &json!({"body": "not by ben"})).await?;
    let read = get(&cluster, 1, &ben.token(), &format!("groups/{group}/messages")).await?;
    assert_eq!((said.0, read.0), (503, 503), "{said:?} {read:?}");
    sender.send(group, "not for ben").await?;
    proxy.heal();
    cluster.gateways[1].wait_ready().await?;
    other.reconnect_to_any(&[cluster.gateway(1)], PATIENCE).await?;
    other.wait_for_body("not for ben").await?;
    let until = Instant::now() + PATIENCE;
    while get(&cluster, 1, &ben.token(), "me").await? != (403, "blocked".to_owned()) {
        assert!(Instant::now() < until, "it never learns of the block");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = cut_off.reconnect(cluster.gateway(1)).await.expect_err("blocked");
    assert!(matches!(refused.downcast_ref(), Some(RequestError::Refused(error)) if error["code"] == "blocked"), "{refused}");
    assert!(cut_off.bodies(group).is_empty(), "delivered to who is blocked");
    let until = Instant::now() + PATIENCE;
    loop {
        let again = order(&cluster, 0, &key, "id-ben", "block", &json!({})).await?;
        if (count(&again, "confirmed"), count(&again, "unconfirmed")) == (2, 0) {
            return Ok(());
        }
        assert!(Instant::now() < until, "the killed one is never forgotten: {again}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Nobody can be blocked then, so nobody has to be turned out.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_persister_sessions_go_on() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(2).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group: GroupId = ann.join("lobby").await?;
    ben.join("lobby").await?;
    cluster.persisters[0].process.kill()?;
    tokio::time::sleep(BOUND + Duration::from_secs(2)).await;
    ann.send(group, "nobody is away").await?;
    ben.wait_for_body("nobody is away").await?;
    Ok(())
}
