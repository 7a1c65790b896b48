//! From an event to the bytes of its frames, once for each protocol.

use natter_shared::{
    broker::Stored,
    event::{Audience, Ephemeral, Event, GroupJoined, GroupKind, GroupLeft, Message},
    frame::{GroupChange, GroupFrame, InboxFrame, MessageFrame, NotificationFrame, ReadFrame, ResetFrame, ServerFrame, TypingFrame},
    id::{GroupId, NotificationId, SessionId, UserId},
    position::Position,
    timestamp::Timestamp,
};
use serde::Serialize;

use super::GroupMeta;

/// What an event changes beside being told.
#[derive(Debug)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// This user is a member no longer.
    Removed(UserId),
    /// The user of the topic is a member of this group now.
    Joined(Box<GroupJoined>),
    /// The user of the topic is no member of this group now.
    Left(GroupLeft),
}

/// An event's frames, without WebSocket header; none where a protocol does not tell it.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Protocol v1.
    pub v1: Option<Vec<u8>>,
    /// The chat-room protocol.
    pub chat: Option<Vec<u8>>,
    /// Who sent it: the chat-room protocol does not echo.
    pub origin: Option<SessionId>,
    /// What else it does.
    pub effect: Effect,
}

impl Encoded {
    fn silent(effect: Effect) -> Self {
        Self { v1: None, chat: None, origin: None, effect }
    }
}

/// The chat-room protocol's frames, field for field.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ChatFrame<'a> {
    Chat { message: &'a str, group_name: GroupId, display_name: &'a str },
    Notification { message: &'a str, id: NotificationId },
}

/// Most frames have room in so many bytes.
const FRAME: usize = 512;

fn json(value: &impl Serialize) -> Option<Vec<u8>> {
    let mut frame = Vec::with_capacity(FRAME);
    let written = serde_json::to_writer(&mut frame, value);
    written.inspect_err(|error| tracing::error!(%error, "frame_not_encodable")).ok()?;
    Some(frame)
}

fn group_frame(group: GroupId, change: GroupChange, user: Option<UserId>, position: Position) -> GroupFrame {
    GroupFrame { group, change, user, position, role: None, kind: None, name: None, display_name: None }
}

/// The event that is stored; none where it is void, or of a later release.
pub(super) fn readable(stored: &Stored) -> Option<Event> {
    if stored.is_void() {
        return None;
    }
    let event = Event::decode(&stored.payload);
    event.inspect_err(|error| tracing::warn!(topic = ?stored.topic, position = %stored.position, %error, "event_unreadable")).ok()
}

/// Encodes an event that stands at `position`. `meta` describes the group whose topic it is on;
/// `for_chat` is whether anybody wants the chat-room protocol's frame.
pub(super) fn encode_event(event: Event, position: Position, stored_at: Timestamp, meta: Option<&GroupMeta>, for_chat: bool) -> Encoded {
    match event {
        Event::Message(message) => {
            let chat = meta.filter(|_| for_chat).and_then(|meta| {
                json(&ChatFrame::Chat { message: &message.body, group_name: message.group, display_name: &meta.display_name })
            });
            let origin = message.origin;
            let v1 = json(&ServerFrame::Message(told(message, position, stored_at)));
            Encoded { v1, chat, origin, effect: Effect::None }
        }
        Event::Notification(notification) => {
            let chat = for_chat.then(|| json(&ChatFrame::Notification { message: &notification.body, id: notification.id })).flatten();
            let group = match notification.to {
                Audience::Group(group) => Some(group),
                Audience::User(_) => None,
            };
            let v1 = json(&ServerFrame::Notification(NotificationFrame {
                id: notification.id,
                group,
                sender: notification.sender,
                body: notification.body,
                position,
                sent_at: stored_at,
                data: notification.data,
            }));
            Encoded { v1, chat, origin: None, effect: Effect::None }
        }
        Event::MemberAdded(added) => {
            // Telling a whole open room of each who comes would be a storm of no use.
            let tell = meta.is_some_and(|meta| meta.kind == GroupKind::Group);
            let frame = tell.then(|| {
                let frame = group_frame(added.group, GroupChange::MemberAdded, Some(added.user), position);
                json(&ServerFrame::Group(GroupFrame { role: Some(added.role), ..frame }))
            });
            Encoded { v1: frame.flatten(), ..Encoded::silent(Effect::None) }
        }
        Event::MemberRemoved(removed) => {
            let tell = meta.is_some_and(|meta| meta.kind == GroupKind::Group);
            let frame = tell.then(|| {
                let user = Some(removed.user.clone());
                json(&ServerFrame::Group(group_frame(removed.group, GroupChange::MemberRemoved, user, position)))
            });
            Encoded { v1: frame.flatten(), ..Encoded::silent(Effect::Removed(removed.user)) }
        }
        Event::GroupRenamed(renamed) => {
            let frame = group_frame(renamed.group, GroupChange::Renamed, renamed.by, position);
            let frame = GroupFrame { display_name: Some(renamed.display_name), ..frame };
            Encoded { v1: json(&ServerFrame::Group(frame)), ..Encoded::silent(Effect::None) }
        }
        // Told in the group's own order, where delivery comes to it.
        Event::GroupJoined(joined) => Encoded::silent(Effect::Joined(Box::new(joined))),
        Event::GroupLeft(left) => Encoded::silent(Effect::Left(left)),
        Event::Read(read) => {
            let frame = ServerFrame::Read(ReadFrame { group: read.group, user: read.user, position: read.position });
            Encoded { v1: json(&frame), ..Encoded::silent(Effect::None) }
        }
        // Counts of the inbox tell it; a group's creation is told by its members' hints.
        Event::Seen(_) | Event::GroupCreated(_) | Event::Canary => Encoded::silent(Effect::None),
    }
}

/// The beginning of its user's membership, whose messages after `after` follow, as protocol v1 tells it.
pub(super) fn encode_joined(joined: GroupJoined, after: Position) -> Option<Vec<u8>> {
    let GroupJoined { group, user, kind, name, display_name, role, since: _ } = joined;
    let frame = group_frame(group, GroupChange::Joined, Some(user), after);
    let frame = GroupFrame { role: Some(role), kind: Some(kind), name, display_name: Some(display_name), ..frame };
    json(&ServerFrame::Group(frame))
}

/// The end of a membership, as protocol v1 tells it to whose it was.
pub(super) fn encode_left(group: GroupId, user: UserId, at: Position) -> Option<Vec<u8>> {
    json(&ServerFrame::Group(group_frame(group, GroupChange::Left, Some(user), at)))
}

/// That something may be missing, of a group or of the inbox.
pub(super) fn encode_reset(group: Option<GroupId>) -> Option<Vec<u8>> {
    json(&ServerFrame::Reset(ResetFrame { group }))
}

/// Encodes what is passed on live only; the chat-room protocol has none of it.
pub(super) fn encode_ephemeral(ephemeral: Ephemeral) -> Option<Vec<u8>> {
    let frame = match ephemeral {
        Ephemeral::Typing { group, user } => ServerFrame::Typing(TypingFrame { group, user }),
        Ephemeral::Inbox(counts) => {
            ServerFrame::Inbox(InboxFrame { unseen: counts.unseen, unread: counts.unread, version: counts.version })
        }
        // Done, not told.
        Ephemeral::Disconnect { .. } => return None,
    };
    json(&frame)
}

/// The message a stored or recovered event is, as history tells it.
pub fn message_frame(event: Event, position: Position, stored_at: Timestamp) -> Option<MessageFrame> {
    event.into_message().map(|message| told(message, position, stored_at))
}

fn told(message: Message, position: Position, stored_at: Timestamp) -> MessageFrame {
    MessageFrame {
        group: message.group,
        id: message.id,
        sender: message.sender,
        nonce: message.nonce,
        body: message.body,
        position,
        sent_at: stored_at,
        reply_to: message.reply_to,
        data: message.data,
    }
}
