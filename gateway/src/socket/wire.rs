//! WebSocket framing of what the server sends (RFC 6455 section 5.2). Server frames are not
//! masked, so the bytes are the same for every receiver.

use bytes::{BufMut, Bytes, BytesMut};
use natter_shared::frame::CloseCode;
use serde::Serialize;

const FIN_TEXT: u8 = 0x81;
const FIN_CLOSE: u8 = 0x88;
const FIN_PING: u8 = 0x89;

/// The longest header of an unmasked frame.
const MAX_HEADER: usize = 10;

fn put_header(out: &mut BytesMut, first: u8, len: usize) {
    out.put_u8(first);
    match len {
        0..=125 => out.put_u8(len as u8),
        126..=0xffff => {
            out.put_u8(126);
            out.put_u16(len as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
}

/// Appends a text frame.
pub fn put_text(out: &mut BytesMut, payload: &[u8]) {
    out.reserve(MAX_HEADER + payload.len());
    put_header(out, FIN_TEXT, payload.len());
    out.put_slice(payload);
}

/// A text frame holding `text`.
pub fn text(payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(MAX_HEADER + payload.len());
    put_text(&mut out, payload);
    out.freeze()
}

/// A text frame holding `value` as JSON; nothing where it cannot be written as such.
pub fn json(value: &impl Serialize) -> Bytes {
    match serde_json::to_vec(value) {
        Ok(payload) => text(&payload),
        Err(error) => {
            // Frames are plain data with string keys; this would be a defect of ours.
            tracing::error!(%error, "frame_not_encodable");
            Bytes::new()
        }
    }
}

/// A Close frame.
pub fn close(code: CloseCode) -> Bytes {
    let reason = code.reason().as_bytes();
    let mut out = BytesMut::with_capacity(MAX_HEADER + reason.len());
    put_header(&mut out, FIN_CLOSE, 2 + reason.len());
    out.put_u16(code.number());
    out.put_slice(reason);
    out.freeze()
}

/// A Ping frame without payload: the heartbeat of protocols that have none of their own.
pub fn ping() -> Bytes {
    Bytes::from_static(&[FIN_PING, 0])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

    use super::*;

    #[test]
    fn headers_are_those_of_tungstenite_at_every_length_class() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536] {
            let payload = vec![b'x'; len];
            let ours = text(&payload);
            let (header, length) = FrameHeader::parse(&mut std::io::Cursor::new(&ours[..])).unwrap().unwrap();
            assert_eq!(length as usize, len);
            assert!(header.is_final && header.mask.is_none());
            let mut theirs = Vec::new();
            Frame::message(payload, header.opcode, true).format(&mut theirs).unwrap();
            assert_eq!(ours, theirs);
        }
    }
}
