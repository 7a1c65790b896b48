//! The frames of some events, laid end to end, so that a member gets them by one write; and the
//! places of each, for who gets only some of them and for the ring.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use natter_shared::{
    failpoint,
    id::{SessionId, UserId},
    position::Position,
};

use super::{
    encode::{Effect, Encoded},
    ring::Entry,
};
use crate::{
    session::{Protocol, SessionHandle},
    socket::wire,
};

/// Bytes of one write, or somewhat more.
const WRITE_BYTES: usize = 64 * 1024;

/// Frames of one write.
const WRITE_MESSAGES: u32 = 64;

/// Where an event's frames lie, in each protocol.
struct Span {
    position: Position,
    v1: Range<usize>,
    chat: Range<usize>,
    origin: Option<SessionId>,
    removed: Option<UserId>,
}

/// Frames being laid end to end.
#[derive(Default)]
pub(super) struct Batch {
    v1: BytesMut,
    chat: BytesMut,
    messages: u32,
    chat_messages: u32,
    spans: Vec<Span>,
}

/// Frames laid end to end, ready to be written.
pub(super) struct Sealed {
    v1: Bytes,
    chat: Bytes,
    messages: u32,
    chat_messages: u32,
    spans: Vec<Span>,
}

impl Batch {
    /// Adds a frame of protocol v1 that is of no event.
    pub(super) fn add_frame(&mut self, frame: &[u8]) {
        wire::put_text(&mut self.v1, frame);
        self.messages += 1;
    }

    /// Adds an event's frames; returns who it removed.
    pub(super) fn add(&mut self, position: Position, encoded: Encoded) -> Option<UserId> {
        let Encoded { v1, chat, origin, effect } = encoded;
        let (v1_start, chat_start) = (self.v1.len(), self.chat.len());
        if let Some(frame) = v1 {
            self.add_frame(&frame);
        }
        if let Some(frame) = chat {
            wire::put_text(&mut self.chat, &frame);
            self.chat_messages += 1;
        }
        let removed = match effect {
            Effect::Removed(user) => Some(user),
            Effect::None | Effect::Joined(_) | Effect::Left(_) => None,
        };
        let (v1, chat) = (v1_start..self.v1.len(), chat_start..self.chat.len());
        if !v1.is_empty() || !chat.is_empty() || removed.is_some() {
            self.spans.push(Span { position, v1, chat, origin, removed: removed.clone() });
        }
        removed
    }

    /// Enough for one write.
    pub(super) fn is_large(&self) -> bool {
        self.v1.len() >= WRITE_BYTES || self.messages >= WRITE_MESSAGES
    }

    /// Takes what was laid so far; none if nothing was.
    pub(super) fn seal(&mut self) -> Option<Sealed> {
        let Self { v1, chat, messages, chat_messages, spans } = std::mem::take(self);
        let is_empty = spans.is_empty() && messages == 0;
        (!is_empty).then(|| Sealed { v1: v1.freeze(), chat: chat.freeze(), messages, chat_messages, spans })
    }
}

impl Sealed {
    /// Frames of protocol v1.
    pub(super) fn messages(&self) -> u32 {
        self.messages
    }

    /// Writes all of it to a member. The chat-room protocol does not echo: who sent some of it gets
    /// the others in pieces.
    pub(super) fn write_to(&self, session: &SessionHandle) {
        if failpoint::hit("swap") {
            return self.spans.iter().rev().for_each(|span| self.write_span(session, span));
        }
        match session.protocol {
            Protocol::V1 if self.v1.is_empty() => {}
            Protocol::V1 => session.outlet.push(&self.v1, self.messages),
            Protocol::ChatRoom if self.chat.is_empty() => {}
            Protocol::ChatRoom if self.spans.iter().all(|span| span.origin != Some(session.id)) => {
                session.outlet.push(&self.chat, self.chat_messages);
            }
            Protocol::ChatRoom => self.spans.iter().for_each(|span| self.write_span(session, span)),
        }
    }

    /// Writes to a session what stands after `position`.
    pub(super) fn write_after(&self, session: &SessionHandle, position: Position) {
        for span in self.spans.iter().filter(|span| span.position > position) {
            self.write_span(session, span);
        }
    }

    fn write_span(&self, session: &SessionHandle, span: &Span) {
        let frame = match session.protocol {
            Protocol::V1 => self.v1.slice(span.v1.clone()),
            Protocol::ChatRoom if span.origin == Some(session.id) => return,
            Protocol::ChatRoom => self.chat.slice(span.chat.clone()),
        };
        if !frame.is_empty() {
            session.outlet.push(&frame, 1);
        }
    }

    /// Its events, for the ring: the same bytes.
    pub(super) fn into_entries(self) -> impl Iterator<Item = Entry> {
        let Self { v1, chat, spans, .. } = self;
        spans.into_iter().map(move |span| {
            let Span { position, v1: v1_range, chat: chat_range, origin, removed } = span;
            Entry { position, v1: v1.slice(v1_range), chat: chat.slice(chat_range), origin, removed }
        })
    }
}
