//! Thousands of clients dropped at once come back to one gateway: how long that takes, what it costs
//! the database, and what those who send meanwhile notice of it.
//!
//! `HERD=10000 cargo test --release --workspace --test natter herd -- --ignored --nocapture`, after
//! `cargo build --release --workspace --bins`; docs/faults.md has the figures. The clients connect from
//! addresses of 127.0.0.0/8 of their own.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{SinkExt, StreamExt, stream};
use natter_tests::{
    client::Client,
    cluster::{Cluster, Node, Store},
    token::User,
};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};
use tokio_util::sync::CancellationToken;

/// All are back by then.
const BACK_WITHIN: Duration = Duration::from_mins(1);

/// Members of a group.
const MEMBERS: usize = 200;

/// Groups of a client.
const GROUPS: usize = 3;

/// Connections that begin at once.
const AT_ONCE: usize = 256;

/// A client that only listens.
struct Listener {
    number: usize,
    user: User,
    positions: HashMap<String, Value>,
    inbox: Option<Value>,
}

type Connection = WebSocketStream<TcpStream>;

impl Listener {
    fn new(number: usize) -> Self {
        Self { number, user: User::named(&format!("herd-{number}")), positions: HashMap::new(), inbox: None }
    }

    /// Signs in, resuming; returns the connection and whether all was recovered.
    async fn connect(&mut self, gateway: SocketAddr) -> Result<(Connection, bool)> {
        let socket = TcpSocket::new_v4()?;
        let source = Ipv4Addr::new(127, 0, 1, u8::try_from(1 + self.number % 32)?);
        socket.bind((source, 0).into())?;
        let mut request = format!("ws://{gateway}/ws").into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("natter.v1.json"));
        let (mut connection, _) = client_async(request, socket.connect(gateway).await?).await?;
        let mut resume = json!({"groups": self.positions});
        if let Some(inbox) = &self.inbox {
            resume["inbox"] = inbox.clone();
        }
        let connect = json!({"type": "connect", "id": 1, "token": self.user.token(), "resume": resume});
        connection.send(Message::text(connect.to_string())).await?;
        let ready = self.next(&mut connection, "ready").await?;
        let groups = ready["groups"].as_array().context("groups")?;
        let recovered = groups.iter().filter(|group| group["recovered"] == true).count();
        for group in groups {
            self.positions.insert(group["id"].as_str().context("an id")?.to_owned(), group["position"].clone());
        }
        self.inbox = Some(ready["inbox_position"].clone());
        Ok((connection, recovered == GROUPS))
    }

    async fn connect_to_any(&mut self, gateways: &[SocketAddr], until: Instant) -> Result<(Connection, bool)> {
        let mut turn = self.number;
        loop {
            match tokio::time::timeout(Duration::from_secs(15), self.connect(gateways[turn % gateways.len()])).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) if Instant::now() > until => return Err(error),
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(200 + rand::random_range(0..300))).await,
                Err(_) => anyhow::ensure!(Instant::now() < until, "not let in"),
            }
            turn += 1;
        }
    }

    async fn next(&mut self, connection: &mut Connection, kind: &str) -> Result<Value> {
        loop {
            let frame = connection.next().await.context("ended")??;
            let Message::Text(text) = frame else { continue };
            let frame: Value = serde_json::from_str(text.as_str())?;
            self.note(&frame);
            if frame["type"] == kind {
                return Ok(frame);
            }
            anyhow::ensure!(frame["type"] != "error", "{frame}");
        }
    }

    fn note(&mut self, frame: &Value) {
        if frame["type"] == "message"
            && let Some(group) = frame["group"].as_str()
        {
            self.positions.insert(group.to_owned(), frame["position"].clone());
        }
    }

    async fn join(&mut self, connection: &mut Connection, group: usize) -> Result<()> {
        let join = json!({"type": "join", "id": 2, "group": format!("herd-{group}")});
        connection.send(Message::text(join.to_string())).await?;
        let reply = self.next(connection, "reply").await?;
        let id = reply["group"]["id"].as_str().context("a group")?;
        self.positions.insert(id.to_owned(), reply["group"]["position"].clone());
        Ok(())
    }
}

/// Reads until the connection ends, or it is to be dropped.
async fn listen(mut listener: Listener, mut connection: Connection, drop: CancellationToken) -> Listener {
    loop {
        let frame = tokio::select! {
            frame = connection.next() => frame,
            () = drop.cancelled() => return listener,
        };
        match frame {
            Some(Ok(Message::Text(text))) => {
                if text.as_str() == r#"{"type":"ping"}"# {
                    let _ = connection.send(Message::text(r#"{"type":"pong"}"#)).await;
                } else if let Ok(frame) = serde_json::from_str(text.as_str()) {
                    listener.note(&frame);
                }
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return listener,
        }
    }
}

/// Sends about fifty times a second and notes how long each took.
async fn talk(client: &Client, groups: &[natter_shared::id::GroupId], stop: CancellationToken) -> Vec<Duration> {
    let (mut took, mut turn) = (Vec::new(), 0);
    while !stop.is_cancelled() {
        let begun = Instant::now();
        if client.send(groups[turn % groups.len()], "hello").await.is_ok() {
            took.push(begun.elapsed());
        }
        turn += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    took.sort();
    took
}

fn quantiles(took: &[Duration]) -> String {
    let at = |part: usize| took.get((took.len() * part / 100).min(took.len().saturating_sub(1))).copied().unwrap_or_default();
    format!("{} sends, p50 {:?}, p99 {:?}, most {:?}", took.len(), at(50), at(99), at(100))
}

/// The calls that a persister has answered, by name.
async fn calls(node: &Node) -> Result<HashMap<String, u64>> {
    let text = reqwest::get(format!("http://{}/metrics", node.addr)).await?.text().await?;
    let mut calls = HashMap::new();
    for line in text.lines().filter(|line| line.starts_with("natter_persister_rpc_total{")) {
        let (labels, value) = line.rsplit_once(' ').context("a value")?;
        let name = labels.split('"').nth(1).unwrap_or_default().to_owned();
        *calls.entry(name).or_default() += value.parse::<f64>()? as u64;
    }
    Ok(calls)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: minutes long, and with a release build"]
async fn a_herd_that_is_dropped_at_once_is_back_within_a_minute() -> Result<()> {
    let count: usize = std::env::var("HERD").ok().and_then(|count| count.parse().ok()).unwrap_or(1000);
    let mut cluster =
        Cluster::builder().gateways(2).store(Store::Postgres).env("NATTER_LIMITS__CONNECTIONS_PER_IP", "20000").start().await?;
    let groups = (count * GROUPS).div_ceil(MEMBERS).max(GROUPS);
    let dropped = CancellationToken::new();
    let far = Instant::now() + Duration::from_mins(10);
    let first = cluster.gateway(0);
    let begun = Instant::now();
    let settled = stream::iter(0..count).map(|number| {
        let dropped = dropped.clone();
        async move {
            let mut listener = Listener::new(number);
            let (mut connection, _) = listener.connect_to_any(&[first], far).await?;
            for turn in 0..GROUPS {
                listener.join(&mut connection, (number + turn * 7) % groups).await?;
            }
            anyhow::Ok(tokio::spawn(listen(listener, connection, dropped)))
        }
    });
    let settled: Vec<_> = settled.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.into_iter().collect::<Result<_>>()?;
    eprintln!("{count} clients in {groups} groups after {:?}", begun.elapsed());

    let speaker = Client::connect(cluster.gateway(1), &User::named("speaker")).await?;
    let mut spoken = Vec::new();
    for group in 0..groups.min(20) {
        spoken.push(speaker.join(&format!("herd-{group}")).await?);
    }
    let calm = CancellationToken::new();
    let (before, ()) = tokio::join!(talk(&speaker, &spoken, calm.clone()), async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        calm.cancel();
    });
    eprintln!("before: {}", quantiles(&before));

    let calls_before = calls(&cluster.persisters[0]).await?;
    cluster.gateways[0].process.kill()?;
    dropped.cancel();
    let begun = Instant::now();
    let second = cluster.gateway(1);
    let over = CancellationToken::new();
    let (during, back) = tokio::join!(talk(&speaker, &spoken, over.clone()), async {
        let back = stream::iter(settled).map(|listening| async move {
            let mut listener = listening.await?;
            let (connection, recovered) = listener.connect_to_any(&[second], begun + 2 * BACK_WITHIN).await?;
            let kept = tokio::spawn(listen(listener, connection, CancellationToken::new()));
            anyhow::Ok((begun.elapsed(), recovered, kept))
        });
        // All at once: how they are taken in is the gateway's affair.
        let back: Result<Vec<_>> = back.buffer_unordered(count).collect::<Vec<_>>().await.into_iter().collect();
        over.cancel();
        back
    });
    let back = back?;
    let mut took: Vec<Duration> = back.iter().map(|(took, ..)| *took).collect();
    took.sort();
    let recovered = back.iter().filter(|(_, recovered, _)| *recovered).count();
    let asked = calls(&cluster.persisters[0]).await?;
    let asked: HashMap<_, _> = asked
        .iter()
        .map(|(name, now)| (name.as_str(), now - calls_before.get(name).copied().unwrap_or_default()))
        .filter(|(_, asked)| *asked > 0)
        .collect();
    eprintln!(
        "back: {} of {count}, {recovered} with everything; half after {:?}, all after {:?}",
        back.len(),
        took[took.len() / 2],
        took[took.len() - 1]
    );
    eprintln!("during: {}", quantiles(&during));
    eprintln!("calls of the persister meanwhile: {asked:?}");
    assert_eq!((back.len(), recovered), (count, count));
    assert!(took[took.len() - 1] < BACK_WITHIN, "{:?}", took[took.len() - 1]);
    // One each to sign in, few of them twice; what a group missed is read for all of it together.
    let of = |name: &str| asked.get(name).copied().unwrap_or_default();
    assert!((count as u64..=count as u64 * 11 / 10).contains(&of("sign_in")), "{asked:?}");
    assert!(asked.values().sum::<u64>() - of("sign_in") <= 4 * groups as u64, "{asked:?}");
    Ok(())
}
