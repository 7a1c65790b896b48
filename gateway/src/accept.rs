//! The accept loop: one task per connection that has a place, HTTP/1.1 with a deadline for the
//! headers and bounds on them, and the raw socket back when a connection is upgraded.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    admission::Place,
    app::App,
    http::Problem,
    limit::Limit,
    refusals::{RefusalSlot, Refusals},
};

/// After an error that says that this process or machine is short of something.
const PAUSE: Duration = Duration::from_millis(100);

/// What a connection without a place has for its request's headers.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes that the kernel takes for a connection beyond what it has sent.
const UNSENT: u32 = 64 * 1024;

/// What who watches the process asks for. It is answered on connections without a place, too: a
/// process that is full is not dead.
const WATCHED: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// What a connection is served with.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) app: Arc<App>,
    pub(crate) router: Router,
    pub(crate) refusals: Refusals,
    pub(crate) tasks: TaskTracker,
    /// Cancelled: finish the request that is being answered, then close.
    pub(crate) soft: CancellationToken,
    /// Cancelled: close now.
    pub(crate) hard: CancellationToken,
}

/// When a request's upgrade has to be done, in its extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HandshakeDeadline(pub(crate) Instant);

/// What a connection is let in with.
enum Entry {
    Place(Place),
    /// Told why it has none, as soon as it has asked.
    Refused(Problem, Arc<AtomicBool>),
}

/// Accepts until the soft token.
pub(crate) async fn accept(listener: &TcpListener, server: &Server) {
    loop {
        let accepted = tokio::select! {
            () = server.soft.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => server.begin(stream, peer),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accept_failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted)
}

impl Server {
    fn begin(&self, stream: TcpStream, peer: SocketAddr) {
        let server = self.clone();
        match self.app.admission.accept(peer.ip(), &self.app.config) {
            Ok(place) => drop(self.tasks.spawn(server.serve(stream, peer, Entry::Place(place)))),
            Err(problem) => match self.refusals.enter(peer.ip()) {
                Some(slot) => drop(self.tasks.spawn(server.refuse(stream, peer, problem, slot))),
                None => self.refused_unasked(&problem),
            },
        }
    }

    fn refused_unasked(&self, problem: &Problem) {
        problem.limit().into_iter().for_each(|limit| self.app.metrics.refused(limit));
    }

    /// Serves a connection that has no place, until another one takes its room.
    async fn refuse(self, stream: TcpStream, peer: SocketAddr, problem: Problem, slot: RefusalSlot) {
        tokio::select! {
            () = self.clone().serve(stream, peer, Entry::Refused(problem.clone(), slot.asked())) => {}
            () = slot.displaced() => self.refused_unasked(&problem),
        }
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, entry: Entry) {
        let limits = &self.app.config.limits;
        tune(&stream, limits.http_timeout);
        let (place, refusal, asked) = match entry {
            Entry::Place(place) => (Some(Arc::new(place)), None, Arc::default()),
            Entry::Refused(problem, asked) => (None, Some(problem), asked),
        };
        let said_nothing = refusal.as_ref().map_or(Some(Limit::HeaderTimeout), Problem::limit);
        let header_timeout = if refusal.is_some() { REFUSAL_TIMEOUT.min(limits.header_timeout) } else { limits.header_timeout };
        let (app, router, first) = (Arc::clone(&self.app), self.router.clone(), Cell::new(Some(Instant::now())));
        let requests = Requests { app, router, peer, place, refusal, asked: Arc::clone(&asked), first };
        let service = service_fn(move |request| requests.answer(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_headers(limits.headers)
            .max_buf_size(limits.header_bytes)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = self.hard.cancelled() => return,
            () = self.soft.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = &mut connection => ended,
                    () = self.hard.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended {
            // One that has asked before is mostly kept alive for a next request, which does not come.
            let limit = if error.is_timeout() && !asked.load(Ordering::Relaxed) {
                said_nothing
            } else {
                error.is_parse_too_large().then_some(Limit::HeaderBytes)
            };
            if let Some(limit) = limit {
                self.app.metrics.refused(limit);
            }
            tracing::debug!(%peer, %error, "connection_ended");
        }
    }
}

/// Sets what a client's connection is to be like.
fn tune(stream: &TcpStream, http_timeout: Duration) {
    // Frames are small and whole: waiting to join them only delays them.
    let _ = stream.set_nodelay(true);
    // A peer that does not read is to be noticed here, where its backlog is bounded: the kernel would
    // take megabytes for it.
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
    // An answer that nobody reads does not wait for ever.
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(http_timeout));
}

/// What answers the requests of one connection.
struct Requests {
    app: Arc<App>,
    router: Router,
    peer: SocketAddr,
    /// Shared: an upgraded connection keeps it.
    place: Option<Arc<Place>>,
    /// Why it has no place.
    refusal: Option<Problem>,
    /// Set by its first request.
    asked: Arc<AtomicBool>,
    /// Since when the first request is waited for; none after it.
    first: Cell<Option<Instant>>,
}

impl Requests {
    fn answer(&self, mut request: hyper::Request<Incoming>) -> impl Future<Output = Result<Response, Infallible>> + use<> {
        self.asked.store(true, Ordering::Relaxed);
        let since = self.first.take().unwrap_or_else(Instant::now);
        let refused = self.refusal.clone().filter(|_| !WATCHED.contains(&request.uri().path()));
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(self.peer));
        extensions.insert(HandshakeDeadline(since + self.app.config.limits.handshake_timeout));
        self.place.clone().map(|place| extensions.insert(place));
        let (app, router, last) = (Arc::clone(&self.app), self.router.clone(), self.refusal.is_some());
        async move {
            let mut response = match refused {
                Some(problem) => problem.into_response(),
                None => router.oneshot(request).await?,
            };
            if let Some(limit) = response.extensions().get::<Limit>() {
                app.metrics.refused(*limit);
            }
            if last {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        }
    }
}
