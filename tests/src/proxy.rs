//! A TCP proxy that a test puts between a service and NATS (or PostgreSQL, or a browser): it delays,
//! falls silent (a half-open link, a partition) and cuts, all connections or those of one name.
//!
//! A connection's name is the `name` in the CONNECT line of NATS; ours are `natter-gateway-publish`,
//! `-subscribe`, `-recovery`, `-calls` and the same of `natter-persister-`.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Chunks on their way in one direction of a connection.
const IN_FLIGHT: usize = 1024;

/// How a direction of a connection behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// What comes goes on at once.
    #[default]
    Fair,
    /// Everything arrives so much later, in order.
    Delayed(Duration),
    /// Nothing arrives, and nobody is told: what was sent meanwhile goes on when it is fair again.
    Silent,
}

/// How both directions behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Condition {
    /// To the server.
    pub up: Link,
    /// From the server.
    pub down: Link,
    /// New connections are reset at once.
    pub refusing: bool,
}

impl Condition {
    /// Both directions alike.
    pub fn both(link: Link) -> Self {
        Self { up: link, down: link, refusing: false }
    }

    /// Whoever comes is turned away; who is here stays. (Names are not known yet when a connection
    /// comes, so it is for [`Select::All`] only.)
    pub fn refusing() -> Self {
        Self { refusing: true, ..Self::default() }
    }
}

/// Which connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Select {
    /// All of them, whose name is not known yet included.
    All,
    /// Whose name contains this.
    Named(String),
}

impl Select {
    /// Whose name contains `part`.
    pub fn named(part: &str) -> Self {
        Self::Named(part.to_owned())
    }

    fn matches(&self, name: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Named(part) => name.is_some_and(|name| name.contains(part)),
        }
    }
}

/// What holds now; later entries go before earlier ones.
type Rules = Vec<(Select, Condition)>;

fn condition(rules: &Rules, name: Option<&str>) -> Condition {
    rules.iter().rev().find(|(select, _)| select.matches(name)).map_or_else(Condition::default, |(_, condition)| *condition)
}

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// One direction of one connection.
#[derive(Clone)]
struct Way {
    direction: Direction,
    connection: Arc<Connection>,
    shared: Arc<Shared>,
}

impl Way {
    fn link(&self, rules: &Rules) -> Link {
        if self.connection.frozen.load(Ordering::Relaxed) {
            return Link::Silent;
        }
        let condition = condition(rules, self.connection.name.lock().as_deref());
        match self.direction {
            Direction::Up => condition.up,
            Direction::Down => condition.down,
        }
    }

    /// Returns when what came in at `came` may go on.
    async fn until_due(&self, came: Instant, rules: &mut watch::Receiver<Rules>) {
        loop {
            let link = self.link(&rules.borrow_and_update());
            let due = match link {
                Link::Fair => return,
                Link::Delayed(delay) if came.elapsed() >= delay => return,
                Link::Delayed(delay) => Some(came + delay),
                Link::Silent => None,
            };
            tokio::select! {
                // The sender lives as long as this does.
                _ = rules.changed() => {}
                () = tokio::time::sleep_until(due.unwrap_or(came)), if due.is_some() => {}
            }
        }
    }
}

/// Carries one direction until its sender ends; then what is on its way still arrives.
async fn carry(way: Way, from: ReadHalf<'_>, to: WriteHalf<'_>) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    tokio::join!(take(&way, from, sender), give(&way, to, receiver));
}

async fn take(way: &Way, mut from: ReadHalf<'_>, sender: mpsc::Sender<(Instant, Bytes)>) {
    let mut start = (way.direction == Direction::Up).then(Vec::new);
    loop {
        let mut chunk = BytesMut::with_capacity(16_384);
        match from.read_buf(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Some(seen) = &mut start {
            seen.extend_from_slice(&chunk);
            if let Some(name) = name_in(seen) {
                *way.connection.name.lock() = Some(name);
                start = None;
            } else if seen.len() > 65_536 {
                start = None;
            }
        }
        if sender.send((Instant::now(), chunk.freeze())).await.is_err() {
            return;
        }
    }
}

async fn give(way: &Way, mut to: WriteHalf<'_>, mut receiver: mpsc::Receiver<(Instant, Bytes)>) {
    let mut rules = way.shared.rules.subscribe();
    while let Some((came, chunk)) = receiver.recv().await {
        way.until_due(came, &mut rules).await;
        if to.write_all(&chunk).await.is_err() {
            return;
        }
        way.shared.carried.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }
}

/// The name in a complete CONNECT line among what a client said first; empty where it gave none.
fn name_in(said: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(said).ok()?;
    let line = text.split_inclusive("\r\n").find(|line| line.starts_with("CONNECT ") && line.ends_with("\r\n"))?;
    let connect: Value = serde_json::from_str(line.strip_prefix("CONNECT ")?.trim_end()).ok()?;
    Some(connect["name"].as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers everything with itself.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn open(proxy: &Proxy, name: &str) -> TcpStream {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let hello = format!("CONNECT {{\"name\":\"{name}\",\"verbose\":false}}\r\n");
        stream.write_all(hello.as_bytes()).await.unwrap();
        let mut back = vec![0; hello.len()];
        stream.read_exact(&mut back).await.unwrap();
        stream
    }

    async fn round_trip(stream: &mut TcpStream, within: Duration) -> bool {
        stream.write_all(b"x").await.unwrap();
        answers(stream, within).await
    }

    async fn answers(stream: &mut TcpStream, within: Duration) -> bool {
        tokio::time::timeout(within, stream.read_u8()).await.is_ok_and(|read| read.is_ok())
    }

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_silent_link_holds_what_was_sent_and_gives_it_when_healed() {
        let proxy = Proxy::start(echo().await).unwrap();
        let (mut one, mut other) = (open(&proxy, "natter-gateway-publish").await, open(&proxy, "natter-gateway-calls").await);
        proxy.set(Select::named("publish"), Condition::both(Link::Silent));
        assert!(!round_trip(&mut one, SHORT).await, "silent");
        assert!(round_trip(&mut other, LONG).await, "another name");
        proxy.heal();
        assert!(answers(&mut one, LONG).await, "nothing is lost");
        assert_eq!(proxy.freeze(&Select::named("publish")), 1);
        assert!(!round_trip(&mut one, SHORT).await, "half open");
        assert_eq!(proxy.alive(&Select::named("publish")), 0);
        let mut next = open(&proxy, "natter-gateway-publish").await;
        assert!(round_trip(&mut next, LONG).await, "the next one is fair");
        assert_eq!(proxy.alive(&Select::named("publish")), 1);
    }

    #[tokio::test]
    async fn a_delay_is_kept_and_a_cut_is_a_reset() {
        let proxy = Proxy::start(echo().await).unwrap();
        let mut stream = open(&proxy, "slow").await;
        let delay = Duration::from_millis(60);
        proxy.set(Select::All, Condition { down: Link::Delayed(delay), ..Condition::default() });
        let began = Instant::now();
        assert!(round_trip(&mut stream, LONG).await);
        assert!(began.elapsed() >= delay, "{:?}", began.elapsed());
        assert_eq!(proxy.names(), ["slow"]);
        assert_eq!(proxy.cut(&Select::named("slow")), 1);
        let end = tokio::time::timeout(LONG, stream.read_u8()).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn who_comes_is_refused_and_who_is_here_stays() {
        let proxy = Proxy::start(echo().await).unwrap();
        let mut here = open(&proxy, "here").await;
        proxy.set(Select::All, Condition::refusing());
        let mut late = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(tokio::time::timeout(LONG, late.read_u8()).await.unwrap().is_err(), "refused");
        assert!(round_trip(&mut here, LONG).await);
    }
}
