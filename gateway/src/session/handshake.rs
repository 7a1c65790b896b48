//! Protocol v1 before it is signed in: the first frame is `connect`, within a deadline.

use std::{collections::HashMap, sync::Arc};

use futures::StreamExt;
use natter_shared::frame::{
    ClientFrame, CloseCode, Connect, ErrorCode, ErrorFrame, FrameError, GroupsFrame, InboxFrame, Limits, Ready, ServerFrame, UserProfile,
};
use tokio::{net::TcpStream, time};
use tokio_tungstenite::tungstenite::Message;

use super::{
    OpenError, Protocol,
    lists::Paging,
    open::{Opened, ResumeFrom},
    run::{self, Serving},
};
use crate::{
    app::App,
    auth::{AuthError, Identity, UNAUTHORIZED},
    drain,
    limit::Limit,
    socket::{self, Outlet, Socket, wire},
    standings,
};

/// What ends a connection before it is a session.
struct Failure {
    error: Option<ErrorFrame>,
    close: Option<CloseCode>,
}

impl Failure {
    fn new(id: Option<u32>, code: ErrorCode, message: impl Into<String>, close: CloseCode) -> Self {
        let mut error = ErrorFrame::new(id, code, message);
        error.retry_after_ms = error.retryable.then(|| match close {
            CloseCode::Restart => drain::retry_after_ms(),
            _ => 1000,
        });
        Self { error: Some(error), close: Some(close) }
    }

    /// A token that does not hold, or of which that cannot be told.
    fn of_token(id: Option<u32>, reason: AuthError) -> Self {
        let (code, message) = standings::told_of(reason);
        Self::new(id, code, message, if code.is_retryable() { CloseCode::TryAgain } else { CloseCode::Token })
    }

    fn silent(close: Option<CloseCode>) -> Self {
        Self { error: None, close }
    }
}

/// Opens a session of protocol v1 from its 101 on; nothing where that has ended already. `identity` is who the upgrade was
/// authenticated as, or why its token did not hold.
pub async fn open_v1(app: Arc<App>, stream: TcpStream, read: Vec<u8>, identity: Result<Option<Identity>, AuthError>) -> Option<Serving> {
    let outlet = Arc::new(Outlet::held(app.outlet_limits()));
    outlet.attach(stream);
    let mut socket = socket::websocket(&app, &outlet, read).await;
    match sign_in(&app, &outlet, &mut socket, identity).await {
        Ok((id, mut opened)) => {
            announce(&app, id, &mut opened);
            let (session, more) = (Arc::clone(opened.session()), opened.more);
            if more.is_some() {
                let resume = ResumeFrom { groups: opened.resume.groups.clone(), inbox: None };
                let paging = Paging::begin(Arc::clone(&session));
                let listed = further_groups(Arc::clone(&app), Arc::clone(&session), more, resume);
                app.tasks.spawn(async move {
                    session.or_close(listed).await;
                    // After a defect too who waits for the pages goes on only once the session is closed.
                    drop(paging);
                });
            }
            Some(Box::pin(run::run(app, opened.into_live(), socket)))
        }
        Err(failure) => {
            let first = failure.error.map(|error| wire::json(&ServerFrame::Error(error))).unwrap_or_default();
            match failure.close {
                Some(code) => {
                    outlet.refuse(first, code);
                    app.metrics.closed(code);
                }
                // The peer is gone, or closes.
                None => outlet.release(first),
            }
            run::finish(&app, &outlet, &mut socket).await;
            None
        }
    }
}

async fn sign_in(
    app: &Arc<App>,
    outlet: &Arc<Outlet>,
    socket: &mut Socket,
    identity: Result<Option<Identity>, AuthError>,
) -> Result<(Option<u32>, Box<Opened>), Failure> {
    let identity = identity.map_err(|reason| Failure::of_token(None, reason))?;
    let first = time::timeout(app.config.limits.connect_timeout, first_frame(app, socket));
    let Some(first) = app.closing.run_until_cancelled(first).await else {
        let OpenError { code, message } = OpenError::draining();
        return Err(Failure::new(None, code, message, CloseCode::Restart));
    };
    let connect = match first {
        Ok(connect) => connect?,
        Err(_) => {
            app.metrics.refused(Limit::ConnectTimeout);
            return Err(Failure::new(None, ErrorCode::Unavailable, "no connect frame came in time", CloseCode::HeartbeatLost));
        }
    };
    let id = connect.id;
    let identity = match (&connect.token, identity) {
        (Some(token), _) => app.auth.authenticate(token).await.map_err(|reason| {
            tracing::debug!(%reason, "token_refused");
            Failure::of_token(id, reason)
        })?,
        (None, Some(identity)) => identity,
        (None, None) => return Err(Failure::new(id, ErrorCode::Unauthorized, UNAUTHORIZED, CloseCode::Token)),
    };
    let resume = connect.resume.unwrap_or_default();
    let groups: HashMap<_, _> = resume.groups.iter().map(|(group, position)| (group.id(), *position)).collect();
    let resume = ResumeFrom { groups, inbox: resume.inbox };
    let opening = app.open(identity, Protocol::V1, Arc::clone(outlet), resume);
    let opened = time::timeout(app.config.limits.handshake_timeout, opening).await.unwrap_or_else(|_| {
        app.metrics.refused(Limit::HandshakeTimeout);
        Err(OpenError { code: ErrorCode::Unavailable, message: "signing in took too long".to_owned() })
    });
    opened.map(|opened| (id, Box::new(opened))).map_err(|error| {
        let close = error.close_code();
        Failure::new(id, error.code, error.message, close)
    })
}

async fn first_frame(app: &App, socket: &mut Socket) -> Result<Connect, Failure> {
    loop {
        return match socket.next().await {
            Some(Ok(Message::Text(text))) => match ClientFrame::parse(text.as_str()) {
                Ok(ClientFrame::Connect(connect)) => Ok(connect),
                Ok(other) => Err(Failure::new(other.id(), ErrorCode::OutOfOrder, "the first frame is connect", CloseCode::BadFrame)),
                Err(unreadable) => {
                    let error: FrameError = unreadable.error;
                    Err(Failure::new(unreadable.id, error.code(), error.to_string(), CloseCode::BadFrame))
                }
            },
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Binary(_))) => Err(Failure::silent(Some(CloseCode::BadFrame))),
            Some(Err(error)) => Err(Failure::silent(run::close_of(&error, &app.metrics))),
            Some(Ok(Message::Close(_))) | None => Err(Failure::silent(None)),
        };
    }
}

/// Writes `ready`, and after it everything that came meanwhile.
fn announce(app: &App, id: Option<u32>, opened: &mut Opened) {
    let groups = std::mem::take(&mut opened.groups);
    let session = opened.session();
    let limits = &app.config.limits;
    let ready = Ready {
        id,
        // By which nonces are judged, whatever the clock of this machine says.
        time: app.broker.now(),
        user: UserProfile {
            id: session.user.clone(),
            handle: opened.profile.handle.clone(),
            display_name: opened.profile.display_name.clone(),
        },
        session: session.id,
        groups,
        more: opened.more.is_some(),
        inbox: InboxFrame { unseen: opened.inbox.unseen, unread: opened.inbox.unread, version: opened.inbox.version },
        inbox_position: opened.inbox_joined.told(),
        inbox_recovered: opened.resume.inbox.is_some() && opened.inbox_joined.complete,
        ping_interval_ms: limits.heartbeat_interval.as_millis() as u64,
        limits: Limits {
            frame_bytes: limits.frame_bytes as u64,
            body_bytes: limits.body_bytes as u64,
            frames_per_second: limits.frames_per_second.min(limits.user_frames_per_second),
            bytes_per_second: limits.bytes_per_second as u64,
            groups: limits.groups_per_connection as u32,
            history: limits.history_page,
        },
    };
    let frame = ServerFrame::Ready(Box::new(ready));
    let bytes = wire::json(&frame);
    if let ServerFrame::Ready(ready) = frame {
        session.remember_told(ready.groups);
    }
    session.outlet.release(bytes);
}

/// Pages of groups after the one in `ready`.
async fn further_groups(
    app: Arc<App>,
    session: Arc<super::SessionHandle>,
    mut more: Option<natter_shared::id::GroupId>,
    resume: ResumeFrom,
) {
    while let Some(after) = more {
        if session.is_closed() {
            return;
        }
        match app.more_groups(&session, after, &resume).await {
            Ok((groups, next)) => {
                more = next;
                session.tell(&ServerFrame::Groups(GroupsFrame { groups, more: next.is_some() }));
            }
            Err(error) => {
                tracing::info!(session = %session.id, %error, "groups_not_listed");
                return session.outlet.close(CloseCode::TryAgain);
            }
        }
    }
}
