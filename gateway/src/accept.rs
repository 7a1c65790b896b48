//! The accept loop: one task per connection, HTTP/1.1 with a deadline for the headers, and the raw
//! socket back when a connection is upgraded.

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// After an error that says that this process or machine is short of something.
const PAUSE: Duration = Duration::from_millis(100);

/// What a connection is served with.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) header_timeout: Duration,
    pub(crate) tasks: TaskTracker,
    /// Cancelled: finish the request that is being answered, then close.
    pub(crate) soft: CancellationToken,
    /// Cancelled: close now.
    pub(crate) hard: CancellationToken,
}

/// Accepts until the soft token.
pub(crate) async fn accept(listener: &TcpListener, server: &Server) {
    loop {
        let accepted = tokio::select! {
            () = server.soft.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let server = server.clone();
                let tasks = server.tasks.clone();
                tasks.spawn(async move { server.serve(stream, peer).await });
            }
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
    async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        // Frames are small and whole: waiting to join them only delays them.
        let _ = stream.set_nodelay(true);
        let router = self.router;
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().oneshot(request)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(16 * 1024)
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
            tracing::debug!(%peer, %error, "connection_ended");
        }
    }
}
