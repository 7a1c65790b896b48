//! What is read of clients' frames, and frames of the shape and size of Natter's, with their headers.

use serde::Deserialize;
use uuid::Uuid;

use crate::frame::{TEXT, from_server};

/// A time like any other.
const TIME: &str = "2026-01-01T00:00:00.000Z";

/// What a client says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Request<'a> {
    /// The first frame.
    Connect { id: u32 },
    /// Into an open group.
    Join { id: u32, group: &'a str },
    /// A message.
    Send { id: u32, group: &'a str, nonce: &'a str, body: &'a str },
    /// To a ping.
    Pong,
}

/// The id of whoever has socket `index`: as long as the generator's are.
pub(super) fn user(index: usize) -> String {
    crate::token::user(index)
}

fn text(payload: &str) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 4);
    from_server(&mut frame, TEXT, payload.as_bytes());
    frame
}

/// To `connect`, of a user without groups.
pub(super) fn ready(id: u32, user: &str) -> Vec<u8> {
    let session = Uuid::now_v7();
    text(&format!(
        r#"{{"type":"ready","id":{id},"time":"{TIME}","user":{{"id":"{user}","handle":"{user}","display_name":"{user}"}},"session":"{session}","groups":[],"more":false,"inbox":{{"unseen":0,"unread":0,"version":"1.0"}},"inbox_position":"1.0","inbox_recovered":false,"ping_interval_ms":25000,"limits":{{"frame_bytes":65536,"body_bytes":32768,"frames_per_second":100,"bytes_per_second":1048576,"groups":1000,"history":200}}}}"#
    ))
}

/// To `join`.
pub(super) fn joined(id: u32, group: Uuid, name: &str) -> Vec<u8> {
    text(&format!(
        r#"{{"type":"reply","id":{id},"group":{{"id":"{group}","kind":"open","name":"{name}","display_name":"{name}","role":"member","position":"1.1","unread":0,"unread_at":"1.1","recovered":false}}}}"#
    ))
}

/// To `send`.
pub(super) fn accepted(id: u32, message: Uuid, count: u64) -> Vec<u8> {
    text(&format!(r#"{{"type":"reply","id":{id},"message_id":"{message}","position":"1.{count}"}}"#))
}

/// To everybody in the room.
pub(super) fn message(group: Uuid, id: Uuid, sender: &str, nonce: &str, body: &str, count: u64) -> Vec<u8> {
    text(&format!(
        r#"{{"type":"message","group":"{group}","id":"{id}","sender":"{sender}","nonce":"{nonce}","body":"{body}","position":"1.{count}","sent_at":"{TIME}"}}"#
    ))
}

#[cfg(test)]
mod tests {
    use natter_shared::frame::ServerFrame;

    use super::*;

    /// The payload is Natter's own frame, as Natter writes it.
    fn is_natters(frame: &[u8]) {
        let found = crate::frame::parse(frame, 0).unwrap();
        let payload = std::str::from_utf8(&frame[found.start..found.end]).unwrap();
        let parsed: ServerFrame = serde_json::from_str(payload).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), payload);
    }

    #[test]
    fn frames_are_natters_own() {
        let id = Uuid::parse_str("5e0f2c7b-1d3a-8f64-9c1e-7b2a90d4e6f8").unwrap();
        let nonce = Uuid::now_v7().to_string();
        is_natters(&ready(1, &user(7)));
        is_natters(&joined(2, id, "r0"));
        is_natters(&accepted(3, id, 12));
        is_natters(&message(id, id, &user(7), &nonce, "text", 12));
    }
}
