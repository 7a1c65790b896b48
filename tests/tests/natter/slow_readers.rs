//! Clients that stop reading, measured: what they cost those who read, and the gateway.
//!
//! `cargo test --release --workspace --test natter slow_readers -- --ignored --nocapture`, after
//! `cargo build --release --workspace --bins`; docs/security.md has the figures.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{SinkExt, StreamExt, future};
use natter_tests::{client::Client, cluster::Cluster, process::rss, token::User};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::{interval_at, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

const CLIENTS: usize = 2000;
const ROOMS: usize = 40;
const SLOW: usize = 50;
/// All who stop reading are in the first rooms, where most is said: their bounds are reached in a round.
const BUSY_ROOMS: usize = 5;
const SPEAKERS_PER_BUSY_ROOM: u32 = 3;
const BUSY_PAUSE: Duration = Duration::from_millis(100);
const QUIET_PAUSE: Duration = Duration::from_secs(1);
const BODY: usize = 1000;
const ROUND: Duration = Duration::from_secs(16);
/// Of each kind.
const ROUNDS: usize = 3;

static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

type Socket = WebSocketStream<TcpStream>;

fn room(number: usize) -> String {
    format!("room-{}", number % ROOMS)
}

/// Signs in. Little waits at the client where `narrow`, so that a gateway soon notices who does not read.
async fn connect(cluster: &Cluster, user: &str, narrow: bool) -> Result<Socket> {
    let gateway = cluster.gateway(0);
    let mut request = format!("ws://{gateway}/ws").into_client_request()?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("natter.v1.json"));
    let socket = TcpSocket::new_v4()?;
    if narrow {
        socket.set_recv_buffer_size(4096)?;
    }
    let mut socket = client_async(request, socket.connect(gateway).await?).await?.0;
    socket.send(Message::text(json!({"type": "connect", "id": 1, "token": User::named(user).token()}).to_string())).await?;
    wait_for(&mut socket, "\"ready\"").await?;
    Ok(socket)
}

async fn wait_for(socket: &mut Socket, wanted: &str) -> Result<()> {
    let waiting = async {
        while let Some(message) = socket.next().await {
            if message?.to_text()?.contains(wanted) {
                return Ok(());
            }
        }
        anyhow::bail!("ended")
    };
    timeout(Duration::from_mins(1), waiting).await.context("no answer")?
}

/// Connects and joins a room, for good.
async fn join(cluster: &Cluster, user: &str, room: String, narrow: bool) -> Result<Socket> {
    let mut socket = connect(cluster, user, narrow).await?;
    socket.send(Message::text(json!({"type": "join", "id": 2, "group": room}).to_string())).await?;
    wait_for(&mut socket, "\"reply\"").await.or_else(|_| anyhow::bail!("{user} could not join"))?;
    Ok(socket)
}

/// What a client that reads has measured: from a body's sending to its arrival, in µs.
#[derive(Default)]
struct Seen {
    taken: AtomicBool,
    micros: Mutex<Vec<u64>>,
}

/// Reads until the connection ends.
async fn read(mut socket: Socket, seen: Option<Arc<Seen>>) {
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        if text.contains("\"type\":\"ping\"") {
            let _ = socket.send(Message::text(r#"{"type":"pong"}"#)).await;
        }
        let sent = text.split_once("sent=").and_then(|(_, rest)| rest.split_once(';')).and_then(|(sent, _)| sent.parse::<u64>().ok());
        if let (Some(sent), Some(seen)) = (sent, &seen)
            && seen.taken.load(Ordering::Relaxed)
        {
            seen.micros.lock().push((BEGUN.elapsed().as_micros() as u64).saturating_sub(sent));
        }
    }
}

/// Says something at each tick, whether the last one was answered or not.
async fn speak(mut socket: Socket, room: String, pause: Duration, first: Duration) {
    let mut ticks = interval_at(tokio::time::Instant::now() + first, pause);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let body = format!("sent={};{}", BEGUN.elapsed().as_micros(), "x".repeat(BODY));
                let frame = json!({"type": "send", "group": room, "nonce": uuid::Uuid::now_v7(), "body": body});
                if socket.send(Message::text(frame.to_string())).await.is_err() {
                    return;
                }
            }
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) if text.contains("\"type\":\"ping\"") => {
                    let _ = socket.send(Message::text(r#"{"type":"pong"}"#)).await;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
        }
    }
}

/// KiB that the kernel keeps for the peers of `port`, and has not got rid of.
pub(super) fn unsent(port: u16) -> Result<u64> {
    let local = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let queues = table.lines().filter_map(|line| {
        let mut cells = line.split_whitespace().skip(1);
        cells.next().filter(|address| address.ends_with(&local))?;
        u64::from_str_radix(cells.nth(2)?.split_once(':')?.0, 16).ok()
    });
    Ok(queues.sum::<u64>() / 1024)
}

async fn closed_as_slow(cluster: &Cluster) -> Result<u64> {
    let closes = cluster.gateways[0].metric("natter_gateway_closes_total{code=\"4408\"}").await?;
    Ok(closes.unwrap_or_default() as u64)
}

/// One round.
struct Round {
    p50: u64,
    p99: u64,
    frames: usize,
    /// The gateway's resident memory: at most in the round less before it, KiB.
    grown: u64,
    /// What the kernel held at most, KiB.
    unsent: u64,
    closed: u64,
}

async fn round(cluster: &Cluster, seen: &Seen, stop_reading: bool) -> Result<Round> {
    let pid = cluster.gateways[0].process.pid().context("a gateway")?;
    let slow = future::try_join_all((0..SLOW).map(|number| async move { connect(cluster, &format!("slow-{number}"), true).await })).await?;
    let before = (rss(pid)?, closed_as_slow(cluster).await?);
    let mut held = Vec::new();
    let mut readers: Vec<JoinHandle<()>> = Vec::new();
    if stop_reading {
        held = slow;
    } else {
        readers = slow.into_iter().map(|socket| tokio::spawn(read(socket, None))).collect();
    }
    seen.taken.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let (mut most, mut kernel) = (before.0, 0);
    while begun.elapsed() < ROUND {
        sleep(Duration::from_millis(250)).await;
        most = most.max(rss(pid)?);
        kernel = kernel.max(unsent(cluster.gateway(0).port())?);
    }
    seen.taken.store(false, Ordering::Relaxed);
    let closed = closed_as_slow(cluster).await? - before.1;
    readers.iter().for_each(JoinHandle::abort);
    drop(held);
    let mut micros = std::mem::take(&mut *seen.micros.lock());
    micros.sort_unstable();
    let at = |percent: usize| micros.get(micros.len() * percent / 100).copied().context("nothing came");
    // The next round's connections find the old ones gone.
    sleep(Duration::from_secs(2)).await;
    Ok(Round { p50: at(50)?, p99: at(99)?, frames: micros.len(), grown: most - before.0, unsent: kernel, closed })
}

fn median(rounds: &[Round], of: impl Fn(&Round) -> u64) -> u64 {
    let mut all: Vec<u64> = rounds.iter().map(of).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: minutes long, and with a release build"]
async fn slow_readers_cost_the_others_little() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(1).start().await?;
    for number in 0..ROOMS {
        Client::connect(cluster.gateway(0), &User::named("host")).await?.join(&room(number)).await?;
    }
    let seen = Arc::new(Seen::default());
    let mut tasks = Vec::new();
    let cluster_ref = &cluster;
    for first in (0..CLIENTS - SLOW).step_by(50) {
        let some = (first..(first + 50).min(CLIENTS - SLOW))
            .map(async |number| join(cluster_ref, &format!("reader-{number}"), room(number), false).await);
        for socket in future::try_join_all(some).await? {
            tasks.push(tokio::spawn(read(socket, Some(Arc::clone(&seen)))));
        }
    }
    for number in 0..SLOW {
        drop(join(&cluster, &format!("slow-{number}"), room(number % BUSY_ROOMS), true).await?);
    }
    for number in 0..ROOMS {
        let (speakers, pause) = if number < BUSY_ROOMS { (SPEAKERS_PER_BUSY_ROOM, BUSY_PAUSE) } else { (1, QUIET_PAUSE) };
        for speaker in 0..speakers {
            let socket = join(&cluster, &format!("speaker-{number}-{speaker}"), room(number), false).await?;
            // Spread over the pause, so that they do not all speak at once.
            let first = pause * (number as u32 * speakers + speaker) / (ROOMS as u32 * speakers);
            tasks.push(tokio::spawn(speak(socket, room(number), pause, first)));
        }
    }
    // Rings are full, and the allocator has what it needs.
    sleep(ROUND).await;
    round(&cluster, &seen, true).await?;
    let (mut all_read, mut some_stop) = (Vec::new(), Vec::new());
    println!("\n| {SLOW} of {CLIENTS} | frames | p50 | p99 | memory | in the kernel | closed |\n|---|---|---|---|---|---|---|");
    for number in 0..2 * ROUNDS {
        let stop_reading = number % 2 == 1;
        let one = round(&cluster, &seen, stop_reading).await?;
        let what = if stop_reading { "stop" } else { "read" };
        let Round { p50, p99, frames, grown, unsent, closed } = &one;
        println!("| {what} | {frames} | {p50} µs | {p99} µs | {grown} KiB | {unsent} KiB | {closed} |");
        if stop_reading { some_stop.push(one) } else { all_read.push(one) }
    }
    tasks.iter().for_each(JoinHandle::abort);
    let (quiet, loud) = (median(&all_read, |round| round.p99), median(&some_stop, |round| round.p99));
    // What the kernel holds for them is memory too.
    let memory = |rounds: &[Round]| median(rounds, |round| round.grown + round.unsent);
    let each = memory(&some_stop).saturating_sub(memory(&all_read)) / SLOW as u64;
    println!("medians: p99 {quiet} µs, then {loud} µs ({:+.1} %); {each} KiB for each", (loud as f64 / quiet as f64 - 1.0) * 100.0);
    assert!(cluster.gateways[0].process.is_running());
    assert!(some_stop.iter().all(|round| round.closed == SLOW as u64), "their bounds were not reached");
    assert!(all_read.iter().all(|round| round.closed == 0), "who reads is not closed");
    assert!(each < 256, "{each} KiB for each that stops reading");
    // The rule is 10 %, on a machine of its own; a busy one moves it by more without any cause here.
    assert!(loud < 2 * quiet, "the others' p99: {quiet} µs, then {loud} µs");
    Ok(())
}
