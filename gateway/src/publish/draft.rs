//! What somebody wants stored: checked, with the id that every retry derives again.

use bytes::Bytes;
use natter_shared::{
    config::Limits,
    event::{Audience, Data, Event, Message, Notification},
    frame::ErrorCode,
    id::{EventId, GroupId, MessageId, Nonce, NotificationId, SessionId, UserId},
    subject::Topic,
};

use super::NotAccepted;

/// An event that is to be stored once under its id.
#[derive(Debug, Clone)]
pub struct Draft {
    pub(super) topic: Topic,
    pub(super) id: EventId,
    pub(super) nonce: Nonce,
    pub(super) event: Event,
    pub(super) payload: Bytes,
}

/// What a message says.
#[derive(Debug, Clone)]
pub struct Said {
    /// The text.
    pub body: String,
    /// The message it answers.
    pub reply_to: Option<MessageId>,
    /// What the client attached.
    pub data: Option<Data>,
}

impl Draft {
    /// A message of `sender`, over the connection `origin` if over one.
    ///
    /// # Errors
    /// A body that cannot be kept.
    pub fn message(
        limits: &Limits,
        sender: &UserId,
        group: GroupId,
        nonce: Nonce,
        said: Said,
        origin: Option<SessionId>,
    ) -> Result<(MessageId, Self), NotAccepted> {
        let Said { body, reply_to, data } = said;
        check_body(limits, &body)?;
        let id = MessageId::derive(sender, nonce);
        let event = Event::Message(Message { id, group, sender: sender.clone(), nonce, body, reply_to, data, origin });
        Ok((id, Self::new(Topic::Group(group), id.into(), nonce, event)?))
    }

    /// A notification of a user, or without a `sender` of the application's back end, whose nonce
    /// may go to many.
    ///
    /// # Errors
    /// A body that cannot be kept.
    pub fn notification(
        limits: &Limits,
        sender: Option<&UserId>,
        to: Audience,
        nonce: Nonce,
        body: String,
        data: Option<Data>,
    ) -> Result<(NotificationId, Self), NotAccepted> {
        check_body(limits, &body)?;
        let (topic, recipient) = match &to {
            Audience::User(user) => (Topic::User(user.key()), user.to_string()),
            Audience::Group(group) => (Topic::Group(*group), group.to_string()),
        };
        let id = match sender {
            Some(sender) => NotificationId::derive(sender, nonce),
            None => NotificationId::derive_for_server(&recipient, nonce),
        };
        let event = Event::Notification(Notification { id, to, sender: sender.cloned(), nonce, body, data });
        Ok((id, Self::new(topic, id.into(), nonce, event)?))
    }

    fn new(topic: Topic, id: EventId, nonce: Nonce, event: Event) -> Result<Self, NotAccepted> {
        let payload = event.encode().map_err(|error| NotAccepted::new(ErrorCode::BadRequest, error.to_string()))?;
        Ok(Self { topic, id, nonce, event, payload })
    }

    /// Under which it is stored.
    pub fn id(&self) -> EventId {
        self.id
    }

    /// As it is stored.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// Whether a body is text that can be kept: not too long, and without NUL, which PostgreSQL's text
/// cannot hold.
pub(crate) fn check_body(limits: &Limits, body: &str) -> Result<(), NotAccepted> {
    if body.len() > limits.body_bytes {
        return Err(NotAccepted::new(ErrorCode::TooLarge, format!("a body has at most {} bytes", limits.body_bytes)));
    }
    if body.contains('\0') {
        return Err(NotAccepted::new(ErrorCode::BadRequest, "a body has no NUL character"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_bytes_at_the_edge() {
        let limits = Limits { body_bytes: 6, ..Limits::default() };
        assert!(check_body(&limits, "sixsix").is_ok() && check_body(&limits, "\u{5929}\u{5929}").is_ok());
        for body in ["sixsixs", "\u{5929}\u{5929}x"] {
            assert_eq!(check_body(&limits, body).unwrap_err().code, ErrorCode::TooLarge, "bytes, not characters");
        }
    }
}
