//! Abuse, measured: what a hostile client costs the gateway, and how it is turned away. `make abuse`
//! runs it against a release build and prints the table of docs/security.md; small variants of the
//! same are tests of the gateway (gateway/src/network_tests).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use natter_tests::{client::Client, cluster::Cluster, process::rss, token::User};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long one case may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// A connection that is signed in, if it is to be, and says what it likes.
struct Raw {
    stream: TcpStream,
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0xfe);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0xff);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    // A mask of zeroes is one.
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

impl Raw {
    async fn open(gateway: SocketAddr, user: &User) -> Result<Self> {
        let mut stream = TcpStream::connect(gateway).await?;
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {gateway}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: natter.v1.json\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let connect = json!({"type": "connect", "id": 1, "token": user.token()}).to_string();
        stream.write_all(&masked(0x81, connect.as_bytes())).await?;
        let mut raw = Self { stream };
        raw.read_until(b"\"ready\"").await?;
        Ok(raw)
    }

    async fn read_until(&mut self, wanted: &[u8]) -> Result<()> {
        let mut got = Vec::new();
        while !got.windows(wanted.len()).any(|window| window == wanted) {
            let read = timeout(PATIENCE, self.stream.read_buf(&mut got)).await??;
            anyhow::ensure!(read > 0, "ended: {}", String::from_utf8_lossy(&got));
        }
        Ok(())
    }

    /// What the connection ends with: a close code, or none.
    async fn end(mut self) -> String {
        let mut got = Vec::new();
        let _ = timeout(PATIENCE, self.stream.read_to_end(&mut got)).await;
        // A Close is the last frame, and short.
        let close = (0..got.len().saturating_sub(3)).rev().find(|&at| {
            let len = got.get(at + 1).map(|len| usize::from(*len));
            got[at] == 0x88 && len == Some(got.len() - at - 2)
        });
        close.map_or_else(|| "reset".to_owned(), |at| format!("close {}", u16::from_be_bytes([got[at + 2], got[at + 3]])))
    }
}

/// One row: what was done, the answer, and by how many KiB the gateway has grown at most.
struct Row(&'static str, String, u64, Duration);

async fn measured(pid: u32, what: &'static str, case: impl Future<Output = Result<String>>) -> Result<Row> {
    let before = rss(pid)?;
    let begun = Instant::now();
    tokio::pin!(case);
    let mut most = before;
    let answer = loop {
        tokio::select! {
            answer = &mut case => break answer?,
            () = tokio::time::sleep(Duration::from_millis(5)) => most = most.max(rss(pid)?),
        }
    };
    most = most.max(rss(pid)?);
    Ok(Row(what, answer, most - before, begun.elapsed()))
}

/// Writes until the other side does not take it any more.
async fn flood(raw: &mut Raw, piece: &[u8], times: usize) {
    for _ in 0..times {
        if !matches!(timeout(PATIENCE, raw.stream.write_all(piece)).await, Ok(Ok(()))) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: make abuse"]
#[allow(clippy::too_many_lines, reason = "a list of cases")]
async fn abuse_costs_little_and_is_turned_away() -> Result<()> {
    let mut cluster = Cluster::builder().gateways(1).start().await?;
    let gateway = cluster.gateway(0);
    let pid = cluster.gateways[0].process.pid().context("a gateway")?;
    let (mallory, ann) = (User::named("mallory"), Client::connect(gateway, &User::named("ann")).await?);
    let group = ann.join("lobby").await?;
    // Warm: what the first connections make the process keep is no abuse.
    for _ in 0..50 {
        drop(Raw::open(gateway, &mallory).await?);
    }
    let mut rows = Vec::new();
    rows.push(
        measured(pid, "10,000 pings in a second", async {
            let mut raw = Raw::open(gateway, &mallory).await?;
            flood(&mut raw, &masked(0x89, b"x").repeat(100), 100).await;
            Ok(raw.end().await)
        })
        .await?,
    );
    rows.push(
        measured(pid, "a frame that drips, a byte in 20 ms", async {
            let mut raw = Raw::open(gateway, &mallory).await?;
            for byte in masked(0x81, &vec![b'x'; 60_000]).chunks(1) {
                if raw.stream.write_all(byte).await.is_err()
                    || raw.stream.try_read(&mut [0; 0]).is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock)
                {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                let mut peeked = [0; 1];
                let ended = timeout(Duration::from_micros(1), raw.stream.peek(&mut peeked)).await;
                // Only a Close or the heartbeat's ping comes; the latter is text.
                if matches!(ended, Ok(Ok(0) | Err(_))) || peeked[0] == 0x88 {
                    break;
                }
            }
            Ok(raw.end().await)
        })
        .await?,
    );
    rows.push(
        measured(pid, "60 MiB of one message without an end", async {
            let mut raw = Raw::open(gateway, &mallory).await?;
            flood(&mut raw, &masked(0x01, &vec![b'x'; 60_000]), 1).await;
            flood(&mut raw, &masked(0x00, &vec![b'x'; 60_000]), 1050).await;
            Ok(raw.end().await)
        })
        .await?,
    );
    rows.push(
        measured(pid, "a million empty fragments", async {
            let mut raw = Raw::open(gateway, &mallory).await?;
            flood(&mut raw, &masked(0x01, b""), 1).await;
            flood(&mut raw, &masked(0x00, b"").repeat(1000), 1000).await;
            Ok(raw.end().await)
        })
        .await?,
    );
    rows.push(
        measured(pid, "100,000 headers", async {
            let mut stream = TcpStream::connect(gateway).await?;
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await;
            for number in 0..1000 {
                let lines = format!("x-{number}: y\r\n").repeat(100);
                if stream.write_all(lines.as_bytes()).await.is_err() {
                    break;
                }
            }
            let mut got = Vec::new();
            let _ = timeout(PATIENCE, stream.read_to_end(&mut got)).await;
            let head = String::from_utf8_lossy(&got);
            Ok(head.split(' ').nth(1).unwrap_or("reset").to_owned())
        })
        .await?,
    );
    rows.push(
        measured(pid, "200 connections with slow headers", async {
            let mut all = Vec::new();
            for _ in 0..200 {
                let mut stream = TcpStream::connect(gateway).await?;
                stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await?;
                all.push(stream);
            }
            let begun = Instant::now();
            while !all.is_empty() {
                anyhow::ensure!(begun.elapsed() < PATIENCE, "{} of 200 are still served", all.len());
                tokio::time::sleep(Duration::from_millis(500)).await;
                for stream in &mut all {
                    let _ = stream.write_all(b"x").await;
                }
                all.retain(|stream| {
                    !matches!(stream.try_read(&mut [0; 512]), Ok(0) | Err(_)) || {
                        let mut byte = [0; 1];
                        matches!(stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
                    }
                });
            }
            Ok(format!("all closed after {:.1} s", begun.elapsed().as_secs_f32()))
        })
        .await?,
    );
    println!("\n| what | answer | memory | took |\n|---|---|---|---|");
    for Row(what, answer, grown, took) in &rows {
        println!("| {what} | {answer} | {grown} KiB | {:.1} s |", took.as_secs_f32());
    }
    let expected = ["close 4429", "close 4410", "close 1009", "close 4429", "431", "all closed"];
    let wrong: Vec<_> =
        rows.iter().zip(expected).filter(|(row, expected)| !row.1.starts_with(expected)).map(|(row, _)| (row.0, &row.1)).collect();
    ann.send(group, "still here").await?;
    assert!(cluster.gateways[0].process.is_running());
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(rows.iter().all(|row| row.2 < 16 * 1024), "none costs 16 MiB");
    Ok(())
}
