//! The WebSocket upgrade (RFC 6455 section 4.2): checked, admitted, answered, and the raw socket
//! taken over for the session.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use natter_shared::{
    frame::{ErrorCode, SUBPROTOCOL},
    id::{GroupId, RoomName},
};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use uuid::Uuid;

use super::Problem;
use crate::{
    accept::HandshakeDeadline,
    admission::{Place, Ticket},
    app::App,
    auth::{AuthError, By, Identity, UNAUTHORIZED, origin},
    limit::Limit,
    session::{self, OpenError, Opened, RoomOrGroup, Serving},
    socket::{self, Outlet, Socket, wire},
    standings,
};

/// The routes of both protocols.
pub(crate) fn routes(app: Arc<App>) -> Router {
    Router::new().route("/ws", get(v1)).route("/ws/chat/{room}/", get(chat_room)).with_state(app)
}

/// A request to upgrade that is in order, and admitted.
struct Handshake {
    accept: String,
    offers_v1: bool,
    on_upgrade: OnUpgrade,
    ticket: Ticket,
    identity: Result<Option<Identity>, AuthError>,
}

impl Handshake {
    /// Checks a request, until the deadline of its handshake.
    async fn check(app: &App, request: &mut Request) -> Result<(Self, Instant), Problem> {
        let deadline = request.extensions().get::<HandshakeDeadline>().map(|HandshakeDeadline(deadline)| *deadline);
        let deadline = deadline.unwrap_or_else(|| Instant::now() + app.config.limits.handshake_timeout);
        let checked = tokio::time::timeout_at(deadline.into(), Self::check_all(app, request));
        Ok((checked.await.map_err(|_| Problem::timeout(Limit::HandshakeTimeout))??, deadline))
    }

    async fn check_all(app: &App, request: &mut Request) -> Result<Self, Problem> {
        let headers = request.headers();
        let has = |name: header::HeaderName, token: &str| {
            let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
            values.any(|value| value.trim().eq_ignore_ascii_case(token))
        };
        let version_13 = headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
        if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
            return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "this is a WebSocket endpoint"));
        }
        if !version_13 {
            return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "the WebSocket version is 13"));
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
        let Some(key) = key else { return Err(Problem::bad_request("Sec-WebSocket-Key is missing or malformed")) };
        let accept = derive_accept_key(key.as_bytes());
        let offers_v1 = has(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
        let identity = identify(app, headers, peer).await?;
        if app.closing.is_cancelled() {
            return Err(Problem::of(ErrorCode::Draining, "this gateway is shutting down"));
        }
        let place = request.extensions().get::<Arc<Place>>().cloned();
        let Some(on_upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
            return Err(Problem::bad_request("this connection cannot be upgraded"));
        };
        let ticket = app.admission.admit(place, peer, request.headers(), &app.config)?;
        Ok(Self { accept, offers_v1, on_upgrade, ticket, identity })
    }

    fn respond(&self, protocol: Option<&'static str>) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        response
    }
}

/// Who asks. A foreign page is refused; a token that does not hold is told in the socket, because
/// a browser cannot read a 401. A cookie counts only on a page's own request.
async fn identify(app: &App, headers: &HeaderMap, peer: Option<std::net::IpAddr>) -> Result<Result<Option<Identity>, AuthError>, Problem> {
    let verdict = origin::of_request(headers, peer, &app.config.http)
        .map_err(|forbidden| Problem::new(StatusCode::FORBIDDEN, "origin", forbidden.to_string()))?;
    Ok(match app.auth.identify(headers).await {
        Ok(Some(signed_in)) => match (signed_in.by, verdict) {
            (By::Bearer, _) | (By::Cookie, origin::OriginVerdict::Own | origin::OriginVerdict::Listed) => Ok(Some(signed_in.identity)),
            (By::Cookie, origin::OriginVerdict::Absent) => Ok(None),
        },
        Ok(None) => Ok(None),
        Err(reason) => {
            tracing::debug!(%reason, "token_refused");
            // A page cannot take back a cookie that does not hold any more: as if it had none.
            if headers.contains_key(header::AUTHORIZATION) { Err(reason) } else { Ok(None) }
        }
    })
}

/// Waits for the connection to be handed over.
async fn take_over(on_upgrade: OnUpgrade) -> Option<(TcpStream, Vec<u8>)> {
    let upgraded = on_upgrade.await.inspect_err(|error| tracing::debug!(%error, "upgrade_abandoned")).ok()?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    // From here on the heartbeat sees to it.
    let _ = SockRef::from(parts.io.inner()).set_tcp_user_timeout(None);
    Some((parts.io.into_inner(), parts.read_buf.to_vec()))
}

async fn v1(State(app): State<Arc<App>>, request: Request) -> Response {
    upgraded(app, request, session::open_v1).await
}

/// Answers with a 101, and serves the connection once it is handed over.
async fn upgraded<Opening: Future<Output = Option<Serving>> + Send>(
    app: Arc<App>,
    mut request: Request,
    open: impl FnOnce(Arc<App>, TcpStream, Vec<u8>, Result<Option<Identity>, AuthError>) -> Opening + Send + 'static,
) -> Response {
    let handshake = match Handshake::check(&app, &mut request).await {
        Ok((handshake, _)) => handshake,
        Err(problem) => return problem.into_response(),
    };
    let response = handshake.respond(handshake.offers_v1.then_some(SUBPROTOCOL));
    let Handshake { on_upgrade, ticket, identity, .. } = handshake;
    let opened = Arc::clone(&app);
    spawn(&app, ticket, async move {
        let (stream, read) = take_over(on_upgrade).await?;
        open(opened, stream, read, identity).await
    });
    response
}

/// Serves what `opening` leads to. Both are on the heap, one after the other: a connection that stays does not keep the
/// room that its opening takes.
fn spawn(app: &App, ticket: Ticket, opening: impl Future<Output = Option<Serving>> + Send + 'static) {
    let opening = Box::pin(opening);
    let hard = app.hard.clone();
    app.tasks.spawn(async move {
        let served = async {
            let serving = opening.await;
            if let Some(serving) = serving {
                serving.await;
            }
        };
        hard.run_until_cancelled(served).await;
        drop(ticket);
    });
}

/// The route of [`session::open_echo`].
#[cfg(test)]
pub(crate) fn echo_routes(app: Arc<App>) -> Router {
    let echo = async |State(app): State<Arc<App>>, request: Request| {
        upgraded(app, request, |app, stream, read, _| session::open_echo(app, stream, read)).await
    };
    Router::new().route("/echo", get(echo)).with_state(app)
}

async fn chat_room(State(app): State<Arc<App>>, Path(room): Path<String>, mut request: Request) -> Response {
    // Before it is admitted: what is refused takes nothing from everybody else's rate.
    let room = match Uuid::parse_str(&room) {
        Ok(id) => RoomOrGroup::Group(GroupId(id)),
        Err(_) => match RoomName::room(&room) {
            Ok(name) => RoomOrGroup::Room(name),
            Err(error) => return Problem::bad_request(error.to_string()).into_response(),
        },
    };
    let (handshake, deadline) = match Handshake::check(&app, &mut request).await {
        Ok(checked) => checked,
        Err(problem) => return problem.into_response(),
    };
    let response = handshake.respond(None);
    let Handshake { on_upgrade, ticket, identity, .. } = handshake;
    let outlet = Arc::new(Outlet::held(app.outlet_limits()));
    // The session is live before the 101 is sent: what anybody sends from then on arrives.
    let opened = match identity {
        Ok(Some(identity)) => open_in_time(&app, identity, room, &outlet, deadline).await,
        Ok(None) => Err(OpenError { code: ErrorCode::Unauthorized, message: UNAUTHORIZED.to_owned() }),
        Err(reason) => {
            let (code, message) = standings::told_of(reason);
            Err(OpenError { code, message })
        }
    };
    let served = Arc::clone(&app);
    spawn(&app, ticket, async move {
        let (stream, read) = take_over(on_upgrade).await?;
        outlet.attach(stream);
        let socket = socket::websocket(&served, &outlet, read).await;
        match opened {
            Ok(opened) => Some(session::serve_chat_room(served, opened, socket)),
            Err(error) => {
                refuse(&served, &outlet, &error, socket).await;
                None
            }
        }
    });
    response
}

async fn open_in_time(
    app: &Arc<App>,
    identity: Identity,
    room: RoomOrGroup,
    outlet: &Arc<Outlet>,
    deadline: Instant,
) -> Result<Opened, OpenError> {
    let opening = session::open_chat_room(app, identity, room, Arc::clone(outlet));
    match tokio::time::timeout_at(deadline.into(), opening).await {
        Ok(opened) => opened,
        Err(_) => {
            app.metrics.refused(Limit::HandshakeTimeout);
            Err(OpenError { code: ErrorCode::Unavailable, message: "signing in took too long".to_owned() })
        }
    }
}

async fn refuse(app: &App, outlet: &Outlet, error: &OpenError, mut socket: Socket) {
    let code = error.close_code();
    outlet.refuse(wire::json(&serde_json::json!({"type": "error", "code": error.code, "message": error.message})), code);
    app.metrics.closed(code);
    session::finish(app, outlet, &mut socket).await;
}
