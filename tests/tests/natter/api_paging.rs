//! Reading over HTTP while others write, and trying again when the broker was away.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use natter_shared::position::Position;
use natter_tests::{
    client::Client,
    cluster::{Cluster, Store},
    token::User,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::{call, done};

super::on_both_stores!(
    a_page_of_history_says_where_to_connect_while_messages_flow,
    lists_of_groups_and_users_miss_and_repeat_nothing_while_rows_come_and_go,
    without_nats_calls_are_told_to_try_again_and_the_retry_is_the_same_message,
);

/// The numbers of the messages that a page of history has.
fn numbers(messages: &Value) -> Result<Vec<u32>> {
    let number = |message: &Value| message["body"].as_str().context("a body")?.parse().context("a number");
    messages.as_array().context("messages")?.iter().map(number).collect()
}

async fn a_page_of_history_says_where_to_connect_while_messages_flow(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let (ann, ben) = (User::named("ann"), User::named("ben"));
    let (ann_token, ben_token) = (ann.token(), ben.token());
    let group = done(&cluster, 0, &ann_token, Method::POST, "groups/open", json!({"name": "lobby"})).await?;
    let group = group["id"].as_str().context("an id")?.parse()?;
    done(&cluster, 1, &ben_token, Method::POST, "groups/open", json!({"name": "lobby"})).await?;
    let stop = CancellationToken::new();
    let talk = async {
        let mut sent = 0_u32;
        while !stop.is_cancelled() {
            let body = json!({"body": sent.to_string()});
            done(&cluster, usize::from(sent % 2 == 1), &ann_token, Method::POST, "groups/lobby/messages", body).await?;
            sent += 1;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        anyhow::Ok(sent)
    };
    let read = async {
        let _stop = stop.clone().drop_guard();
        let mut readers = Vec::new();
        for index in [0, 1, 0, 1, 0, 1] {
            let page = done(&cluster, index, &ben_token, Method::GET, "groups/lobby/messages?limit=5", Value::Null).await?;
            let position: Position = page["position"].as_str().context("a position")?.parse()?;
            // More comes between the page and the connection.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let mut reader = Client::new(&ben);
            reader.resume_from(group, position);
            reader.reconnect(cluster.gateway(1 - index)).await?;
            readers.push((numbers(&page["messages"])?, reader));
        }
        anyhow::Ok(readers)
    };
    let (sent, readers) = tokio::try_join!(talk, read)?;
    let last = (sent - 1).to_string();
    for (page, reader) in readers {
        if page.last() != Some(&(sent - 1)) {
            reader.wait_for_body(&last).await?;
        }
        let came: Vec<u32> = reader.bodies(group).iter().map(|body| body.parse()).collect::<Result<_, _>>()?;
        let all: Vec<u32> = page.iter().chain(&came).copied().collect();
        let wanted: Vec<u32> = (all.first().copied().unwrap_or_default()..sent).collect();
        ensure!(!came.is_empty() && all == wanted, "a page of {page:?}, then {came:?}, of {sent}");
    }
    Ok(())
}

/// All pages of a list, by id, with `meanwhile` after each page.
async fn all_pages(cluster: &Cluster, who: &str, list: &str, mut meanwhile: impl AsyncFnMut(usize) -> Result<()>) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    let mut path = format!("{list}?limit=2");
    for page in 0..100 {
        let answer = done(cluster, page % 2, who, Method::GET, &path, Value::Null).await?;
        let rows = answer[list].as_array().context("a list")?;
        ids.extend(rows.iter().filter_map(|row| row["id"].as_str().map(str::to_owned)));
        let Some(next) = answer["next"].as_str() else { return Ok(ids) };
        meanwhile(page).await?;
        path = format!("{list}?limit=2&cursor={next}");
    }
    anyhow::bail!("no end of {list}: {ids:?}")
}

/// Everything of `before` is there, and nothing twice.
fn ensure_whole(listed: &[String], before: &HashSet<String>) -> Result<()> {
    let set: HashSet<String> = listed.iter().cloned().collect();
    ensure!(set.len() == listed.len(), "something came twice: {listed:?}");
    ensure!(before.is_subset(&set), "{before:?} was there, {listed:?} was listed");
    Ok(())
}

async fn lists_of_groups_and_users_miss_and_repeat_nothing_while_rows_come_and_go(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let key = cluster.api_key("shop")?;
    let ann = User::named("ann").token();
    let mut groups = HashSet::new();
    let mut users = HashSet::new();
    let mut leaving = Vec::new();
    for number in 0..8 {
        let (user, handle) = (format!("u{number}"), format!("m{number}"));
        done(&cluster, 0, &key, Method::PUT, &format!("server/users/{user}"), json!({"handle": handle})).await?;
        users.insert(user);
        let made = done(&cluster, 0, &ann, Method::POST, "groups", json!({"display_name": format!("{number}")})).await?;
        groups.insert(made["id"].as_str().context("an id")?.to_owned());
        let left = done(&cluster, 0, &ann, Method::POST, "groups", json!({"display_name": "left"})).await?;
        leaving.push(left["id"].as_str().context("an id")?.to_owned());
    }
    let listed = all_pages(&cluster, &ann, "groups", async |page| {
        done(&cluster, 1, &ann, Method::POST, "groups", json!({"display_name": format!("late {page}")})).await?;
        if let Some(group) = leaving.get(page) {
            done(&cluster, 1, &ann, Method::POST, &format!("groups/{group}/leave"), json!({})).await?;
        }
        Ok(())
    });
    ensure_whole(&listed.await?, &groups)?;
    let listed = all_pages(&cluster, &ann, "users", async |page| {
        // Before and behind whatever the cursor stands at; a few, so that there is an end.
        if page < 4 {
            for first in ["a", "m0", "m5", "z"] {
                let path = format!("server/users/late-{first}-{page}");
                done(&cluster, 1, &key, Method::PUT, &path, json!({"handle": format!("{first}{page}")})).await?;
            }
        }
        Ok(())
    });
    ensure_whole(&listed.await?, &users)
}

async fn without_nats_calls_are_told_to_try_again_and_the_retry_is_the_same_message(store: Store) -> Result<()> {
    let mut cluster = Cluster::builder().store(store).start().await?;
    let ann = User::named("ann").token();
    let group = done(&cluster, 0, &ann, Method::POST, "groups/open", json!({"name": "lobby"})).await?;
    let path = format!("groups/{}/messages", group["id"].as_str().context("an id")?);
    done(&cluster, 1, &ann, Method::POST, &path, json!({"body": "before"})).await?;
    cluster.nats.kill()?;
    let tries = [
        (Method::POST, path.as_str(), json!({"body": "while away"})),
        (Method::GET, path.as_str(), Value::Null),
        (Method::GET, "groups", Value::Null),
        (Method::POST, "notifications", json!({"to": {"user": "id-ann"}, "body": "while away"})),
        (Method::POST, "groups", json!({"display_name": "while away"})),
    ];
    for (index, (method, path, body)) in tries.iter().enumerate() {
        let asked = Instant::now();
        let (status, answer) =
            call(&cluster, index % 2, &ann, method.clone(), path, Some("away-1").filter(|_| *method == Method::POST), body.clone()).await?;
        ensure!(status == StatusCode::SERVICE_UNAVAILABLE && answer["retryable"] == true, "{method} {path}: {status} {answer}");
        ensure!(asked.elapsed() < Duration::from_secs(17), "{method} {path} took {:?}", asked.elapsed());
    }
    cluster.nats.restart()?;
    let until = Instant::now() + Duration::from_secs(30);
    let mut stored = Vec::new();
    for index in [0, 1] {
        loop {
            let body = json!({"body": "while away"});
            let (status, answer) = call(&cluster, index, &ann, Method::POST, &path, Some("away-1"), body).await?;
            if status == StatusCode::CREATED {
                stored.push(answer);
                break;
            }
            let told = status == StatusCode::SERVICE_UNAVAILABLE && answer["retryable"] == true;
            ensure!(told && Instant::now() < until, "{status} {answer}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    ensure!(stored[0] == stored[1], "{stored:?}");
    // What was sent by this gateway shows there at once.
    let history = done(&cluster, 1, &ann, Method::GET, &path, Value::Null).await?;
    let bodies: Vec<_> = history["messages"].as_array().context("messages")?.iter().map(|message| &message["body"]).collect();
    ensure!(bodies == ["before", "while away"], "{history}");
    Ok(())
}
