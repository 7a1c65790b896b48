//! Frames of protocol v1, one after another.

use std::sync::Arc;

use natter_shared::{
    event::Audience,
    frame::{ClientFrame, CloseCode, ErrorCode, Recipient, Refresh, ReplyBody},
};

use super::{
    SessionHandle,
    reply::Refusal,
    run::{Running, Step},
    send::Outgoing,
};
use crate::{app::App, standings};

/// Whether a frame asks for something to be stored, or told to others: the user's connections share a rate of these.
fn is_for_others(frame: &ClientFrame) -> bool {
    match frame {
        ClientFrame::Send(_) | ClientFrame::Notify(_) | ClientFrame::Read(_) | ClientFrame::Seen(_) | ClientFrame::Typing(_) => true,
        ClientFrame::Connect(_)
        | ClientFrame::Resume(_)
        | ClientFrame::Join(_)
        | ClientFrame::Leave(_)
        | ClientFrame::History(_)
        | ClientFrame::Refresh(_)
        | ClientFrame::Pong => false,
    }
}

impl Running {
    /// Reads a frame and begins what it asks; answers come when they are ready.
    pub(super) fn on_frame(&mut self, text: &str) -> Step {
        let frame = match ClientFrame::parse(text) {
            Ok(frame) => frame,
            Err(unreadable) => {
                let code = unreadable.error.code();
                self.session.answer(unreadable.id, Err(Refusal::new(code, unreadable.error.to_string())));
                // What is no frame at all is not spoken to any further.
                return if code == ErrorCode::BadFrame { Step::Close(CloseCode::BadFrame) } else { Step::Continue };
            }
        };
        if is_for_others(&frame)
            && let Err(refusal) = self.take_frame()
        {
            self.session.answer(frame.id(), Err(refusal));
            return Step::Continue;
        }
        match frame {
            ClientFrame::Pong => {}
            ClientFrame::Connect(connect) => {
                self.session.answer(connect.id, Err(Refusal::new(ErrorCode::OutOfOrder, "this connection is signed in already")));
            }
            ClientFrame::Send(send) => {
                let message = Outgoing {
                    id: send.id,
                    group: send.group.id(),
                    nonce: send.nonce,
                    body: send.body,
                    reply_to: send.reply_to,
                    data: send.data,
                };
                self.app.send(&self.session, message);
            }
            ClientFrame::Notify(notify) => {
                let to = match notify.to {
                    Recipient::User(user) => Audience::User(user),
                    Recipient::Group(group) => Audience::Group(group.id()),
                };
                self.request(
                    notify.id,
                    |app, session| async move { app.notify(&session, to, notify.nonce, notify.body, notify.data).await },
                );
            }
            ClientFrame::Join(join) => self.request(join.id, |app, session| async move { app.join(&session, join.group).await }),
            ClientFrame::Leave(leave) => self.request(leave.id, |app, session| async move { app.leave(&session, leave.group.id()).await }),
            ClientFrame::Resume(resume) => self.request(resume.id, |app, session| async move { app.resume(&session, resume.groups).await }),
            ClientFrame::History(history) => self.request(history.id, |app, session| async move { app.history(&session, history).await }),
            ClientFrame::Read(read) => {
                self.request(read.id, |app, session| async move { app.read(&session, read.group.id(), read.position).await });
            }
            ClientFrame::Seen(seen) => self.request(seen.id, |app, session| async move { app.seen(&session, seen).await }),
            ClientFrame::Typing(typing) => self.request(None, |app, session| async move { app.typing(&session, typing.group.id()).await }),
            ClientFrame::Refresh(refresh) => self.on_refresh(refresh),
        }
        Step::Continue
    }

    /// Runs a request beside the loop, within the connection's window, and answers it.
    pub(super) fn request<Work>(&self, id: Option<u32>, work: impl FnOnce(Arc<App>, Arc<SessionHandle>) -> Work)
    where
        Work: Future<Output = Result<ReplyBody, Refusal>> + Send + 'static,
    {
        let (app, session) = (Arc::clone(&self.app), Arc::clone(&self.session));
        let begun = match session.begin(&app) {
            Ok(begun) => begun,
            Err(refusal) => return session.answer(id, Err(refusal)),
        };
        let work = work(app, Arc::clone(&session));
        self.app.tasks.spawn(async move {
            if let Some(outcome) = session.or_close(work).await {
                begun.answer(id, outcome);
            }
        });
    }

    /// A fresh token of the same user extends the session.
    fn on_refresh(&self, refresh: Refresh) {
        let Refresh { id, token } = refresh;
        // Beside the loop: its issuer's keys may have to be fetched first.
        self.request(id, |app, session| async move {
            match app.auth.authenticate(&token).await {
                Ok(identity) if identity.user == session.user => {
                    if let Err(refusal) = app.judge_refresh(&identity) {
                        return Err(Refusal::new(standings::error_code(refusal), refusal.to_string()));
                    }
                    session.extend(&identity);
                    // Revoked meanwhile, whoever looked for sessions that stand on it may have been a moment too early.
                    if let Err(refusal) = app.judge_refresh(&identity) {
                        session.outlet.close(standings::close_code(refusal));
                    }
                    app.metrics.refreshed.inc();
                    Ok(ReplyBody::Done {})
                }
                Ok(_) => Err(Refusal::new(ErrorCode::Unauthorized, "the token is another user's")),
                Err(reason) => {
                    tracing::debug!(%reason, "token_refused");
                    let (code, message) = standings::told_of(reason);
                    Err(Refusal::new(code, message))
                }
            }
        });
    }
}
