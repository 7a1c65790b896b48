//! Thousands of clients that only listen, each as cheap as can be, and how their connections end. They
//! connect from addresses of 127.0.0.0/8 of their own.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{SinkExt, StreamExt, stream};
use natter_shared::id::GroupId;
use serde_json::{Value, json};
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};
use tokio_util::sync::CancellationToken;

use crate::{client::Client, token::User};

/// Members of a group.
const MEMBERS: usize = 200;

/// Groups of a client.
const GROUPS: usize = 3;

/// Connections that begin at once.
const AT_ONCE: usize = 256;

/// How long a sign-in may take before a client tries again.
const SIGNED_IN_WITHIN: Duration = Duration::from_secs(15);

/// How many groups so many clients share.
pub fn groups(clients: usize) -> usize {
    (clients * GROUPS).div_ceil(MEMBERS).max(GROUPS)
}

/// A client that only listens.
pub struct Listener {
    /// Its number in the crowd.
    pub number: usize,
    user: User,
    positions: HashMap<String, Value>,
    inbox: Option<Value>,
}

/// A connection of one.
pub type Connection = WebSocketStream<TcpStream>;

/// How a connection ended.
#[derive(Debug, Clone)]
pub struct End {
    /// The code of the server's Close.
    pub code: Option<u16>,
    /// When it was told to leave, and after how long to come back.
    pub draining: Vec<(Instant, Duration)>,
    /// What broke it.
    pub error: Option<String>,
}

impl Listener {
    fn new(number: usize) -> Self {
        Self { number, user: User::named(&format!("listener-{number}")), positions: HashMap::new(), inbox: None }
    }

    /// Signs in, resuming; returns the connection and whether all was recovered.
    pub async fn connect(&mut self, gateway: SocketAddr) -> Result<(Connection, bool)> {
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

    /// The same, at any of `gateways` and as often as it takes.
    pub async fn connect_to_any(&mut self, gateways: &[SocketAddr], until: Instant) -> Result<(Connection, bool)> {
        let mut turn = self.number;
        loop {
            match timeout(SIGNED_IN_WITHIN, self.connect(gateways[turn % gateways.len()])).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) if Instant::now() > until => return Err(error),
                Ok(Err(_)) => sleep(Duration::from_millis(200 + rand::random_range(0..300))).await,
                Err(_) => ensure!(Instant::now() < until, "not let in"),
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
            ensure!(frame["type"] != "error", "{frame}");
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
        let join = json!({"type": "join", "id": 2, "group": group_name(group)});
        connection.send(Message::text(join.to_string())).await?;
        let reply = self.next(connection, "reply").await?;
        let id = reply["group"]["id"].as_str().context("a group")?;
        self.positions.insert(id.to_owned(), reply["group"]["position"].clone());
        Ok(())
    }
}

/// The name of a group.
pub fn group_name(number: usize) -> String {
    format!("crowd-{number}")
}

/// Reads until the connection ends, or it is to be dropped.
pub async fn listen(mut listener: Listener, mut connection: Connection, drop: CancellationToken) -> (Listener, End) {
    let mut end = End { code: None, draining: Vec::new(), error: None };
    loop {
        let frame = tokio::select! {
            frame = connection.next() => frame,
            () = drop.cancelled() => return (listener, end),
        };
        match frame {
            Some(Ok(Message::Text(text))) => {
                if text.as_str() == r#"{"type":"ping"}"# {
                    let _ = connection.send(Message::text(r#"{"type":"pong"}"#)).await;
                } else if let Ok(frame) = serde_json::from_str::<Value>(text.as_str()) {
                    if let ("draining", Some(wait)) = (frame["type"].as_str().unwrap_or_default(), frame["retry_after_ms"].as_u64()) {
                        end.draining.push((Instant::now(), Duration::from_millis(wait)));
                    }
                    listener.note(&frame);
                }
            }
            Some(Ok(Message::Close(close))) => end.code = close.map(|close| close.code.into()),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                end.error = Some(error.to_string());
                return (listener, end);
            }
            None => return (listener, end),
        }
    }
}

/// So many clients at one gateway, each a member of three groups, who listen until `drop`.
pub async fn settle(count: usize, gateway: SocketAddr, drop: &CancellationToken) -> Result<Vec<JoinHandle<(Listener, End)>>> {
    let (groups, far) = (groups(count), Instant::now() + Duration::from_mins(10));
    let settled = stream::iter(0..count).map(|number| {
        let drop = drop.clone();
        async move {
            let mut listener = Listener::new(number);
            let (mut connection, _) = listener.connect_to_any(&[gateway], far).await?;
            for turn in 0..GROUPS {
                listener.join(&mut connection, (number + turn * 7) % groups).await?;
            }
            anyhow::Ok(tokio::spawn(listen(listener, connection, drop)))
        }
    });
    settled.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.into_iter().collect()
}

/// Sends about fifty times a second and notes how long each took, sorted.
pub async fn talk(client: &Client, groups: &[GroupId], stop: CancellationToken) -> Vec<Duration> {
    let (mut took, mut turn) = (Vec::new(), 0);
    while !stop.is_cancelled() {
        let begun = Instant::now();
        if client.send(groups[turn % groups.len()], "hello").await.is_ok() {
            took.push(begun.elapsed());
        }
        turn += 1;
        sleep(Duration::from_millis(20)).await;
    }
    took.sort();
    took
}

/// What of a hundred parts took so long, or less.
pub fn quantile(sorted: &[Duration], part: usize) -> Duration {
    sorted.get((sorted.len() * part / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// For people.
pub fn quantiles(sorted: &[Duration]) -> String {
    let at = |part| quantile(sorted, part);
    format!("{} times, p50 {:?}, p99 {:?}, most {:?}", sorted.len(), at(50), at(99), at(100))
}
