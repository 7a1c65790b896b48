//! The loop of a session: frames, notices, the heartbeat, the token's end, the outlet. One exit,
//! by which everything is unregistered.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt;
use natter_shared::{
    frame::{CloseCode, PING},
    id::GroupId,
    timestamp::Timestamp,
};
use tokio::time;
use tokio_tungstenite::tungstenite::{
    self, Message,
    error::{CapacityError, ProtocolError},
};

use super::{
    Notice, Opened, Protocol, SessionHandle,
    follow::FollowUps,
    heartbeat::{Beat, Heartbeat},
    open::Live,
    reply::Refusal,
};
use crate::{
    app::App,
    connections::{Seat, Share},
    limit::Limit,
    metrics::Metrics,
    socket::{OutletState, Socket, breach_of, wire},
};

/// How long a session sleeps at most where nothing happens.
const LONGEST_SLEEP: Duration = Duration::from_hours(1);

/// What serves a session from when it is open to its end.
pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A registered session; dropped, it is unregistered everywhere.
pub(super) struct Guard {
    app: Arc<App>,
    session: Arc<SessionHandle>,
    seat: Seat,
}

impl Guard {
    pub(super) fn register(app: Arc<App>, session: Arc<SessionHandle>, seat: Seat) -> Self {
        app.sessions.insert(session.id, Arc::clone(&session));
        app.metrics.sessions.inc();
        Self { app, session, seat }
    }

    pub(super) fn session(&self) -> &Arc<SessionHandle> {
        &self.session
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (app, session) = (Arc::clone(&self.app), &self.session);
        session.mark_closed();
        app.sessions.remove(&session.id);
        app.metrics.sessions.dec();
        let groups: Vec<GroupId> = session.groups.lock().drain().map(|(group, _)| group).collect();
        // Who waits for a join that a defect has ended.
        session.join_ended.notify_waiters();
        // Not the session: it keeps the connection, and this may have to wait.
        let (user, id) = (session.key, session.id);
        self.app.tasks.spawn(async move {
            app.hub.leave_inbox(user, id).await;
            for group in groups {
                app.hub.leave_group(group, id).await;
            }
        });
    }
}

/// How long what a chat room has said may take once it has closed.
const DONE_WITHIN: Duration = Duration::from_secs(2);

/// What the loop of a signed-in session keeps.
pub(super) struct Running {
    pub(super) app: Arc<App>,
    pub(super) session: Arc<SessionHandle>,
    /// What its user's connections share.
    share: Arc<Share>,
    /// The group that the chat-room protocol's path names.
    pub(super) room: Option<GroupId>,
    follow_ups: Option<FollowUps>,
    #[cfg(test)]
    echo: bool,
}

/// Serves a chat-room session that was opened before its 101 was sent.
pub fn serve_chat_room(app: Arc<App>, opened: Opened, socket: Socket) -> Serving {
    opened.session().outlet.release(Bytes::new());
    Box::pin(run(app, opened.into_live(), socket))
}

/// Runs an opened session to its end. What is made here is in the future once; what an async function is handed, twice.
pub(super) fn run(app: Arc<App>, live: Live, mut socket: Socket) -> impl Future<Output = ()> + Send {
    let Live { guard, room, .. } = live;
    socket.get_mut().set_largest(app.config.limits.frame_bytes);
    let mut running = Running {
        app,
        session: Arc::clone(guard.session()),
        share: Arc::clone(guard.seat.share()),
        room,
        follow_ups: None,
        #[cfg(test)]
        echo: live.echo,
    };
    async move {
        let code = running.turn(&mut socket).await;
        let Running { app, session, .. } = &running;
        if let Some(code) = code {
            session.outlet.close(code);
            app.metrics.closed(code);
        } else if session.protocol == Protocol::ChatRoom {
            // What was said before the Close is done: this protocol has no acks, nobody would say it again.
            let _ = time::timeout(DONE_WITHIN, session.idle()).await;
        }
        drop(guard);
        finish(app, &session.outlet, &mut socket).await;
    }
}

/// Lets the other side finish: what waits is written and its Close awaited, for a while; then the
/// connection is cut.
pub async fn finish(app: &App, outlet: &crate::socket::Outlet, socket: &mut Socket) {
    let end = async {
        outlet.flush().await;
        // After a Close, RFC 6455 section 7.1.1 has the client close; what it still sends is read
        // and dropped, for unread data would turn our end into a reset.
        while let Some(Ok(_)) = socket.next().await {}
        outlet.read_out().await;
    };
    if time::timeout(app.config.limits.slow_close_timeout, end).await.is_err() {
        outlet.cut();
    }
}

impl Running {
    /// Returns the code to close with, if the close is ours to begin.
    async fn turn(&mut self, socket: &mut Socket) -> Option<CloseCode> {
        let app = Arc::clone(&self.app);
        let limits = &app.config.limits;
        let mut heartbeat = Heartbeat::new(limits, Instant::now());
        let session = Arc::clone(&self.session);
        let expires = Instant::now() + self.until_expiry();
        let sleep = time::sleep_until(heartbeat.due().min(expires).into());
        tokio::pin!(sleep);
        loop {
            let code = tokio::select! {
                frame = socket.next() => {
                    if heartbeat.hear() {
                        // Else it would wake us to see that there is no timeout.
                        let expires = Instant::now() + self.until_expiry();
                        sleep.as_mut().reset(heartbeat.due().min(expires).into());
                    }
                    match self.on_socket(frame) {
                        Step::Continue => None,
                        Step::Close(code) => Some(code),
                        Step::End => return None,
                    }
                }
                notice = session.next_notice() => self.on_notice(notice),
                () = session.outlet.help() => match session.outlet.state() {
                    OutletState::Sealed(code) => Some(code),
                    OutletState::Broken => return None,
                    OutletState::Open => None,
                },
                () = &mut sleep => {
                    let now = Instant::now();
                    let mut code = None;
                    if Timestamp::now() >= session.expires_at() {
                        code = Some(CloseCode::Token);
                    } else {
                        match heartbeat.beat(now) {
                            Beat::Wait => {}
                            Beat::Ping => {
                                session.outlet.close_if_stalled();
                                session.outlet.push(&heartbeat_frame(session.protocol), 1);
                                self.follow_ups.take_if(|follow_ups| follow_ups.are_done());
                                session.forget_told();
                            }
                            Beat::Lost => {
                                self.app.metrics.refused(Limit::HeartbeatTimeout);
                                code = Some(CloseCode::HeartbeatLost);
                            }
                        }
                    }
                    let expires = now + self.until_expiry();
                    sleep.as_mut().reset(heartbeat.due().min(expires).into());
                    code
                }
            };
            if code.is_some() {
                return code;
            }
        }
    }

    /// Takes one of the frames that the user's connections may have stored, or told to others.
    pub(super) fn take_frame(&self) -> Result<(), Refusal> {
        let taken = self.app.connections.take_frame(&self.share);
        taken.map_err(|too_fast| self.app.too_fast("this user's connections send", too_fast))
    }

    /// Until the token's end, or as long as one sleeps at most: a token may be good for ages.
    fn until_expiry(&self) -> Duration {
        self.session.expires_at().since(Timestamp::now()).min(LONGEST_SLEEP)
    }

    fn on_socket(&mut self, frame: Option<Result<Message, tungstenite::Error>>) -> Step {
        let message = match frame {
            Some(Ok(message)) => message,
            Some(Err(error)) => return close_of(&error, &self.app.metrics).map_or(Step::End, Step::Close),
            None => return Step::End,
        };
        match message {
            #[cfg(test)]
            Message::Text(_) | Message::Binary(_) if self.echo => self.echo_back(message),
            // One that came right behind the larger connect frame.
            Message::Text(text) if text.len() > self.app.config.limits.frame_bytes => {
                self.app.metrics.refused(Limit::FrameBytes);
                Step::Close(CloseCode::TooBig)
            }
            Message::Text(text) => match self.session.protocol {
                Protocol::V1 => self.on_frame(text.as_str()),
                Protocol::ChatRoom => self.on_chat_frame(text.as_str()),
            },
            Message::Binary(_) => Step::Close(CloseCode::BadFrame),
            // tungstenite answers a ping by itself, with the next read.
            // A bare frame is only ever seen by who reads frames raw.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Step::Continue,
            Message::Close(_) => {
                self.session.outlet.peer_closes();
                Step::End
            }
        }
    }

    /// What a notice ends, ends at once; the rest is followed up beside the loop, one notice after
    /// another: memberships that follow each other must not overtake.
    fn on_notice(&mut self, notice: Notice) -> Option<CloseCode> {
        let (app, session) = (Arc::clone(&self.app), Arc::clone(&self.session));
        match notice {
            Notice::Left(left) => {
                self.app.tasks.spawn(async move { app.end_membership(&session, left.group, left.until).await });
            }
            Notice::Joined(_) | Notice::GroupLost { .. } | Notice::InboxLost { .. } | Notice::Unlisted => {
                let work = move |notice| {
                    let (app, session) = (Arc::clone(&app), Arc::clone(&session));
                    async move {
                        if !session.is_closed() {
                            session.or_close(app.follow(&session, notice)).await;
                        }
                    }
                };
                if self.follow_ups.get_or_insert_default().push(&self.app.tasks, notice, work).is_err() {
                    tracing::info!(session = %self.session.id, "session_behind_its_notices");
                    return Some(CloseCode::TryAgain);
                }
            }
        }
        None
    }
}

fn heartbeat_frame(protocol: Protocol) -> Bytes {
    match protocol {
        Protocol::V1 => wire::text(PING.as_bytes()),
        Protocol::ChatRoom => wire::ping(),
    }
}

/// What a frame leads to.
pub(super) enum Step {
    /// The next one.
    Continue,
    /// We close.
    Close(CloseCode),
    /// The other side has closed, or is gone.
    End,
}

/// What a connection is closed with whose reading has ended; nothing where the other side is gone.
pub(super) fn close_of(error: &tungstenite::Error, metrics: &Metrics) -> Option<CloseCode> {
    match error {
        tungstenite::Error::Io(error) => breach_of(error).map(|breach| {
            metrics.refused(breach.limit());
            breach.close_code()
        }),
        tungstenite::Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            metrics.refused(Limit::FrameBytes);
            Some(CloseCode::TooBig)
        }
        tungstenite::Error::Utf8(_) => Some(CloseCode::NotUtf8),
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        tungstenite::Error::Protocol(_) => Some(CloseCode::Protocol),
        _gone => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an async function of three makes.
    fn size_of_future<A, B, C, Made>(_: impl Fn(A, B, C) -> Made) -> usize {
        size_of::<Made>()
    }

    #[test]
    fn a_session_is_small() {
        let bytes = size_of_future(run);
        assert!(bytes <= 784, "{bytes} bytes for each connection");
    }
}
