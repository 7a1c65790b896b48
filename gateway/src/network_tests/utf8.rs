//! Text is UTF-8: what section 6 of the Autobahn test suite looks at.

use super::{
    Edge,
    raw::{CONTINUATION, FIN, Got, Raw, TEXT, frame},
};

async fn edge() -> Edge {
    Edge::start(|config| (config.limits.frames_per_second, config.limits.frames_burst) = (1_000_000, 1_000_000)).await
}

/// One frame for each byte.
fn bytewise(text: &[u8]) -> Vec<u8> {
    let last = text.len() - 1;
    let frames = text.iter().enumerate().map(|(at, byte)| {
        let opcode = if at == 0 { TEXT } else { CONTINUATION };
        frame(if at == last { FIN } else { 0 } | opcode, &[*byte])
    });
    frames.flatten().collect()
}

#[tokio::test]
async fn valid_text_comes_back_however_it_is_cut() {
    let edge = edge().await;
    let texts: [&[u8]; 12] = [
        "Hello-\u{b5}@\u{df}\u{f6}\u{e4}\u{fc}\u{e0}\u{e1}-UTF-8!!".as_bytes(),
        "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}".as_bytes(),
        // The first and the last of every length, and around the surrogates.
        b"\x00",
        b"\x7f",
        b"\xc2\x80",
        b"\xdf\xbf",
        b"\xe0\xa0\x80",
        b"\xed\x9f\xbf\xee\x80\x80",
        b"\xef\xbf\xbf",
        b"\xf0\x90\x80\x80",
        b"\xf4\x8f\xbf\xbf",
        // No characters, but code points.
        b"\xef\xb7\x90\xf0\x9f\xbf\xbe\xf3\xbf\xbf\xbf",
    ];
    for text in texts {
        let mut raw = Raw::echo(&edge).await;
        for sent in [frame(FIN | TEXT, text), bytewise(text)] {
            raw.write(&sent).await;
            assert_eq!(raw.frame().await, Some(Got::of(FIN | TEXT, text)), "{text:?}");
        }
    }
}

#[tokio::test]
async fn invalid_text_ends_the_connection_with_1007() {
    let edge = edge().await;
    let texts: [&[u8]; 22] = [
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        // Bytes that never begin a character, or that nothing begins.
        b"\x80",
        b"\xbf",
        b"\x80\xbf\x80",
        b"\xfe",
        b"\xff",
        b"\xfe\xfe\xff\xff",
        // Cut off.
        b"\xc2",
        b"\xe0\xa0",
        b"\xf0\x90\x80",
        b"\xc3 ",
        b"\xe2\x82 ",
        // Longer than need be.
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        // Surrogates, and beyond the last code point.
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
    ];
    for text in texts {
        for sent in [frame(FIN | TEXT, text), bytewise(text), [frame(TEXT, text), frame(FIN, b"")].concat()] {
            let mut raw = Raw::echo(&edge).await;
            raw.write(&sent).await;
            assert_eq!(raw.close_code().await, Some(1007), "{text:?}");
        }
    }
}

#[tokio::test]
async fn invalid_text_is_found_with_the_fragment_that_has_it() {
    let edge = edge().await;
    let mut raw = Raw::echo(&edge).await;
    raw.write(&frame(TEXT, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5")).await;
    raw.write(&frame(CONTINUATION, b"\xf4\x90\x80\x80")).await;
    // The message is not at its end, and need not be.
    assert_eq!(raw.close_code().await, Some(1007));
}
