//! Frames of the chat-room protocol (PROTOCOL.md). Mistakes are answered and the socket stays
//! open.

use natter_shared::{
    event::Audience,
    frame::ErrorCode,
    id::{GroupId, Nonce},
    rpc::{self, FindUser},
};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    reply::Refusal,
    run::{Running, Step},
    send::Outgoing,
};

/// Either frame; which one, its `type` says.
#[derive(Deserialize)]
struct ChatRoomFrame {
    r#type: Option<String>,
    message: Option<String>,
    groupname: Option<String>,
    user_name: Option<String>,
}

impl Running {
    pub(super) fn on_chat_frame(&mut self, text: &str) -> Step {
        if let Err(refusal) = self.take_chat_frame(text) {
            self.session.answer(None, Err(refusal));
        }
        Step::Continue
    }

    fn take_chat_frame(&self, text: &str) -> Result<(), Refusal> {
        let frame: ChatRoomFrame = serde_json::from_str(text)
            .map_err(|error| Refusal::new(ErrorCode::BadFrame, format!("a frame is one JSON object: {error}")))?;
        self.take_frame()?;
        let body = |message: Option<String>| message.ok_or_else(|| Refusal::new(ErrorCode::BadRequest, "`message` is missing"));
        match frame.r#type.as_deref() {
            Some("chat") => {
                let group = match frame.groupname.as_deref() {
                    None | Some("") => self.room.ok_or_else(Refusal::no_such_group)?,
                    Some(text) => Uuid::parse_str(text).map(GroupId).map_err(|_| Refusal::no_such_group())?,
                };
                let message = Outgoing {
                    id: None,
                    group,
                    nonce: Nonce::at(self.app.broker.now()),
                    body: body(frame.message)?,
                    reply_to: None,
                    data: None,
                };
                self.app.send(&self.session, message);
                Ok(())
            }
            Some("notification") => {
                let handle = frame.user_name.ok_or_else(|| Refusal::new(ErrorCode::BadRequest, "`user_name` is missing"))?;
                self.notify_by_handle(handle, body(frame.message)?);
                Ok(())
            }
            Some(_) => Err(Refusal::new(ErrorCode::UnknownType, "`type` is chat or notification")),
            None => Err(Refusal::new(ErrorCode::BadFrame, "a frame has a string `type`")),
        }
    }

    fn notify_by_handle(&self, handle: String, body: String) {
        self.request(None, |app, session| async move {
            app.take_look_ups(&session, 1)?;
            let found = rpc::call(&*app.broker, FindUser::Handle(handle), None).await?.reply;
            let recipient = found.ok_or_else(|| Refusal::new(ErrorCode::NotFound, "no such user"))?;
            app.notify_one(&session, Audience::User(recipient.id), Nonce::at(app.broker.now()), body, None).await
        });
    }
}
