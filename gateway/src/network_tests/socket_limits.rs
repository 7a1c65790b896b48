//! Limits of WebSockets: who is over one gets its close code, and is counted under its name.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use natter_shared::{config::Limits, frame::CloseCode, id::UserId, timestamp::Timestamp};
use serde_json::{Value, json};

use super::{
    Edge, PATIENCE,
    raw::{CONTINUATION, FIN, Got, PING, PONG, Raw, TEXT, close, frame, header, upgrade_request},
};
use crate::socket::OutletState;

async fn edge(limit: impl FnOnce(&mut Limits)) -> Edge {
    Edge::start(|config| limit(&mut config.limits)).await
}

/// Sends `good`, which has to be taken, then `bad`, which ends the connection with `code`.
async fn over(edge: &Edge, good: &[u8], bad: &[u8], code: u16, limit: &str) {
    let before = edge.refused(limit);
    let mut raw = Raw::echo(edge).await;
    raw.write(good).await;
    raw.write(&close(1000, b"")).await;
    assert_eq!(raw.close_code().await, Some(1000), "just below {limit}");
    assert_eq!(edge.refused(limit), before);
    let mut raw = Raw::echo(edge).await;
    raw.write(bad).await;
    assert_eq!(raw.close_code().await, Some(code), "just above {limit}");
    assert_eq!(edge.refused(limit), before + 1);
    let closes = edge.metric(&format!("natter_gateway_closes_total{{code=\"{code}\"}}"));
    assert!(closes > 0, "{code} is counted");
}

#[tokio::test]
async fn frames_per_second_counts_pings_and_fragments() {
    let edge = edge(|limits| (limits.frames_per_second, limits.frames_burst) = (1, 20)).await;
    // The Close at the end is one.
    over(&edge, &frame(FIN | PING, b"").repeat(19), &frame(FIN | PING, b"").repeat(40), 4429, "frames_per_second").await;
    let fragments = |count: usize| [frame(TEXT, b""), frame(CONTINUATION, b"").repeat(count - 2), frame(FIN, b"")].concat();
    over(&edge, &fragments(19), &fragments(40), 4429, "frames_per_second").await;
    over(&edge, &frame(FIN | TEXT, b"x").repeat(19), &frame(FIN | TEXT, b"x").repeat(40), 4429, "frames_per_second").await;
}

#[tokio::test]
async fn frames_before_the_sign_in_count_too() {
    let edge = edge(|limits| (limits.frames_per_second, limits.frames_burst) = (1, 20)).await;
    let mut raw = Raw::open(&edge, "/ws").await;
    raw.write(&frame(FIN | PING, b"").repeat(40)).await;
    assert_eq!(raw.close_code().await, Some(4429));
}

#[tokio::test]
async fn frames_sent_along_with_the_upgrade_count_too() {
    let edge = edge(|limits| (limits.frames_per_second, limits.frames_burst) = (1, 20)).await;
    let mut raw = Raw::connect(&edge).await;
    raw.write(&[upgrade_request(edge.addr, "/echo").as_bytes(), &frame(FIN | PING, b"").repeat(40)].concat()).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(raw.close_code().await, Some(4429));
}

#[tokio::test]
async fn bytes_per_second() {
    let edge = edge(|limits| {
        (limits.bytes_per_second, limits.bytes_burst) = (1024, 100_000);
        (limits.frame_bytes, limits.connect_frame_bytes) = (64 * 1024, 64 * 1024);
    })
    .await;
    let message = frame(FIN | TEXT, &vec![b'x'; 40_000]);
    over(&edge, &message.repeat(2), &message.repeat(3), 4429, "bytes_per_second").await;
}

#[tokio::test]
async fn fragments_of_a_message() {
    let edge = edge(|limits| limits.fragments = 16).await;
    let fragments = |count: usize| [frame(TEXT, b""), frame(CONTINUATION, b"").repeat(count - 2), frame(FIN, b"")].concat();
    over(&edge, &fragments(16), &fragments(17), 1009, "fragments").await;
}

#[tokio::test]
async fn a_message_that_does_not_come_to_its_end() {
    let edge = edge(|limits| limits.assembly_timeout = Duration::from_millis(300)).await;
    let mut raw = Raw::echo(&edge).await;
    let message = frame(FIN | TEXT, b"slow");
    raw.write(&message[..3]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    raw.write(&message[3..]).await;
    assert_eq!(raw.frame().await, Some(Got::of(FIN | TEXT, b"slow")));
    raw.write(&frame(TEXT, b"begun")).await;
    // Whoever sends nothing but signs of life in the midst of a message.
    let alive = async {
        loop {
            raw.write(&frame(FIN | PING, b"")).await;
            let got = raw.frame().await.unwrap();
            if let Some(code) = got.close_code() {
                return code;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, alive).await.unwrap(), 4410);
    assert_eq!(edge.refused("assembly_timeout"), 1);
}

#[tokio::test]
async fn frame_bytes_by_what_the_header_says() {
    let edge = edge(|limits| limits.frame_bytes = 8 * 1024).await;
    over(&edge, &frame(FIN | TEXT, &[b'x'; 8 * 1024]), &header(FIN | TEXT, 8 * 1024 + 1), 1009, "frame_bytes").await;
    let halves = |more: usize| [frame(TEXT, &[b'x'; 4096]), frame(FIN, &vec![b'x'; 4096 + more])].concat();
    over(&edge, &halves(0), &halves(1), 1009, "frame_bytes").await;
}

#[tokio::test]
async fn connect_frame_bytes_are_for_the_first_frame_only() {
    let edge = edge(|limits| limits.connect_frame_bytes = 128 * 1024).await;
    let connect = |padding: usize| {
        let frame = json!({"type": "connect", "id": 1, "token": "x", "padding": ""}).to_string();
        frame.replace(r#""padding":"""#, &format!(r#""padding":"{}""#, "x".repeat(padding - frame.len())))
    };
    let mut raw = Raw::open(&edge, "/ws").await;
    raw.write(&frame(FIN | TEXT, connect(128 * 1024).as_bytes())).await;
    assert_eq!(raw.close_code().await, Some(4401), "read, and its token refused");
    let mut raw = Raw::open(&edge, "/ws").await;
    raw.write(&frame(FIN | TEXT, connect(128 * 1024 + 1).as_bytes())).await;
    assert_eq!(raw.close_code().await, Some(1009));
    // A session has the smaller limit.
    let mut raw = Raw::echo(&edge).await;
    raw.write(&frame(FIN | TEXT, &vec![b'x'; 65_536])).await;
    assert_eq!(raw.frame().await.map(|got| got.payload.len()), Some(65_536));
    raw.write(&frame(FIN | TEXT, &vec![b'x'; 65_537])).await;
    assert_eq!(raw.close_code().await, Some(1009));
}

#[tokio::test]
async fn the_connect_frame_has_its_time() {
    let edge = edge(|limits| limits.connect_timeout = Duration::from_millis(300)).await;
    let mut raw = Raw::open(&edge, "/ws").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    raw.write(&frame(FIN | TEXT, br#"{"type":"connect","token":"x"}"#)).await;
    assert_eq!(raw.close_code().await, Some(4401), "in time");
    let mut raw = Raw::open(&edge, "/ws").await;
    // Pings, or half of it, are not it.
    raw.write(&frame(FIN | PING, b"")).await;
    raw.write(&frame(FIN | TEXT, br#"{"type":"connect","token":"x"}"#)[..20]).await;
    assert_eq!(raw.close_code().await, Some(4410), "it may come sooner over another connection");
    assert_eq!(edge.refused("connect_timeout"), 1);
}

#[tokio::test]
async fn the_heartbeat_ends_who_is_silent_and_nobody_else() {
    let second = Duration::from_secs(1);
    let edge = edge(|limits| (limits.heartbeat_interval, limits.heartbeat_timeout) = (second, second)).await;
    let begun = std::time::Instant::now();
    let mut silent = Raw::echo(&edge).await;
    assert_eq!(silent.close_code().await, Some(4410));
    assert!(begun.elapsed() >= 2 * second, "not before interval and timeout");
    assert_eq!(edge.refused("heartbeat_timeout"), 1);
    let mut alive = Raw::echo(&edge).await;
    for _ in 0..3 {
        assert_eq!(alive.frame().await.map(|got| got.first), Some(FIN | PING));
        alive.write(&frame(FIN | PONG, b"")).await;
    }
}

/// What it missed waits for it, under no limit but its own; that it sends must not keep it.
#[tokio::test]
async fn who_sends_and_reads_nothing_is_a_slow_reader_by_the_second_ping() {
    const MISSED: usize = 32 << 20;
    let edge = edge(|limits| {
        limits.backlog_bytes = MISSED;
        (limits.heartbeat_interval, limits.heartbeat_timeout) = (Duration::from_millis(500), PATIENCE);
    })
    .await;
    let mut raw = Raw::echo(&edge).await;
    let session = edge.app.sessions.iter().next().map(|entry| Arc::clone(entry.value())).unwrap();
    // More than the kernel takes.
    assert!(session.outlet.reserve_missed(MISSED));
    session.outlet.push_missed(&Bytes::from(vec![0; MISSED]));
    let closed = async {
        while session.outlet.state() == OutletState::Open {
            raw.write(&frame(FIN | PONG, b"")).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed).await.expect("never closed");
    assert_eq!(session.outlet.state(), OutletState::Sealed(CloseCode::SlowConsumer));
}

#[tokio::test]
async fn connections_of_a_user() {
    let edge = Edge::start(|config| {
        config.limits.connections_per_user = 2;
        // There is no delivery here: who is let in waits for it, in its place, for as long as it may.
        config.limits.handshake_timeout = PATIENCE;
    })
    .await;
    // The user whose connections the echo's are.
    let token = edge.app.auth.issue(&UserId::new("echo").unwrap(), "echo", Timestamp::now(), PATIENCE).unwrap().0;
    let connect = frame(FIN | TEXT, json!({"type": "connect", "id": 1, "token": token}).to_string().as_bytes());
    let sessions = async |count: u64| {
        let reached = async {
            while edge.metric("natter_gateway_sessions") != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("never {count} sessions"));
    };
    let first = Raw::echo(&edge).await;
    sessions(1).await;
    let mut second = Raw::open(&edge, "/ws").await;
    second.write(&connect).await;
    sessions(2).await;
    assert_eq!(edge.refused("connections_per_user"), 0);
    let mut third = Raw::open(&edge, "/ws").await;
    third.write(&connect).await;
    let error: Value = serde_json::from_slice(&third.frame().await.unwrap().payload).unwrap();
    assert_eq!((&error["type"], &error["id"], &error["code"]), (&json!("error"), &json!(1), &json!("rate_limited")), "{error}");
    assert_eq!(third.close_code().await, Some(4429));
    assert_eq!(edge.refused("connections_per_user"), 1);
    drop(first);
    sessions(1).await;
    let mut fourth = Raw::open(&edge, "/ws").await;
    fourth.write(&connect).await;
    sessions(2).await;
    assert_eq!(edge.refused("connections_per_user"), 1);
}

#[tokio::test]
async fn who_does_not_read_its_pongs_is_a_slow_reader() {
    let edge = edge(|limits| {
        (limits.frames_per_second, limits.frames_burst) = (1_000_000, 1_000_000);
        (limits.bytes_per_second, limits.bytes_burst) = (1 << 30, 1 << 30);
        limits.backlog_messages = 100;
    })
    .await;
    let mut raw = Raw::echo(&edge).await;
    let pings = frame(FIN | PING, &[b'x'; 125]).repeat(1000);
    let flood = async {
        // Pongs fill the kernel's buffers, then the backlog.
        while edge.refused("backlog_bytes") == 0 {
            raw.write(&pings).await;
        }
    };
    tokio::time::timeout(PATIENCE, flood).await.expect("never closed as a slow reader");
    assert_eq!(edge.metric("natter_gateway_closes_total{code=\"4408\"}"), 1);
}

#[tokio::test]
async fn who_does_not_close_after_our_close_is_cut_off_in_time() {
    let timeout = Duration::from_millis(400);
    let edge = edge(|limits| limits.slow_close_timeout = timeout).await;
    let mut raw = Raw::echo(&edge).await;
    let begun = std::time::Instant::now();
    raw.write(&frame(FIN | 3, b"")).await;
    assert_eq!(raw.frame().await.and_then(|got| got.close_code()), Some(1002));
    // The end of what we say, and nothing of theirs.
    assert_eq!(raw.frame().await, None);
    let gone = async {
        while edge.metric("natter_gateway_sockets") > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    assert!(begun.elapsed() >= timeout, "not before");
}
