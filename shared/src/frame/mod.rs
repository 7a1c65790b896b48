//! The frames of protocol v1 (WebSocket subprotocol `natter.v1.json`): one compact JSON object per
//! text frame, told apart by `type`. PROTOCOL.md shows each with an example.

mod client;
mod code;
mod server;

pub use client::{
    ClientFrame, Connect, FrameError, History, InboxMark, Join, Leave, Notify, ReadTo, Recipient, Refresh, Resume, ResumePoints, SeenTo,
    Send, Typing, UnreadableFrame,
};
pub use code::{CloseCode, ErrorCode, Reconnect};
pub use server::{
    DrainingFrame, ErrorFrame, GroupChange, GroupFrame, GroupState, GroupsFrame, HistoryMessage, InboxFrame, Limits, MessageFrame,
    NotificationFrame, ReadFrame, Ready, Reply, ReplyBody, ResetFrame, ServerFrame, TimeFrame, TypingFrame, UserProfile,
};

/// The WebSocket subprotocol of protocol v1.
pub const SUBPROTOCOL: &str = "natter.v1.json";

/// The heartbeat, byte for byte.
pub const PING: &str = r#"{"type":"ping"}"#;
