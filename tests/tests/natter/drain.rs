//! A gateway that is told to stop: clients leave at a pace, what they began is answered, and nothing
//! holds up the end.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{StreamExt, future::join_all};
use natter_shared::id::Nonce;
use natter_tests::{
    chatroom::ChatRoom,
    client::{ANSWER, Client, RequestError},
    cluster::Cluster,
    socket::upgrade_v1,
    standalone::Standalone,
    token::User,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Message;

fn is_draining(push: &Value) -> bool {
    push["type"] == "draining"
}

/// Waits until the gateway has read what the client sent: it reads frames in their order.
async fn has_read(client: &Client) {
    let refused = client.request(json!({"type": "nothing"})).await.expect_err("no such type");
    assert_eq!(refused.code(), "unknown_type", "{refused}");
}

/// Waits for the close of each client; when each came.
async fn closes(clients: &[Client]) -> Result<Vec<Instant>> {
    let closes = clients.iter().map(|client| async {
        let (code, _) = client.wait_for_close(Duration::from_secs(20)).await?;
        let at = Instant::now();
        let told = client.record(|record| record.pushes.iter().filter(|push| is_draining(push)).count());
        assert_eq!((code, told), (1012, 1), "{}", client.user.handle);
        Ok(at)
    });
    let mut at = join_all(closes).await.into_iter().collect::<Result<Vec<_>>>()?;
    at.sort();
    Ok(at)
}

/// The most of `times` within any second.
fn most_a_second(times: &[Instant]) -> usize {
    let within = |from: &Instant| times.iter().filter(|at| **at >= *from && at.duration_since(*from) < Duration::from_secs(1)).count();
    times.iter().map(within).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_to_leave_at_the_configured_pace() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(1).env("NATTER_GATEWAY__DRAIN_RATE", "40").start().await?;
    let mut clients = Vec::new();
    for number in 0..120 {
        clients.push(Client::connect(cluster.gateway(0), &User::named(&format!("user-{number}"))).await?);
    }
    let begun = Instant::now();
    cluster.gateways[0].process.signal(libc::SIGTERM)?;
    let times = closes(&clients).await?;
    // A busy machine may see some late, and then more of them in the second after.
    let most = most_a_second(&times);
    assert!(most <= 80, "{most} in one second");
    assert!(times[119].duration_since(begun) > Duration::from_millis(2500), "{:?}", times[119].duration_since(begun));
    let waits: Vec<u64> = clients
        .iter()
        .map(|client| client.record(|record| record.pushes.iter().find(|push| is_draining(push)).cloned()))
        .map(|told| told.unwrap_or_default()["retry_after_ms"].as_u64().expect("a time to come back"))
        .collect();
    assert!(waits.iter().all(|wait| *wait < 5000), "{waits:?}");
    let spread = (0..5).map(|second| waits.iter().filter(|wait| **wait / 1000 == second).count());
    assert!(spread.clone().all(|count| count > 0), "{:?}", spread.collect::<Vec<_>>());
    let status = cluster.gateways[0].process.wait(Duration::from_secs(5))?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_would_take_too_long_is_raised() -> Result<()> {
    let env = [("NATTER_GATEWAY__DRAIN_RATE", "1"), ("NATTER_GATEWAY__DRAIN_TIMEOUT", "6s")];
    let mut builder = Cluster::builder().gateways(1);
    for (key, value) in env {
        builder = builder.env(key, value);
    }
    let mut cluster = builder.start().await?;
    let mut clients = Vec::new();
    for number in 0..30 {
        clients.push(Client::connect(cluster.gateway(0), &User::named(&format!("user-{number}"))).await?);
    }
    cluster.gateways[0].process.signal(libc::SIGTERM)?;
    closes(&clients).await?;
    let status = cluster.gateways[0].process.wait(Duration::from_secs(10))?;
    assert!(status.success(), "within its time: {status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_is_answered_and_nothing_new_is() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(1).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let group = ann.join("lobby").await?;
    let mut room = ChatRoom::open(cluster.gateway(0), &User::named("ben"), "lobby").await?;
    cluster.nats.node(0).pause()?;
    let (sent, drained) = tokio::join!(ann.send(group, "under way"), async {
        has_read(&ann).await;
        room.chat(None, "under way, too").await?;
        room.send_text(r#"{"type": "nothing"}"#).await?;
        while room.next(ANSWER).await?["code"] != "unknown_type" {}
        cluster.gateways[0].process.signal(libc::SIGTERM)?;
        ann.wait_for("to be told to leave", ANSWER, is_draining).await?;
        let refused = ann.send(group, "too late").await.expect_err("nothing new");
        assert!(matches!(&refused, RequestError::Refused(error) if error["code"] == "draining" && error["retryable"] == true), "{refused}");
        assert!(ann.record(|record| record.closed.is_none()), "not closed with a send under way");
        Ok::<_, anyhow::Error>(cluster.nats.node(0).go_on()?)
    });
    drained?;
    sent.context("sent before, so answered before the close")?;
    let (code, _) = ann.wait_for_close(ANSWER).await?;
    assert_eq!(code, 1012);
    // What ann said comes first.
    let closed = loop {
        if let Err(closed) = room.next(ANSWER).await {
            break closed.to_string();
        }
    };
    assert!(closed.contains("Restart") || closed.contains("1012"), "{closed}");
    let status = cluster.gateways[0].process.wait(Duration::from_secs(10))?;
    assert!(status.success(), "{status}");
    let sql = cluster.sql().await?;
    super::chat::wait_until("both rows", async || sql.message_count().await.unwrap_or_default() == 2).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(1).start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let group = ann.join("lobby").await?;
    cluster.nats.node(0).pause()?;
    ann.say(&json!({"type": "send", "id": 77, "group": group, "nonce": Nonce::now(), "body": "never answered"}))?;
    has_read(&ann).await;
    cluster.gateways[0].process.signal(libc::SIGTERM)?;
    ann.wait_for("to be told to leave", ANSWER, is_draining).await?;
    let begun = Instant::now();
    cluster.gateways[0].process.signal(libc::SIGTERM)?;
    let status = cluster.gateways[0].process.wait(Duration::from_secs(10))?;
    let took = begun.elapsed();
    cluster.nats.node(0).go_on()?;
    assert!(!status.success(), "broken off is no success");
    assert!(took < Duration::from_millis(2500), "{took:?}");
    Ok(())
}

/// Connections that say nothing more: before a request, between two, and before `connect`.
struct Idle {
    silent: TcpStream,
    kept_alive: TcpStream,
    unidentified: tokio_tungstenite::WebSocketStream<TcpStream>,
}

async fn idle(addr: SocketAddr) -> Result<Idle> {
    let silent = TcpStream::connect(addr).await?;
    let mut kept_alive = TcpStream::connect(addr).await?;
    kept_alive.write_all(b"GET /healthz HTTP/1.1\r\nHost: natter\r\n\r\n").await?;
    let mut answer = [0; 12];
    kept_alive.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"HTTP/1.1 200");
    Ok(Idle { silent, kept_alive, unidentified: upgrade_v1(addr, &[]).await? })
}

/// All of them are ended, the WebSocket with a reason.
async fn are_ended(mut idle: Idle) -> Result<()> {
    let mut rest = Vec::new();
    idle.silent.read_to_end(&mut rest).await?;
    idle.kept_alive.read_to_end(&mut rest).await?;
    let first = idle.unidentified.next().await.context("an error")??;
    let error: Value = serde_json::from_str(first.to_text()?)?;
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("draining")), "{error}");
    assert!(error["retry_after_ms"].as_u64().is_some_and(|wait| wait < 5000), "{error}");
    let Message::Close(Some(close)) = idle.unidentified.next().await.context("a close")?? else { panic!("no close") };
    assert_eq!(u16::from(close.code), 1012);
    let _ = idle.unidentified.close(None).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_hold_up_the_end() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(1).start().await?;
    let idle = idle(cluster.gateway(0)).await?;
    let begun = Instant::now();
    cluster.gateways[0].process.signal(libc::SIGTERM)?;
    are_ended(idle).await?;
    let status = cluster.gateways[0].process.wait(Duration::from_secs(10))?;
    assert!(status.success() && begun.elapsed() < Duration::from_secs(8), "{status} after {:?}", begun.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn during_the_delay_it_is_not_ready_and_serves_on() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(1).env("NATTER_GATEWAY__DRAIN_DELAY", "3s").start().await?;
    let ann = Client::connect(cluster.gateway(0), &User::named("ann")).await?;
    let group = ann.join("lobby").await?;
    cluster.gateways[0].process.signal(libc::SIGTERM)?;
    let gone = Instant::now() + ANSWER;
    while cluster.gateways[0].is_ready().await {
        assert!(Instant::now() < gone, "still ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cluster.gateways[0].status("/readyz").await, Some(503));
    let ben = Client::connect(cluster.gateway(0), &User::named("ben")).await?;
    ben.join("lobby").await?;
    ann.send(group, "still here").await?;
    ben.wait_for_body("still here").await?;
    closes(&[ann, ben]).await?;
    assert_eq!(cluster.gateways[0].status("/readyz").await, None, "nobody listens any more");
    let status = cluster.gateways[0].process.wait(Duration::from_secs(10))?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standalone_process_drains_alike() -> Result<()> {
    let mut standalone = Standalone::start(&[("NATTER_GATEWAY__DRAIN_RATE", "10")]).await?;
    let mut clients = Vec::new();
    for number in 0..20 {
        let session = natter_tests::http::HttpSession::signed_in(standalone.node.addr, &format!("user-{number}")).await?;
        let mut client = Client::with_token(&session.user()?, session.token.clone().context("a token")?);
        client.reconnect(standalone.node.addr).await?;
        clients.push(client);
    }
    let idle = idle(standalone.node.addr).await?;
    let begun = Instant::now();
    standalone.node.process.signal(libc::SIGTERM)?;
    let (times, ended) = tokio::join!(closes(&clients), are_ended(idle));
    ended?;
    assert!(times?[19].duration_since(begun) > Duration::from_millis(1500));
    let status = standalone.node.process.wait(Duration::from_secs(10))?;
    assert!(status.success(), "{status}");
    Ok(())
}
