//! How connections end: what section 7 of the Autobahn test suite looks at.

use super::{
    Edge,
    raw::{CLOSE, FIN, Got, PING, Raw, TEXT, close, frame},
};

async fn edge() -> Edge {
    Edge::start(|config| config.limits.frame_bytes = 512 * 1024).await
}

#[tokio::test]
async fn a_close_is_answered_with_its_code_and_then_the_connection_ends() {
    let edge = edge().await;
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        for reason in [&b""[..], b"Hello World!", &[b'*'; 123]] {
            let mut raw = Raw::echo(&edge).await;
            raw.write(&close(code, reason)).await;
            assert_eq!(raw.close_code().await, Some(code), "{code} {reason:?}");
        }
    }
    let mut raw = Raw::echo(&edge).await;
    raw.write(&frame(FIN | CLOSE, b"")).await;
    assert_eq!(raw.rest().await, [Got::of(FIN | CLOSE, b"")]);
}

#[tokio::test]
async fn codes_that_must_not_be_sent_are_answered_with_a_protocol_error() {
    let edge = edge().await;
    for code in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535] {
        for reason in [&b""[..], b"reason"] {
            let mut raw = Raw::echo(&edge).await;
            raw.write(&close(code, reason)).await;
            assert_eq!(raw.close_code().await, Some(1002), "{code}");
        }
    }
    for payload in [&b"x"[..], &[b'*'; 126]] {
        let mut raw = Raw::echo(&edge).await;
        raw.write(&frame(FIN | CLOSE, payload)).await;
        assert_eq!(raw.close_code().await, Some(1002), "{} bytes", payload.len());
    }
    let mut raw = Raw::echo(&edge).await;
    raw.write(&close(1000, b"\xce\xba\xed\xa0\x80")).await;
    assert_eq!(raw.close_code().await, Some(1007), "the reason is text");
}

#[tokio::test]
async fn what_comes_before_a_close_is_answered_and_what_comes_after_is_not() {
    let edge = edge().await;
    let text = frame(FIN | TEXT, b"Hello World!");
    let bye = close(1000, b"");
    let expected = [Got::of(FIN | TEXT, b"Hello World!"), Got::of(FIN | CLOSE, &1000_u16.to_be_bytes())];
    for after in [bye.clone(), text.clone(), frame(FIN | PING, b"x"), frame(0, b"fragment")] {
        let mut raw = Raw::echo(&edge).await;
        raw.write(&[text.clone(), bye.clone(), after].concat()).await;
        assert_eq!(raw.rest().await, expected);
    }
    let large = vec![b'*'; 256 * 1024];
    let mut raw = Raw::echo(&edge).await;
    raw.write(&[frame(FIN | TEXT, &large), bye, frame(FIN | PING, b"")].concat()).await;
    assert_eq!(raw.rest().await, [Got::of(FIN | TEXT, &large), expected[1].clone()]);
}

#[tokio::test]
async fn a_connection_that_just_ends_leaves_nothing_behind() {
    let edge = edge().await;
    let mut raw = Raw::echo(&edge).await;
    raw.write(&frame(TEXT, b"begun")).await;
    drop(raw);
    let gone = async {
        while !edge.app.sessions.is_empty() || edge.metric("natter_gateway_sockets") > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(super::PATIENCE, gone).await.unwrap();
}
