//! The outlet over real sockets on loopback.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{sync::Arc, time::Duration};

use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

use super::*;

const LIMITS: OutletLimits = OutletLimits { messages: 4, bytes: 1000, missed: 2000 };

async fn pair(outlet: &Outlet) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    outlet.attach(listener.accept().await.unwrap().0);
    client
}

fn frame(byte: u8, len: usize) -> Bytes {
    Bytes::from(vec![byte; len])
}

async fn read(client: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    tokio::time::timeout(Duration::from_secs(5), client.read_exact(&mut out)).await.unwrap().unwrap();
    out
}

#[tokio::test]
async fn what_was_held_comes_after_the_first_frame_and_in_order() {
    let outlet = Outlet::held(LIMITS);
    let mut client = pair(&outlet).await;
    outlet.push(&frame(b'b', 2), 1);
    assert!(outlet.reserve_missed(3));
    outlet.push_missed(&frame(b'c', 3));
    outlet.release(frame(b'a', 1));
    outlet.push(&frame(b'd', 1), 1);
    assert_eq!(read(&mut client, 7).await, b"abbcccd");
}

#[tokio::test]
async fn who_is_refused_gets_nothing_of_what_was_held() {
    let outlet = Outlet::held(LIMITS);
    let mut client = pair(&outlet).await;
    outlet.push(&frame(b'b', 2), 1);
    assert!(outlet.reserve_missed(3));
    outlet.push_missed(&frame(b'c', 3));
    outlet.refuse(frame(b'a', 1), CloseCode::TryAgain);
    outlet.push(&frame(b'd', 1), 1);
    outlet.flush().await;
    drop(outlet);
    let mut told = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), client.read_to_end(&mut told)).await.unwrap().unwrap();
    assert_eq!(told, [b"a".as_slice(), &wire::close(CloseCode::TryAgain)].concat());
}

/// `limits.backlog_messages` and `limits.backlog_bytes`.
#[tokio::test]
async fn limits_hold_at_their_edge() {
    for (frames, len, sealed) in [(4, 1, false), (5, 1, true), (2, 500, false), (2, 501, true)] {
        // Without a socket everything waits.
        let outlet = Outlet::held(LIMITS);
        outlet.release(Bytes::new());
        for _ in 0..frames {
            outlet.push(&frame(b'x', len), 1);
        }
        let expected = if sealed { OutletState::Sealed(CloseCode::SlowConsumer) } else { OutletState::Open };
        assert_eq!(outlet.state(), expected, "{frames} frames of {len}");
    }
}

#[tokio::test]
async fn what_was_missed_has_a_limit_of_its_own() {
    let outlet = Outlet::held(LIMITS);
    outlet.release(Bytes::new());
    for _ in 0..20 {
        assert!(outlet.reserve_missed(100));
        outlet.push_missed(&frame(b'x', 100));
    }
    assert!(!outlet.reserve_missed(1));
    assert_eq!(outlet.state(), OutletState::Open);
}

#[tokio::test]
async fn room_that_was_made_for_one_is_not_given_to_another() {
    let outlet = Outlet::held(LIMITS);
    let mut client = pair(&outlet).await;
    outlet.release(Bytes::new());
    assert!(outlet.reserve_missed(1200));
    assert!(!outlet.reserve_missed(801));
    assert!(outlet.reserve_missed(800));
    outlet.push_missed(&frame(b'x', 800));
    outlet.push_missed(&frame(b'x', 1200));
    read(&mut client, 2000).await;
    assert_eq!(outlet.state.lock().missed, 0);
    assert!(outlet.reserve_missed(2000));
}

#[tokio::test]
async fn what_is_read_back_leaves_room_for_what_comes_before_a_session_is_open() {
    let outlet = Outlet::held(LIMITS);
    let mut client = pair(&outlet).await;
    assert!(outlet.reserve_missed(1000));
    outlet.push_missed(&frame(b'x', 1000));
    assert!(!outlet.reserve_missed(1), "half of it");
    for _ in 0..100 {
        outlet.push(&frame(b'y', 10), 1);
    }
    assert_eq!(outlet.state(), OutletState::Open, "many frames, and more bytes than may wait later");
    assert!(!outlet.reserve_missed(1) && outlet.reserve_missed(0), "who missed nothing is not refused");
    outlet.release(frame(b'a', 1));
    read(&mut client, 2001).await;
}

#[tokio::test]
async fn who_helps_a_slow_reader_learns_at_once_that_its_limit_is_passed() {
    let outlet = Arc::new(Outlet::held(OutletLimits { messages: 10, bytes: 1 << 20, missed: 0 }));
    let _client = pair(&outlet).await;
    outlet.release(Bytes::new());
    let text = frame(b'x', 60_000);
    while outlet.state.lock().backlog.is_empty() {
        outlet.push(&text, 1);
    }
    let helping = tokio::spawn({
        let outlet = Arc::clone(&outlet);
        async move { outlet.help().await }
    });
    // From here on it waits for the client, who never reads.
    tokio::task::yield_now().await;
    while outlet.state() == OutletState::Open {
        assert!(!helping.is_finished());
        outlet.push(&text, 1);
    }
    tokio::time::timeout(Duration::from_secs(5), helping).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_slow_reader_gets_whole_frames_then_the_close() {
    let outlet = Arc::new(Outlet::held(OutletLimits { messages: 10, bytes: 1 << 20, missed: 0 }));
    let mut client = pair(&outlet).await;
    outlet.release(Bytes::new());
    let text = wire::text(&vec![b'x'; 60_000]);
    while outlet.state() == OutletState::Open {
        outlet.push(&text, 1);
    }
    outlet.push(&text, 1);
    let flushed = tokio::spawn({
        let outlet = Arc::clone(&outlet);
        async move { outlet.flush().await }
    });
    let mut got = Vec::new();
    let close = wire::close(CloseCode::SlowConsumer);
    while !got.ends_with(&close) {
        let mut chunk = vec![0; 65_536];
        let read = tokio::time::timeout(Duration::from_secs(5), client.read(&mut chunk)).await.unwrap().unwrap();
        assert!(read > 0, "closed without a Close");
        got.extend_from_slice(&chunk[..read]);
    }
    flushed.await.unwrap();
    let frames = &got[..got.len() - close.len()];
    assert_eq!(frames.len() % text.len(), 0, "a frame was cut");
    assert!(frames.chunks(text.len()).all(|frame| frame == text));
}

#[tokio::test]
async fn who_reads_nothing_from_one_ping_to_the_next_is_slow_and_who_reads_a_little_is_not() {
    let outlet = Outlet::held(OutletLimits { messages: 1000, bytes: 1 << 30, missed: 0 });
    let mut client = pair(&outlet).await;
    outlet.close_if_stalled();
    outlet.release(Bytes::new());
    // Nothing waits: there is nothing to be read.
    (0..3).for_each(|_| outlet.close_if_stalled());
    while outlet.state.lock().backlog.len() < 200 {
        outlet.push(&frame(b'x', 60_000), 1);
    }
    for _ in 0..3 {
        outlet.close_if_stalled();
        assert_eq!(outlet.state(), OutletState::Open);
        // Without anybody's help: whether the kernel says that it can be written to is not what counts.
        read(&mut client, 1_000_000).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    outlet.close_if_stalled();
    assert_eq!(outlet.state(), OutletState::Open);
    // Nothing is read any more; each takes what may still fit.
    (0..100).for_each(|_| outlet.close_if_stalled());
    assert_eq!(outlet.state(), OutletState::Sealed(CloseCode::SlowConsumer));
}

/// Somebody may hold a session for a while after its end: its client must not wait for that.
#[tokio::test]
async fn who_is_cut_off_sees_it_while_the_outlet_is_still_held() {
    let outlet = Outlet::held(LIMITS);
    let mut client = pair(&outlet).await;
    outlet.release(frame(b'a', 1));
    assert_eq!(read(&mut client, 1).await, b"a");
    outlet.cut();
    let end = tokio::time::timeout(Duration::from_secs(5), client.read(&mut [0; 1])).await.expect("the end is seen");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert!(outlet.stream().is_some());
}

#[tokio::test]
async fn many_small_pieces_go_out_whole_and_in_order() {
    let outlet = Outlet::held(OutletLimits { messages: 1000, bytes: 1 << 30, missed: 0 });
    let mut client = pair(&outlet).await;
    outlet.release(Bytes::new());
    let mut pushed = 0;
    while outlet.state.lock().backlog.is_empty() {
        outlet.push(&frame(b'x', 60_000), 1);
        pushed += 60_000;
    }
    // More than are written at once.
    let small: Vec<u8> = (0..=3 * AT_ONCE as u8).flat_map(|number| [number; 3]).collect();
    for piece in small.chunks(3) {
        outlet.push(&Bytes::copy_from_slice(piece), 1);
    }
    let (told, ()) = tokio::join!(read(&mut client, pushed + small.len()), outlet.flush());
    let (x, rest) = told.split_at(pushed);
    assert!(x.iter().all(|byte| *byte == b'x'));
    assert_eq!(rest, small);
    let state = outlet.state.lock();
    assert_eq!((state.bytes, state.messages, state.begun), (0, 0, false));
}
