//! The generator: one thread over all connections. `connection` is one of them, `tally` what they have
//! received, `resume` what one knows when it comes back, `round` some seconds of traffic with what came of it. The
//! scenarios are `traffic` (one room, or many, and `search` for the most), `idle`, `churn`, `publish` and `herd`.

mod churn;
mod connection;
mod herd;
mod idle;
mod publish;
mod resume;
mod round;
mod search;
mod tally;
mod traffic;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) use self::connection::group_name;
pub use self::{
    churn::{Churn, ChurnReport},
    herd::{Herd, HerdReport},
    idle::{Idle, IdleReport},
    publish::{Publish, PublishReport},
    round::Outcome,
    search::Search,
    traffic::{Fanout, Rooms, TrafficReport},
};
use self::{
    connection::{Connection, Phase},
    resume::Resume,
    tally::Tally,
};
use crate::{procs::Watched, token::Issuer};

/// What is read at once: more than a kernel buffer mostly holds.
const READ: usize = 1 << 18;

/// How long opening all connections may take.
const OPEN_WITHIN: Duration = Duration::from_mins(5);

/// Reasons that are kept of those why connections ended.
const REASONS: usize = 3;

/// Whom the load is for, and who is watched meanwhile.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// Where the server listens; again for several, which are taken in turn
    #[arg(long, required = true)]
    pub addr: Vec<SocketAddr>,
    /// A process of the server, whose CPU and memory are told, with all that it started; again for more
    #[arg(long, value_name = "NAME=PID")]
    pub pid: Vec<Watched>,
    /// Bytes of a message's text (50 at least: it holds what it is told again by)
    #[arg(long, default_value_t = 128)]
    pub bytes: usize,
    /// Connections that are being opened at the same time
    #[arg(long, default_value_t = 100)]
    pub opening: usize,
    /// Loopback addresses that connections come from, where the server is on loopback
    #[arg(long, default_value_t = 16)]
    pub sources: u8,
    /// The number of the first user: generators that run beside each other need users of their own. For `idle` and
    /// `churn`: of messages each would count the others'
    #[arg(long, default_value_t = 0)]
    pub first_user: usize,
    /// How the server knows its users
    #[command(flatten)]
    pub issuer: Issuer,
}

/// All connections, and what has come of them.
pub struct Load {
    target: Target,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    tally: Tally,
    ready: usize,
    /// Ended without our doing.
    failed: usize,
    reasons: Vec<String>,
    /// Connections that became ready, or ended, since somebody looked.
    changed: Vec<usize>,
    opened: usize,
    /// Whether connections that are opened anew go on where they were.
    resumes: bool,
}

impl Load {
    /// None connected yet.
    pub fn new(target: &Target) -> Result<Self> {
        Ok(Self {
            target: target.clone(),
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            connections: Vec::new(),
            buffer: vec![0; READ],
            tally: Tally::new()?,
            ready: 0,
            failed: 0,
            reasons: Vec::new(),
            changed: Vec::new(),
            opened: 0,
            resumes: false,
        })
    }

    /// Opens connection `index` anew, or as the next one, of the user of this number; it joins
    /// `groups` open groups, first the one of `rooms` rooms whose turn it is. The members of a room are spread over all
    /// addresses.
    fn open(&mut self, index: usize, rooms: usize, groups: usize) -> Result<()> {
        let (room, member) = (index % rooms, index / rooms);
        let addr = *self.target.addr.get((room + member) % self.target.addr.len()).context("an address")?;
        let mut stream = TcpStream::from_std(self.socket(addr)?.into());
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        let token = self.target.issuer.token(&crate::token::user(self.target.first_user + index));
        let mut connection = Connection::new(stream, room, groups, addr, &token, self.tally.now());
        connection.resume = self.resumes.then(Resume::default);
        match self.connections.get_mut(index) {
            Some(old) => {
                if self.resumes {
                    connection.resume = old.resume.take();
                    connection.sequences = std::mem::take(&mut old.sequences);
                }
                *old = connection;
            }
            None => self.connections.push(connection),
        }
        Ok(())
    }

    fn socket(&mut self, addr: SocketAddr) -> Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))
            .context("a socket: does `ulimit -n` allow as many?")?;
        socket.set_tcp_nodelay(true)?;
        if self.target.sources > 0 && addr.ip() == Ipv4Addr::LOCALHOST {
            // Each address has ports of its own, and counts as another client.
            let source = [127, 0, 1, 1 + (self.opened % usize::from(self.target.sources)) as u8];
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        self.opened += 1;
        match socket.connect(&addr.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error.into()),
            Ok(()) | Err(_) => Ok(socket),
        }
    }

    /// Opens `count` connections over `rooms` rooms; the seconds that it took.
    fn open_all(&mut self, count: usize, rooms: usize, groups: usize) -> Result<f64> {
        let begun = Instant::now();
        while self.ready + self.failed < count && begun.elapsed() < OPEN_WITHIN {
            while self.connections.len() < count && self.connections.len() - self.ready - self.failed < self.target.opening {
                let index = self.connections.len();
                self.open(index, rooms, groups)?;
            }
            self.poll(Duration::from_millis(50))?;
        }
        let took = begun.elapsed().as_secs_f64();
        ensure!(self.ready > 0, "nobody got in: {:?}", self.reasons);
        self.changed.clear();
        Ok(took)
    }

    /// Receives for so long.
    fn receive_for(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.poll(left.min(Duration::from_millis(100)))?;
        }
        Ok(())
    }

    /// Handles what has come, and waits for it for so long at most (in whole milliseconds, rounded up).
    fn poll(&mut self, wait: Duration) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let mut ended = Vec::new();
        for event in &self.events {
            let Token(index) = event.token();
            let Some(connection) = self.connections.get_mut(index).filter(|connection| connection.phase != Phase::Gone) else { continue };
            let before = connection.phase;
            let outcome = connection.on_event(event, &mut self.buffer, &mut self.tally);
            if connection.phase == Phase::Ready && before != Phase::Ready {
                self.ready += 1;
                self.changed.push(index);
            }
            if let Err(reason) = outcome {
                ended.push((index, reason.to_string()));
            }
        }
        for (index, reason) in ended {
            self.end(index, reason);
        }
        Ok(())
    }

    /// Sends a text on a connection that is ready; whether it was.
    fn send(&mut self, index: usize, text: &str) -> bool {
        let Some(connection) = self.connections.get_mut(index).filter(|connection| connection.phase == Phase::Ready) else { return false };
        if let Err(error) = connection.send(crate::frame::TEXT, text.as_bytes()) {
            self.end(index, error.to_string());
            return false;
        }
        true
    }

    fn end(&mut self, index: usize, reason: String) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        match connection.phase {
            Phase::Gone => return,
            Phase::Closing => {}
            phase => {
                self.ready -= usize::from(phase == Phase::Ready);
                self.failed += 1;
                if self.reasons.len() < REASONS {
                    self.reasons.push(reason);
                }
            }
        }
        // What it was to the poll goes with the socket.
        connection.hang_up();
        self.changed.push(index);
    }

    /// Why connections ended and messages were refused: the first of each.
    fn reasons(&self) -> Vec<String> {
        self.reasons.iter().chain(&self.tally.refusals).cloned().collect()
    }
}
