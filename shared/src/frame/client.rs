//! What clients send.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ErrorCode;
use crate::{
    event::Data,
    id::{GroupRef, MessageId, Nonce, UserId},
    position::Position,
    tagged::tagged,
};

/// A frame from a client. Unknown fields are ignored, unknown types are an error.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientFrame {
    /// Signs in; the first frame.
    Connect(Connect),
    /// Continues further groups after `connect`.
    Resume(Resume),
    /// Joins an open group, for good.
    Join(Join),
    /// Leaves a group, for good.
    Leave(Leave),
    /// Says something in a group.
    Send(Send),
    /// Notifies a user or a group.
    Notify(Notify),
    /// Asks for a page of a group's messages.
    History(History),
    /// Says how far the user has read.
    Read(ReadTo),
    /// Says which notifications the user has seen.
    Seen(SeenTo),
    /// Says that the user is typing.
    Typing(Typing),
    /// Extends the session with a fresh token.
    Refresh(Refresh),
    /// Answers `ping`.
    Pong,
}

tagged!(ClientFrame {
    "connect" => Connect(Connect),
    "resume" => Resume(Resume),
    "join" => Join(Join),
    "leave" => Leave(Leave),
    "send" => Send(Send),
    "notify" => Notify(Notify),
    "history" => History(History),
    "read" => Read(ReadTo),
    "seen" => Seen(SeenTo),
    "typing" => Typing(Typing),
    "refresh" => Refresh(Refresh),
    "pong" => Pong,
});

/// Positions to go on from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ResumePoints {
    /// The last position seen of each group.
    #[serde(default)]
    pub groups: BTreeMap<GroupRef, Position>,
    /// The last position seen of the user's own topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbox: Option<Position>,
}

/// The first frame.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Connect {
    /// Comes back in `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// A JWT; not needed where the upgrade was authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Where to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<ResumePoints>,
}

/// More groups to go on with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Resume {
    /// Comes back in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// The last position seen of each group.
    #[serde(default)]
    pub groups: BTreeMap<GroupRef, Position>,
}

/// Joins an open group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Join {
    /// Comes back in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// The group, by name or id.
    pub group: GroupRef,
}

/// Leaves a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Leave {
    /// Comes back in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// The group.
    pub group: GroupRef,
}

/// A message to a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Send {
    /// Comes back in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// The group.
    pub group: GroupRef,
    /// Made at the first transmission, repeated on retries.
    pub nonce: Nonce,
    /// The text.
    pub body: String,
    /// The message it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    /// Free-form JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
}

/// To whom a `notify` goes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipient {
    /// One user.
    User(UserId),
    /// The members of a group.
    Group(GroupRef),
}

/// A notification to a user or a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Notify {
    /// Comes back in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// To whom.
    pub to: Recipient,
    /// Made at the first transmission, repeated on retries.
    pub nonce: Nonce,
    /// The text.
    pub body: String,
    /// Free-form JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
}

/// Asks for messages before or after a position, the newest without either.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct History {
    /// Comes back in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// The group.
    pub group: GroupRef,
    /// Only older ones than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Position>,
    /// Only newer ones than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Position>,
    /// How many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// How far the user has read a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadTo {
    /// Comes back in the answer, where one is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// The group.
    pub group: GroupRef,
    /// The last position read.
    pub position: Position,
}

/// What the user did with a notification; each includes the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InboxMark {
    /// It was shown.
    #[default]
    Seen,
    /// It was opened.
    Read,
    /// It is done with: out of the list, and never counted.
    Archived,
}

/// Which notifications the user has seen: these, or all to the user alone up to a position of the inbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SeenTo {
    /// Comes back in the answer, where one is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// These.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<Uuid>>,
    /// All up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upto: Option<Position>,
    /// Seen without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<InboxMark>,
}

/// The user is typing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Typing {
    /// The group.
    pub group: GroupRef,
}

/// A fresh token of the same user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refresh {
    /// Comes back in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// A JWT.
    pub token: String,
}

/// Why a frame could not be read, with the id to answer to where one could be made out.
#[derive(Debug)]
pub struct UnreadableFrame {
    /// The frame's id.
    pub id: Option<u32>,
    /// What is wrong.
    pub error: FrameError,
}

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Not a JSON object.
    #[error("a frame is one JSON object: {0}")]
    NotJson(serde_json::Error),
    /// An object without a `type`.
    #[error("a frame has a string `type`")]
    NoType,
    /// A `type` this protocol does not have.
    #[error("unknown frame type `{0}`")]
    UnknownType(String),
    /// A known type with missing or wrong fields.
    #[error("bad `{kind}` frame: {reason}")]
    BadFields {
        /// The type.
        kind: String,
        /// What is wrong with which field.
        reason: String,
    },
}

impl FrameError {
    /// The code of the `error` frame that answers it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotJson(_) | Self::NoType => ErrorCode::BadFrame,
            Self::UnknownType(_) => ErrorCode::UnknownType,
            Self::BadFields { .. } => ErrorCode::BadRequest,
        }
    }
}

const TYPES: [&str; 12] = ["connect", "resume", "join", "leave", "send", "notify", "history", "read", "seen", "typing", "refresh", "pong"];

impl ClientFrame {
    /// The id to answer to.
    pub fn id(&self) -> Option<u32> {
        match self {
            Self::Connect(connect) => connect.id,
            Self::Resume(resume) => resume.id,
            Self::Join(join) => join.id,
            Self::Leave(leave) => leave.id,
            Self::Send(send) => send.id,
            Self::Notify(notify) => notify.id,
            Self::History(history) => history.id,
            Self::Read(read) => read.id,
            Self::Seen(seen) => seen.id,
            Self::Refresh(refresh) => refresh.id,
            Self::Typing(_) | Self::Pong => None,
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`UnreadableFrame`] says what is wrong, and with which frame.
    pub fn parse(text: &str) -> Result<Self, UnreadableFrame> {
        serde_json::from_str(text).map_err(|error| explain(text, &error))
    }
}

/// Only for frames that could not be read: looks again for what to tell the sender.
fn explain(text: &str, error: &serde_json::Error) -> UnreadableFrame {
    let value: serde_json::Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => return UnreadableFrame { id: None, error: FrameError::NotJson(error) },
    };
    let id = value.get("id").and_then(serde_json::Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let error = match value.get("type").and_then(serde_json::Value::as_str) {
        None => FrameError::NoType,
        Some(kind) if TYPES.contains(&kind) => FrameError::BadFields { kind: kind.to_owned(), reason: error.to_string() },
        Some(kind) => FrameError::UnknownType(kind.chars().take(64).collect()),
    };
    UnreadableFrame { id, error }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(text: &str) -> (Option<u32>, ErrorCode) {
        let bad = ClientFrame::parse(text).unwrap_err();
        (bad.id, bad.error.code())
    }

    #[test]
    fn unreadable_frames_say_what_is_wrong() {
        assert_eq!(code("{"), (None, ErrorCode::BadFrame));
        assert_eq!(code("[]"), (None, ErrorCode::BadFrame));
        assert_eq!(code(r#"{"id":7}"#), (Some(7), ErrorCode::BadFrame));
        assert_eq!(code(r#"{"type":"dance","id":7}"#), (Some(7), ErrorCode::UnknownType));
        assert_eq!(code(r#"{"type":"send","id":7}"#), (Some(7), ErrorCode::BadRequest));
        assert_eq!(code(r#"{"type":"join","id":7,"group":"a.>"}"#), (Some(7), ErrorCode::BadRequest));
        assert_eq!(code(r#"{"type":"pong","id":7"#), (None, ErrorCode::BadFrame));
        let v4 = r#"{"type":"send","id":7,"group":"r","nonce":"67e55044-10b1-426f-9247-bb680e5fe0c8","body":""}"#;
        assert_eq!(code(v4), (Some(7), ErrorCode::BadRequest));
    }

    #[test]
    fn unknown_fields_are_ignored() {
        assert!(matches!(ClientFrame::parse(r#"{"type":"pong","extra":[1]}"#), Ok(ClientFrame::Pong)));
    }

    #[test]
    fn attached_data_is_kept_as_it_came() {
        let nonce = Nonce::now();
        let text = format!(r#"{{"type":"send","group":"r","nonce":"{nonce}","body":"x","data":{{"b":1.0,"a":[ ]}}}}"#);
        let Ok(ClientFrame::Send(send)) = ClientFrame::parse(&text) else { panic!("not read: {text}") };
        assert_eq!(send.data.unwrap().get(), r#"{"b":1.0,"a":[ ]}"#);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,200}") {
            let _ = ClientFrame::parse(&text);
        }

        #[test]
        fn any_type_and_fields_are_read_or_refused(kind in "[a-z]{0,8}", id in any::<i64>(), group in "\\PC{0,10}") {
            let _ = ClientFrame::parse(&serde_json::json!({"type": kind, "id": id, "group": group}).to_string());
        }
    }
}
