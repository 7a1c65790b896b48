//! The HTTP API over real processes: what one gateway is told, the other one shows.

use anyhow::{Context, Result, ensure};
use natter_tests::{
    client::{ANSWER, Client},
    cluster::{Cluster, Store},
    token::User,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

super::on_both_stores!(
    a_retry_makes_no_second_message_and_history_says_where_to_connect,
    marks_show_in_the_next_list_whichever_gateway_is_asked,
    a_disconnect_closes_the_users_connections_on_every_gateway,
);

/// Calls gateway `index`; its status and body.
pub(super) async fn call(
    cluster: &Cluster,
    index: usize,
    who: &str,
    method: Method,
    path: &str,
    key: Option<&str>,
    body: Value,
) -> Result<(StatusCode, Value)> {
    let url = format!("http://{}/api/v1/{path}", cluster.gateway(index));
    let mut request = reqwest::Client::new().request(method.clone(), url).bearer_auth(who);
    if method != Method::GET {
        request = request.json(&body);
    }
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    let answer = request.send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    Ok((status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).with_context(|| text.clone())? }))
}

/// What a call that succeeds is answered with.
pub(super) async fn done(cluster: &Cluster, index: usize, who: &str, method: Method, path: &str, body: Value) -> Result<Value> {
    let (status, answer) = call(cluster, index, who, method, path, None, body).await?;
    ensure!(status.is_success(), "{path}: {status} {answer}");
    Ok(answer)
}

async fn a_retry_makes_no_second_message_and_history_says_where_to_connect(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let (ann, ben) = (User::named("ann"), User::named("ben"));
    let (ann_token, ben_token) = (ann.token(), ben.token());
    done(&cluster, 0, &ben_token, Method::POST, "groups/open", json!({"name": "lobby"})).await?;
    let group = done(&cluster, 1, &ann_token, Method::POST, "groups/open", json!({"name": "lobby"})).await?;
    let listener = Client::connect(cluster.gateway(1), &ben).await?;
    // A key's nonce is of long ago: each try is looked up, on whichever gateway it comes.
    let mut answers = Vec::new();
    for index in [0, 1, 0] {
        answers.push(
            call(&cluster, index, &ann_token, Method::POST, "groups/lobby/messages", Some("order-7"), json!({"body": "once"})).await?,
        );
    }
    ensure!(answers.iter().all(|answer| *answer == answers[0] && answer.0 == StatusCode::CREATED), "{answers:?}");
    let (status, other) =
        call(&cluster, 1, &ann_token, Method::POST, "groups/lobby/messages", Some("order-7"), json!({"body": "else"})).await?;
    ensure!(status == StatusCode::CONFLICT && other["code"] == "nonce_reused", "{status} {other}");
    let (_, bens) = call(&cluster, 1, &ben_token, Method::POST, "groups/lobby/messages", Some("order-7"), json!({"body": "mine"})).await?;
    ensure!(bens["message_id"] != answers[0].1["message_id"], "a key is its sender's own: {bens}");
    listener.wait_for_body("once").await?;
    let history =
        done(&cluster, 0, &ann_token, Method::GET, &format!("groups/{}/messages", group["id"].as_str().context("an id")?), Value::Null)
            .await?;
    let bodies: Vec<_> = history["messages"].as_array().context("messages")?.iter().map(|message| message["body"].clone()).collect();
    ensure!(bodies.iter().filter(|body| **body == "once").count() == 1, "{history}");
    ensure!(history["position"].is_string() && history["more"] == false, "{history}");
    let (status, outsider) =
        call(&cluster, 0, &User::named("cid").token(), Method::GET, "groups/lobby/messages", None, Value::Null).await?;
    ensure!(status == StatusCode::NOT_FOUND, "{status} {outsider}");
    Ok(())
}

async fn marks_show_in_the_next_list_whichever_gateway_is_asked(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let (ann, ben) = (User::named("ann").token(), User::named("ben").token());
    done(&cluster, 0, &ben, Method::GET, "me", Value::Null).await?;
    for number in 0..5 {
        let body = json!({"to": {"user": "id-ben"}, "body": format!("{number}")});
        let told = done(&cluster, number % 2, &ann, Method::POST, "notifications", body).await?;
        // The mark waits for what stands before it, so all of it is there.
        done(&cluster, 1, &ben, Method::POST, "notifications/seen", json!({"ids": [told["notification_id"]]})).await?;
        let counts = done(&cluster, 0, &ben, Method::GET, "notifications/counts", Value::Null).await?;
        ensure!(counts["unseen"] == 0 && counts["unread"] == json!(number + 1), "{counts}");
    }
    let mut bodies = Vec::new();
    let mut path = "notifications?limit=2".to_owned();
    loop {
        let page = done(&cluster, 0, &ben, Method::GET, &path, Value::Null).await?;
        bodies.extend(page["notifications"].as_array().context("a list")?.iter().map(|one| one["body"].clone()));
        if bodies.len() == 2 {
            // What comes meanwhile is newer, and moves nothing.
            done(&cluster, 0, &ann, Method::POST, "notifications", json!({"to": {"user": "id-ben"}, "body": "late"})).await?;
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("notifications?limit=2&cursor={next}");
    }
    ensure!(bodies == ["4", "3", "2", "1", "0"], "{bodies:?}");
    Ok(())
}

async fn a_disconnect_closes_the_users_connections_on_every_gateway(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let ben = User::named("ben");
    let tabs = [Client::connect(cluster.gateway(0), &ben).await?, Client::connect(cluster.gateway(1), &ben).await?];
    let key = cluster.api_key("shop")?;
    let (status, answer) = call(&cluster, 0, &key, Method::POST, "server/users/id-ben/disconnect", None, json!({})).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status} {answer}");
    for tab in &tabs {
        let (code, reason) = tab.wait_for_close(ANSWER).await?;
        ensure!(code == 4403, "{code} {reason}");
    }
    // Only told to come back, as of a gateway that stops.
    let ann = Client::connect(cluster.gateway(1), &User::named("ann")).await?;
    let tabs = [Client::connect(cluster.gateway(0), &ben).await?, Client::connect(cluster.gateway(1), &ben).await?];
    let (status, answer) =
        call(&cluster, 1, &key, Method::POST, "server/users/id-ben/disconnect", None, json!({"reconnect": true})).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status} {answer}");
    for tab in &tabs {
        let (code, reason) = tab.wait_for_close(ANSWER).await?;
        ensure!(code == 1012, "{code} {reason}");
    }
    ann.join("lobby").await.context("nobody else is disconnected")?;
    let told = json!({"to": {"users": ["id-ben", "id-never-here"]}, "body": "hello"});
    let first = call(&cluster, 0, &key, Method::POST, "server/notifications", Some("hello-1"), told.clone()).await?;
    let again = call(&cluster, 1, &key, Method::POST, "server/notifications", Some("hello-1"), told).await?;
    ensure!(first == again && first.0 == StatusCode::CREATED, "{first:?} {again:?}");
    ensure!(first.1["notifications"].as_array().map(Vec::len) == Some(2), "{first:?}");
    let (status, answer) = call(&cluster, 0, "ntr_wrong", Method::GET, "server/users/id-ben", None, Value::Null).await?;
    ensure!(status == StatusCode::UNAUTHORIZED, "{status} {answer}");
    Ok(())
}
