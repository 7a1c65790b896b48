//! PROTOCOL.md says what the code does: its examples are frames, all of them are there, and its
//! tables are those of the code.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;

use natter_shared::{
    config::Config,
    frame::{ClientFrame, CloseCode, ErrorCode, GroupChange, PING, Ready, Recipient, Reconnect, ReplyBody, SUBPROTOCOL, ServerFrame},
};
use serde_json::Value;

const DOC: &str = include_str!("../../PROTOCOL.md");

/// The lines of the fenced blocks marked `json <kind>`, each one frame.
fn examples(kind: &str) -> Vec<&'static str> {
    let fence = format!("```json {kind}");
    let mut found = Vec::new();
    let mut lines = DOC.lines();
    while let Some(line) = lines.next() {
        if line == fence {
            found.extend(lines.by_ref().take_while(|line| *line != "```"));
        }
    }
    assert!(!found.is_empty(), "no examples of {kind}");
    found
}

/// The rows of the table under a heading, cell by cell.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let section = DOC.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}")).1;
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect()).collect()
}

/// The example as the code writes it, so that a field in it that the code does not know shows.
fn assert_same(example: &str, written: &impl serde::Serialize) {
    let example: Value = serde_json::from_str(example).unwrap();
    assert_eq!(serde_json::to_value(written).unwrap(), example);
}

fn assert_all<const N: usize>(what: &str, shown: impl IntoIterator<Item = &'static str>, all: [&'static str; N]) {
    assert_eq!(shown.into_iter().collect::<BTreeSet<_>>(), all.into_iter().collect::<BTreeSet<_>>(), "{what} in PROTOCOL.md");
}

// Each `match` below has no wildcard: who adds a variant is sent here, and adds it to the list too.

const CLIENT_FRAMES: [&str; 12] =
    ["connect", "resume", "join", "leave", "send", "notify", "history", "read", "seen", "typing", "refresh", "pong"];

fn client_frame(frame: &ClientFrame) -> &'static str {
    match frame {
        ClientFrame::Connect(_) => "connect",
        ClientFrame::Resume(_) => "resume",
        ClientFrame::Join(_) => "join",
        ClientFrame::Leave(_) => "leave",
        ClientFrame::Send(_) => "send",
        ClientFrame::Notify(_) => "notify",
        ClientFrame::History(_) => "history",
        ClientFrame::Read(_) => "read",
        ClientFrame::Seen(_) => "seen",
        ClientFrame::Typing(_) => "typing",
        ClientFrame::Refresh(_) => "refresh",
        ClientFrame::Pong => "pong",
    }
}

const SERVER_FRAMES: [&str; 14] = [
    "ready",
    "groups",
    "reply",
    "error",
    "message",
    "notification",
    "group",
    "read",
    "typing",
    "inbox",
    "reset",
    "ping",
    "time",
    "draining",
];

fn server_frame(frame: &ServerFrame) -> &'static str {
    match frame {
        ServerFrame::Ready(_) => "ready",
        ServerFrame::Groups(_) => "groups",
        ServerFrame::Reply(_) => "reply",
        ServerFrame::Error(_) => "error",
        ServerFrame::Message(_) => "message",
        ServerFrame::Notification(_) => "notification",
        ServerFrame::Group(_) => "group",
        ServerFrame::Read(_) => "read",
        ServerFrame::Typing(_) => "typing",
        ServerFrame::Inbox(_) => "inbox",
        ServerFrame::Reset(_) => "reset",
        ServerFrame::Ping => "ping",
        ServerFrame::Time(_) => "time",
        ServerFrame::Draining(_) => "draining",
    }
}

const REPLIES: [&str; 6] = ["sent", "notified", "history", "joined", "resumed", "done"];

fn reply(body: &ReplyBody) -> &'static str {
    match body {
        ReplyBody::Sent { .. } => "sent",
        ReplyBody::Notified { .. } => "notified",
        ReplyBody::History { .. } => "history",
        ReplyBody::Joined { .. } => "joined",
        ReplyBody::Resumed { .. } => "resumed",
        ReplyBody::Done {} => "done",
    }
}

const CHANGES: [&str; 5] = ["joined", "left", "member_added", "member_removed", "renamed"];

fn change(change: GroupChange) -> &'static str {
    match change {
        GroupChange::Joined => "joined",
        GroupChange::Left => "left",
        GroupChange::MemberAdded => "member_added",
        GroupChange::MemberRemoved => "member_removed",
        GroupChange::Renamed => "renamed",
    }
}

const CODES: [&str; 16] = [
    "bad_frame",
    "unknown_type",
    "bad_request",
    "unauthorized",
    "not_found",
    "forbidden",
    "blocked",
    "nonce_reused",
    "too_large",
    "out_of_order",
    "too_many_groups",
    "busy",
    "rate_limited",
    "unavailable",
    "pending",
    "draining",
];

fn code(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadFrame => "bad_frame",
        ErrorCode::UnknownType => "unknown_type",
        ErrorCode::BadRequest => "bad_request",
        ErrorCode::Unauthorized => "unauthorized",
        ErrorCode::NotFound => "not_found",
        ErrorCode::Forbidden => "forbidden",
        ErrorCode::Blocked => "blocked",
        ErrorCode::NonceReused => "nonce_reused",
        ErrorCode::TooLarge => "too_large",
        ErrorCode::OutOfOrder => "out_of_order",
        ErrorCode::TooManyGroups => "too_many_groups",
        ErrorCode::Busy => "busy",
        ErrorCode::RateLimited => "rate_limited",
        ErrorCode::Unavailable => "unavailable",
        ErrorCode::Pending => "pending",
        ErrorCode::Draining => "draining",
    }
}

/// The example of `ready` shows the defaults.
fn assert_limits(ready: &Ready) {
    let (shown, defaults) = (&ready.limits, Config::default().limits);
    assert_eq!(u128::from(ready.ping_interval_ms), defaults.heartbeat_interval.as_millis());
    assert_eq!(shown.frame_bytes, defaults.frame_bytes as u64);
    assert_eq!(shown.body_bytes, defaults.body_bytes as u64);
    assert_eq!(shown.groups as usize, defaults.groups_per_connection);
    assert_eq!((shown.frames_per_second, shown.history), (defaults.frames_per_second, defaults.history_page));
    assert_eq!(shown.bytes_per_second, defaults.bytes_per_second as u64);
}

#[test]
fn every_client_frame_has_an_example() {
    let mut recipients = BTreeSet::new();
    let frames = examples("client").into_iter().map(|example| {
        let frame = ClientFrame::parse(example).unwrap_or_else(|bad| panic!("{}: {example}", bad.error));
        assert_same(example, &frame);
        if let ClientFrame::Notify(notify) = &frame {
            recipients.insert(match notify.to {
                Recipient::User(_) => "user",
                Recipient::Group(_) => "group",
            });
        }
        client_frame(&frame)
    });
    assert_all("client frames", frames, CLIENT_FRAMES);
    assert_all("recipients", recipients, ["user", "group"]);
}

#[test]
fn every_server_frame_has_an_example() {
    let (mut replies, mut changes) = (Vec::new(), Vec::new());
    let frames = examples("server").into_iter().map(|example| {
        let frame: ServerFrame = serde_json::from_str(example).unwrap_or_else(|error| panic!("{error}: {example}"));
        assert_same(example, &frame);
        match &frame {
            ServerFrame::Reply(answer) => replies.push(reply(&answer.body)),
            ServerFrame::Group(group) => changes.push(change(group.change)),
            ServerFrame::Error(error) => assert_eq!(error.retryable, error.code.is_retryable(), "{example}"),
            ServerFrame::Ping => assert_eq!(example, PING),
            ServerFrame::Ready(ready) => assert_limits(ready),
            _ => {}
        }
        server_frame(&frame)
    });
    assert_all("server frames", frames.collect::<Vec<_>>(), SERVER_FRAMES);
    assert_all("replies", replies, REPLIES);
    assert_all("changes of groups", changes, CHANGES);
}

#[test]
fn the_table_of_error_codes_is_the_codes() {
    let shown = table("Error codes").into_iter().map(|row| {
        let known: ErrorCode = serde_json::from_value(row[0].into()).unwrap_or_else(|error| panic!("{error}: {row:?}"));
        assert_eq!(known.as_str(), row[0]);
        assert_eq!(row[1], if known.is_retryable() { "yes" } else { "no" }, "{}", row[0]);
        code(known)
    });
    assert_all("error codes", shown, CODES);
}

#[test]
fn the_table_of_close_codes_is_the_codes() {
    let shown: Vec<_> = table("Close codes").into_iter().map(|row| (row[0].to_owned(), row[1], row[2])).collect();
    let all: Vec<_> = CloseCode::ALL
        .into_iter()
        .map(|code| {
            let reconnect = match code.reconnect() {
                Reconnect::Now => "now",
                Reconnect::Later => "later",
                Reconnect::Never => "never",
            };
            (code.number().to_string(), code.reason(), reconnect)
        })
        .collect();
    assert_eq!(shown, all);
}

#[test]
fn the_chat_rooms_frames_are_as_its_pages_expect() {
    let fields = |kind| -> BTreeSet<Vec<String>> {
        let frames = examples(kind).into_iter().map(|example| serde_json::from_str::<Value>(example).unwrap());
        frames.map(|frame| frame.as_object().unwrap().keys().cloned().collect()).collect()
    };
    let all =
        |sets: &[&[&str]]| -> BTreeSet<Vec<String>> { sets.iter().map(|set| set.iter().map(ToString::to_string).collect()).collect() };
    assert_eq!(fields("chat-client"), all(&[&["groupname", "message", "type"], &["message", "type"], &["message", "type", "user_name"]]));
    assert_eq!(
        fields("chat-server"),
        all(&[&["display_name", "group_name", "message", "type"], &["id", "message", "type"], &["code", "message", "type"]])
    );
}

#[test]
fn the_subprotocol_is_named() {
    assert!(DOC.contains(&format!("`{SUBPROTOCOL}`")));
}
