//! A TCP proxy that a test puts between a service and NATS (or PostgreSQL, or a browser): it delays,
//! falls silent (a half-open link, a partition) and cuts, all connections or those of one name.
//!
//! A connection's name is the `name` in the CONNECT line of NATS; ours are `natter-gateway-publish`,
//! `-subscribe`, `-recovery`, `-calls` and the same of `natter-persister-`.
//!
//! `rules` says how links behave, `carry` carries one direction of a connection.

mod carry;
mod rules;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

pub use self::rules::{Condition, Link, Select};
use self::{
    carry::{Direction, Way, carry},
    rules::{Rules, condition},
};

/// One connection through the proxy.
struct Connection {
    number: u64,
    name: Mutex<Option<String>>,
    frozen: AtomicBool,
    cut: CancellationToken,
}

struct Shared {
    target: SocketAddr,
    rules: watch::Sender<Rules>,
    connections: Mutex<Vec<Arc<Connection>>>,
    carried: AtomicU64,
}

/// A running proxy; dropped, it cuts everything.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a loopback port and connects whoever comes to `target`. Within a runtime of tokio.
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let (rules, connections) = (watch::Sender::new(Vec::new()), Mutex::default());
        let shared = Arc::new(Shared { target, rules, connections, carried: AtomicU64::new(0) });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// Where to connect instead of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL for services.
    pub fn nats_url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// From now on these connections, new ones too, behave so.
    pub fn set(&self, select: Select, condition: Condition) {
        self.shared.rules.send_modify(|rules| {
            rules.retain(|(other, _)| *other != select);
            rules.push((select, condition));
        });
    }

    /// Everything is fair again.
    pub fn heal(&self) {
        self.shared.rules.send_modify(Vec::clear);
    }

    /// Resets these connections; returns how many there were.
    pub fn cut(&self, select: &Select) -> usize {
        let connections = self.shared.connections.lock();
        let cut = connections.iter().filter(|connection| select.matches(connection.name.lock().as_deref()));
        cut.map(|connection| connection.cut.cancel()).count()
    }

    /// These connections, as they are now, fall silent for good, as after a power loss on the way: half
    /// open. Those that come after them are fair. Returns how many there were.
    pub fn freeze(&self, select: &Select) -> usize {
        let connections = self.shared.connections.lock();
        let frozen = connections.iter().filter(|connection| select.matches(connection.name.lock().as_deref()));
        let count = frozen.map(|connection| connection.frozen.store(true, Ordering::Relaxed)).count();
        // Whoever waits looks again.
        self.shared.rules.send_modify(|_| {});
        count
    }

    /// How many of these connections are open and not [frozen](Self::freeze).
    pub fn alive(&self, select: &Select) -> usize {
        let connections = self.shared.connections.lock();
        let alive = connections.iter().filter(|connection| !connection.frozen.load(Ordering::Relaxed));
        alive.filter(|connection| select.matches(connection.name.lock().as_deref())).count()
    }

    /// The names of the open connections; empty where there is none or it is not known yet.
    pub fn names(&self) -> Vec<String> {
        self.shared.connections.lock().iter().map(|connection| connection.name.lock().clone().unwrap_or_default()).collect()
    }

    /// Bytes that went through so far, both directions.
    pub fn carried(&self) -> u64 {
        self.shared.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut number = 0;
    let mut serving = JoinSet::new();
    loop {
        // A failed accept (too many open files) is tried again a little later.
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while serving.try_join_next().is_some() {}
        if condition(&shared.rules.borrow(), None).refusing {
            reset(&client);
            continue;
        }
        number += 1;
        let connection =
            Arc::new(Connection { number, name: Mutex::default(), frozen: AtomicBool::new(false), cut: CancellationToken::new() });
        shared.connections.lock().push(Arc::clone(&connection));
        serving.spawn(serve(client, connection, Arc::clone(&shared)));
    }
}

async fn serve(mut client: TcpStream, connection: Arc<Connection>, shared: Arc<Shared>) {
    if let Ok(mut server) = TcpStream::connect(shared.target).await {
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let way = |direction| Way { direction, connection: Arc::clone(&connection), shared: Arc::clone(&shared) };
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let cut = tokio::select! {
            () = carry(way(Direction::Up), from_client, to_server) => false,
            () = carry(way(Direction::Down), from_server, to_client) => false,
            () = connection.cut.cancelled() => true,
        };
        if cut {
            reset(&client);
            reset(&server);
        }
    }
    shared.connections.lock().retain(|other| other.number != connection.number);
}

/// Closing it sends a reset.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}
