//! Framing, pings and pongs, reserved bits, opcodes, fragmentation: what sections 1 to 5 and 10 of
//! the Autobahn test suite look at. Lengths and splits are theirs.

use super::{
    Edge,
    raw::{BINARY, CONTINUATION, FIN, Got, PING, PONG, Raw, TEXT, close, frame},
};

async fn edge() -> Edge {
    // Frames come without a pause, and none is refused for that here.
    Edge::start(|config| (config.limits.frames_per_second, config.limits.frames_burst) = (1_000_000, 1_000_000)).await
}

/// What comes back until the connection ends; the Close that is asked for at the end is answered.
async fn answers(edge: &Edge, sent: &[Vec<u8>]) -> (Vec<Got>, Option<u16>) {
    let mut raw = Raw::echo(edge).await;
    for bytes in sent {
        raw.write(bytes).await;
    }
    raw.write(&close(1000, b"")).await;
    let mut all = raw.rest().await;
    let code = all.pop().and_then(|last| last.close_code());
    (all, code)
}

#[tokio::test]
async fn messages_of_every_length_come_back() {
    let edge = edge().await;
    for opcode in [TEXT, BINARY] {
        for len in [0, 1, 125, 126, 127, 128, 65_535, 65_536] {
            let payload = vec![if opcode == TEXT { b'*' } else { 0xfe }; len];
            let (got, code) = answers(&edge, &[frame(FIN | opcode, &payload)]).await;
            assert_eq!((got, code), (vec![Got::of(FIN | opcode, &payload)], Some(1000)), "{len} bytes of {opcode}");
        }
        // However it is chopped on the way.
        let payload = vec![b'*'; 400];
        let mut raw = Raw::echo(&edge).await;
        raw.drip(&frame(FIN | opcode, &payload)).await;
        assert_eq!(raw.frame().await, Some(Got::of(FIN | opcode, &payload)));
    }
}

#[tokio::test]
async fn a_large_message_in_small_fragments_comes_back() {
    let edge = edge().await;
    let payload = vec![b'*'; 65_536];
    let mut pieces = payload.chunks(1300).peekable();
    let mut sent = vec![frame(TEXT, pieces.next().unwrap())];
    while let Some(piece) = pieces.next() {
        sent.push(frame(if pieces.peek().is_none() { FIN } else { 0 } | CONTINUATION, piece));
    }
    assert_eq!(answers(&edge, &sent).await, (vec![Got::of(FIN | TEXT, &payload)], Some(1000)));
}

#[tokio::test]
async fn pings_are_answered_in_order_and_pongs_are_not() {
    let edge = edge().await;
    for payload in [&b""[..], b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", &[0xfe; 125]] {
        let (got, code) = answers(&edge, &[frame(FIN | PING, payload)]).await;
        assert_eq!((got, code), (vec![Got::of(FIN | PONG, payload)], Some(1000)));
    }
    let (got, code) = answers(&edge, &[frame(FIN | PONG, b""), frame(FIN | PONG, b"unsolicited"), frame(FIN | PING, b"x")]).await;
    assert_eq!((got, code), (vec![Got::of(FIN | PONG, b"x")], Some(1000)));
    let payloads: Vec<String> = (0..10).map(|number| format!("payload-{number}")).collect();
    let sent: Vec<Vec<u8>> = payloads.iter().map(|payload| frame(FIN | PING, payload.as_bytes())).collect();
    let expected: Vec<Got> = payloads.iter().map(|payload| Got::of(FIN | PONG, payload.as_bytes())).collect();
    assert_eq!(answers(&edge, &sent).await, (expected.clone(), Some(1000)));
    // In one packet, and byte by byte.
    assert_eq!(answers(&edge, &[sent.concat()]).await, (expected.clone(), Some(1000)));
    let mut raw = Raw::echo(&edge).await;
    raw.drip(&sent.concat()).await;
    for pong in expected {
        assert_eq!(raw.frame().await, Some(pong));
    }
    assert_eq!(answers(&edge, &[frame(FIN | PING, &[0xfe; 126])]).await, (vec![], Some(1002)), "126 bytes are too many");
}

#[tokio::test]
async fn reserved_bits_and_opcodes_end_the_connection() {
    let edge = edge().await;
    let hello = frame(FIN | TEXT, b"Hello");
    let echoed = vec![Got::of(FIN | TEXT, b"Hello")];
    for reserved in [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70] {
        for opcode in [TEXT, BINARY, PING] {
            let bad = frame(FIN | reserved | opcode, b"x");
            assert_eq!(answers(&edge, std::slice::from_ref(&bad)).await, (vec![], Some(1002)), "{reserved:x} on {opcode}");
            assert_eq!(answers(&edge, &[hello.clone(), bad.clone(), hello.clone()]).await, (echoed.clone(), Some(1002)));
            assert_eq!(answers(&edge, &[[hello.clone(), bad, hello.clone()].concat()]).await, (echoed.clone(), Some(1002)));
        }
    }
    for opcode in (3..=7).chain(11..=15) {
        for payload in [&b""[..], b"reserved opcode payload"] {
            let bad = frame(FIN | opcode, payload);
            assert_eq!(answers(&edge, std::slice::from_ref(&bad)).await, (vec![], Some(1002)), "opcode {opcode}");
            assert_eq!(answers(&edge, &[hello.clone(), bad, hello.clone()]).await, (echoed.clone(), Some(1002)));
        }
    }
    let mut unmasked = vec![FIN | TEXT, 5];
    unmasked.extend(b"Hello");
    assert_eq!(answers(&edge, &[unmasked]).await, (vec![], Some(1002)), "clients mask");
}

#[tokio::test]
async fn fragments_make_one_message_and_control_frames_may_come_between() {
    let edge = edge().await;
    let (one, two) = (frame(TEXT, b"fragment1"), frame(FIN | CONTINUATION, b"fragment2"));
    let whole = Got::of(FIN | TEXT, b"fragment1fragment2");
    let ping = (frame(FIN | PING, b"ping"), Got::of(FIN | PONG, b"ping"));
    assert_eq!(answers(&edge, &[one.clone(), two.clone()]).await, (vec![whole.clone()], Some(1000)));
    assert_eq!(answers(&edge, &[one.clone(), ping.0.clone(), two.clone()]).await, (vec![ping.1.clone(), whole.clone()], Some(1000)));
    let mut raw = Raw::echo(&edge).await;
    raw.drip(&[one.clone(), ping.0.clone(), two.clone()].concat()).await;
    assert_eq!([raw.frame().await.unwrap(), raw.frame().await.unwrap()], [ping.1.clone(), whole.clone()]);
    // Empty ones, at every place.
    let empty = |first| frame(first, b"");
    assert_eq!(answers(&edge, &[empty(TEXT), empty(0), empty(FIN)]).await, (vec![Got::of(FIN | TEXT, b"")], Some(1000)));
    assert_eq!(answers(&edge, &[empty(TEXT), frame(0, b"middle"), empty(FIN)]).await, (vec![Got::of(FIN | TEXT, b"middle")], Some(1000)));
    // Five with a ping between each two.
    let mut sent = vec![frame(TEXT, b"fragment1")];
    for number in 2..=5 {
        sent.push(frame(FIN | PING, b"ping"));
        sent.push(frame(if number == 5 { FIN } else { 0 }, format!("fragment{number}").as_bytes()));
    }
    let mut expected = vec![ping.1; 4];
    expected.push(Got::of(FIN | TEXT, b"fragment1fragment2fragment3fragment4fragment5"));
    assert_eq!(answers(&edge, &sent).await, (expected, Some(1000)));
}

#[tokio::test]
async fn fragments_out_of_order_end_the_connection() {
    let edge = edge().await;
    let failed = || (Vec::<Got>::new(), Some(1002));
    let whole = frame(FIN | TEXT, b"whole");
    for orphan in [frame(FIN, b"x"), frame(0, b"x"), frame(FIN, b""), frame(0, b"")] {
        assert_eq!(answers(&edge, &[orphan.clone(), whole.clone()]).await, failed(), "nothing to continue");
        let after = answers(&edge, &[whole.clone(), orphan]).await;
        assert_eq!(after, (vec![Got::of(FIN | TEXT, b"whole")], Some(1002)), "the message before it was whole");
    }
    assert_eq!(answers(&edge, &[frame(TEXT, b"begun"), whole.clone()]).await, failed(), "a message within another");
    assert_eq!(answers(&edge, &[frame(TEXT, b"begun"), frame(BINARY, b"begun")]).await, failed());
    for control in [PING, PONG, 8] {
        assert_eq!(answers(&edge, &[frame(control, b""), frame(FIN, b"")]).await, failed(), "a fragment of {control}");
    }
}
