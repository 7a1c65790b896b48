//! Sending: bounded windows with an answer at once, order whatever has to be sent again, admission
//! before anything is evicted, and clocks that are wrong.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use natter_shared::{
    id::{GroupId, Nonce},
    timestamp::Timestamp,
};
use natter_tests::{
    client::{ANSWER, Client, RequestError},
    clock,
    cluster::{Cluster, Store},
    http::HttpSession,
    token::User,
};
use serde_json::{Value, json};

use super::chat::wait_until;

/// A message that may have to be sent more than once.
struct Note {
    nonce: Nonce,
    body: String,
}

fn notes(label: &str, count: usize) -> Vec<Note> {
    (0..count).map(|number| Note { nonce: Nonce::now(), body: format!("{label} {number}") }).collect()
}

/// Sends all of them without waiting for an answer in between.
async fn pipeline(client: &Client, group: GroupId, notes: &[Note]) -> Vec<Result<natter_tests::checker::Fact, RequestError>> {
    let group = group.to_string();
    join_all(notes.iter().map(|note| client.send_as(note.nonce, &group, &note.body))).await
}

/// The `error` frame of a refusal.
fn error_of<T: std::fmt::Debug>(outcome: &Result<T, RequestError>) -> &Value {
    match outcome {
        Err(RequestError::Refused(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

/// How many sends the first gateway has answered with `busy` for this reason.
async fn busy(cluster: &Cluster, reason: &str) -> u64 {
    let told = cluster.gateways[0].metric(&format!("natter_gateway_busy_total{{reason=\"{reason}\"}}")).await;
    told.ok().flatten().unwrap_or_default() as u64
}

/// Waits until SQL has exactly so many messages.
async fn wait_for_rows(cluster: &Cluster, count: usize) -> Result<()> {
    let sql = cluster.sql().await?;
    wait_until("a row for each that was accepted", async || sql.messages().await.is_ok_and(|rows| rows.len() == count)).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_are_full_answer_busy_at_once() -> Result<()> {
    let cluster = Cluster::builder()
        .gateways(1)
        .env("NATTER_LIMITS__IN_FLIGHT_SENDS", "4")
        .env("NATTER_NATS__IN_FLIGHT", "2")
        .env("NATTER_LIMITS__SEND_DEADLINE", "10s")
        .start()
        .await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let group = ann.join("lobby").await?;
    let mut rooms = Vec::new();
    for room in ["one", "two", "three"] {
        rooms.push(ann.join(room).await?);
    }

    // The connection's window: four wait for a broker that hangs, the others hear of it now.
    cluster.nats.node(0).pause()?;
    let begun = Instant::now();
    let sent = notes("window", 6);
    let (outcomes, ()) = tokio::join!(pipeline(&ann, group, &sent), async {
        wait_until("two refusals", async || busy(&cluster, "connection").await == 2).await;
        // Nor does anything else fit in.
        let refused = ann.request(json!({"type": "seen", "ids": []})).await;
        assert_eq!(error_of(&refused)["code"], "busy");
        assert!(begun.elapsed() < Duration::from_secs(5), "at once: {:?}", begun.elapsed());
        let sample = "natter_gateway_refused_total{limit=\"in_flight_sends\"}";
        assert_eq!(cluster.gateways[0].metric(sample).await.unwrap(), Some(3.0));
        cluster.nats.node(0).go_on().unwrap();
    });
    let accepted: Vec<_> = outcomes.iter().take(4).map(|outcome| outcome.as_ref().map(|fact| fact.position)).collect();
    assert!(accepted.iter().all(Result::is_ok) && accepted.is_sorted_by_key(|position| position.as_ref().ok().copied()), "{accepted:?}");
    for outcome in &outcomes[4..] {
        let error = error_of(outcome);
        assert_eq!((&error["code"], &error["retryable"]), (&json!("busy"), &json!(true)), "{error}");
        assert!(error["retry_after_ms"].as_u64().is_some_and(|after| after >= 100), "{error}");
    }

    // The gateway's: two publishes are on their way, a third has no room.
    cluster.nats.node(0).pause()?;
    let begun = Instant::now();
    let sends = join_all(rooms.iter().map(|room| ann.send(*room, "through a narrow door")));
    let (outcomes, ()) = tokio::join!(sends, async {
        wait_until("a refusal", async || busy(&cluster, "gateway").await == 1).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "at once: {:?}", begun.elapsed());
        cluster.nats.node(0).go_on().unwrap();
    });
    let refused: Vec<_> = outcomes.iter().filter(|outcome| outcome.is_err()).collect();
    assert_eq!(refused.len(), 1, "{outcomes:?}");
    assert_eq!(error_of(refused[0])["code"], "busy");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_overtakes_a_send_that_ran_out_of_time_and_is_sent_again() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).env("NATTER_LIMITS__SEND_DEADLINE", "2s").start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(0), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    cluster.nats.node(0).pause()?;
    let begun = Instant::now();
    let sent = notes("late", 4);
    let outcomes = pipeline(&ann, group, &sent).await;
    assert!((2..5).contains(&begun.elapsed().as_secs()), "one deadline, not one for each: {:?}", begun.elapsed());
    let codes: Vec<&Value> = outcomes.iter().map(|outcome| &error_of(outcome)["code"]).collect();
    assert_eq!(codes, ["pending", "busy", "busy", "busy"]);
    assert!(outcomes.iter().all(|outcome| error_of(outcome)["retry_after_ms"].is_u64()));
    cluster.nats.node(0).go_on()?;
    for note in &sent {
        let mut outcome = ann.send_as(note.nonce, "lobby", &note.body).await;
        for _ in 0..20 {
            if outcome.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            outcome = ann.send_as(note.nonce, "lobby", &note.body).await;
        }
        outcome.with_context(|| note.body.clone())?;
    }
    ben.wait_for_body("late 3").await?;
    let late: Vec<String> = ben.bodies(group).into_iter().filter(|body| body.starts_with("late")).collect();
    assert_eq!(late, sent.iter().map(|note| note.body.clone()).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_sender_pipelines_while_nats_is_killed_and_restarted_arrives_in_order() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(2).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    let mut all = Vec::new();
    for round in 0..3 {
        let sent = notes(&format!("round {round}:"), 60);
        let first = sent[0].body.clone();
        let (outcomes, killed) = tokio::join!(pipeline(&ann, group, &sent), async {
            ben.wait_for_body(&first).await?;
            cluster.nats.kill()?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            cluster.nats.restart()?;
            anyhow::Ok(())
        });
        killed?;
        let mut again = outcomes.iter().zip(&sent).filter(|(outcome, _)| outcome.is_err()).peekable();
        // Nothing was accepted behind what was not.
        let first_refused = outcomes.iter().position(Result::is_err).unwrap_or(sent.len());
        ensure!(outcomes[first_refused..].iter().all(Result::is_err), "overtaken: {outcomes:?}");
        while let Some((outcome, note)) = again.peek() {
            ensure!(error_of(outcome)["retryable"] == true, "{outcome:?}");
            if ann.send_as(note.nonce, "lobby", &note.body).await.is_ok() {
                again.next();
            } else {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        all.extend(sent.into_iter().map(|note| note.body));
        ben.wait_for_body(all.last().context("sent")?).await?;
    }
    assert_eq!(ben.bodies(group), all);
    wait_for_rows(&cluster, all.len()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_whose_log_is_not_in_sql_refuses_before_it_evicts_and_goes_on_when_the_database_is_back() -> Result<()> {
    fill_without(
        async |cluster| cluster.postgres.as_mut().context("PostgreSQL")?.stop(),
        async |cluster| cluster.postgres.as_mut().context("PostgreSQL")?.start_again(),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_no_persister_reads_refuses_before_it_evicts_and_goes_on_when_one_is_back() -> Result<()> {
    fill_without(async |cluster| cluster.persisters[0].process.kill(), async |cluster| cluster.persisters[0].process.start_again()).await
}

/// Fills a shard while nothing of it gets into SQL, and empties it again.
async fn fill_without(
    stop: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
    start: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    let mut cluster = Cluster::builder()
        .gateways(2)
        .store(Store::Postgres)
        .env("NATTER_NATS__SHARDS", "1")
        .env("NATTER_NATS__MAX_BYTES_PER_SHARD", "16MiB")
        .start()
        .await?;
    let mut ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    stop(&mut cluster).await?;

    // About a megabyte a second: from a closed door to the last byte there are three.
    let body = "x".repeat(16_000);
    let mut accepted = Vec::new();
    let refused = loop {
        let number = accepted.len();
        ensure!(number < 1200, "19 MB went into a stream of 16 MiB and nothing was refused");
        match ann.send(group, &format!("{number} {body}")).await {
            Ok(fact) => accepted.push(fact),
            Err(RequestError::Refused(error)) if error["code"] == "busy" => break error,
            Err(RequestError::Refused(error)) if error["retryable"] == true => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    };
    ensure!(accepted.len() > 600, "refused long before it had to be: {}", accepted.len());
    assert!(refused["retry_after_ms"].as_u64().is_some_and(|after| after >= 2000), "{refused}");
    // Everybody is refused, everything that is an event of a user; what is stored is still delivered.
    wait_until(
        "the other gateway",
        async || matches!(ben.send(group, "me too").await, Err(RequestError::Refused(error)) if error["code"] == "busy"),
    )
    .await;
    let read = ann.request(json!({"type": "read", "group": group, "position": accepted[0].position})).await;
    assert_eq!(error_of(&read)["code"], "busy");
    let notify = ann.request(json!({"type": "notify", "to": {"group": group}, "nonce": Nonce::now(), "body": "hear"})).await;
    assert_eq!(error_of(&notify)["code"], "busy");
    ben.wait_for_body(&format!("{} {body}", accepted.len() - 1)).await?;
    assert!(busy(&cluster, "shard").await >= 1);
    let ratio = cluster.gateways[0].metric("natter_gateway_unapplied_ratio{shard=\"0\"}").await?.context("a ratio")?;
    assert!((0.8..1.0).contains(&ratio), "{ratio}");
    let missing = reqwest::get(format!("http://{}/readyz", cluster.gateway(0))).await?.text().await?;
    assert!(!missing.contains("streams") && !missing.contains("broker"), "the path works: {missing}");

    start(&mut cluster).await?;
    let addrs = cluster.addrs();
    accepted.push(ann.send_until_accepted(Nonce::now(), group, "at last", &addrs, Duration::from_mins(1)).await?);
    ben.wait_for_body("at last").await?;
    let sql = cluster.sql().await?;
    // Ben may have been heard before the door was shut to him.
    wait_until("every row", async || sql.messages().await.is_ok_and(|rows| rows.len() >= accepted.len())).await;
    let rows = sql.messages().await?;
    let missing = accepted.iter().filter(|fact| !rows.contains(fact)).count();
    assert_eq!(missing, 0, "accepted, evicted, and nowhere else");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_wrong_clock_and_its_jumps_harm_nothing() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(1).start().await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("clock");
    clock::set(&file, "+20m")?;
    let env = clock::env(&file)?;
    cluster.add_gateway_with(&env.each_ref().map(|(key, value)| (*key, value.as_str())))?;
    cluster.wait_ready().await?;
    let ann = Client::connect(cluster.gateway(1), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(0), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    let mut sent = Vec::new();
    for offset in ["+20m", "-20m", "+0", "-40m", "+40m"] {
        clock::set(&file, offset)?;
        // By which clients make their nonces.
        let told = Client::new(&User::named("cid")).reconnect(cluster.gateway(1)).await?["time"].clone();
        let (told, now): (Timestamp, _) = (serde_json::from_value(told)?, Timestamp::now());
        ensure!(told.since(now).max(now.since(told)) < Duration::from_secs(10), "{offset}: told {told}, not {now}");
        for number in 0..3 {
            let body = format!("{offset}: {number}");
            ann.send(group, &body).await?;
            let push = ben.wait_for_body(&body).await?;
            let (at, now): (Timestamp, _) = (serde_json::from_value(push["sent_at"].clone())?, Timestamp::now());
            ensure!(at.since(now).max(now.since(at)) < Duration::from_mins(2), "{body}: sent at {at}, not {now}");
            sent.push(body);
        }
    }
    assert_eq!(ben.bodies(group), sent);
    wait_for_rows(&cluster, sent.len()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn chat_outlives_every_persister_and_a_gateway_behind_a_half_open_link_comes_back() -> Result<()> {
    use natter_tests::proxy::{Condition, Link, Select};
    let mut cluster = Cluster::builder().gateways(2).proxied().start().await?;
    let mut ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ann.join("lobby").await?;
    ben.join("lobby").await?;
    cluster.persisters[0].process.kill()?;
    // Long enough for gateways to miss it and to look by themselves.
    wait_until("a gateway that misses the persister", async || !cluster.gateways[0].is_ready().await).await;
    assert_eq!(cluster.gateways[0].status("/healthz").await, Some(200), "alive all the same");
    ann.send(group, "without a persister").await?;
    ben.wait_for_body("without a persister").await?;
    cluster.persisters[0].process.start_again()?;
    cluster.wait_ready().await?;

    // The link of its publishes is dead, and nobody says so.
    cluster.gateways[0].nats.as_ref().context("a proxy")?.set(Select::named("gateway-publish"), Condition::both(Link::Silent));
    let begun = Instant::now();
    let addrs = cluster.addrs();
    let nonce = Nonce::now();
    let healed = async {
        // What is dead stays so; it is the next connection that works.
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.gateways[0].nats.as_ref().context("a proxy")?.cut(&Select::named("gateway-publish"));
        cluster.gateways[0].nats.as_ref().context("a proxy")?.heal();
        anyhow::Ok(())
    };
    let (accepted, healed) = tokio::join!(ann.send_until_accepted(nonce, group, "through", &addrs, Duration::from_mins(1)), healed);
    healed?;
    accepted?;
    assert!(begun.elapsed() < ANSWER + Duration::from_secs(10), "{:?}", begun.elapsed());
    ben.wait_for_body("through").await?;
    assert_eq!(ben.bodies(group), ["without a persister", "through"]);
    let session = HttpSession::signed_in(cluster.gateway(0), "cleo").await?;
    assert!(session.get("/readyz").await?.status().is_success());
    Ok(())
}
