//! Connects, reads, writes, and connects again.

use std::{
    future::poll_fn,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_nats::{ClientError, Event, ServerError};
use bytes::{Buf, BytesMut};
use tokio::{
    io::AsyncWrite as _,
    time::{Duration, Instant, Interval, MissedTickBehavior, interval, sleep},
};
use tokio_util::{io::poll_read_buf, sync::CancellationToken};

use super::{
    Shared,
    dial::{Connection, DialError, Dialer, Socket},
    wire::{self, Incoming, Op},
};
use crate::{
    broker::nats::connect::{PING_INTERVAL, reconnect_delay},
    subject::{self, Space, Topic},
};

/// By which what a stream passes on is known.
const SEQUENCE: &str = "Nats-Sequence";

/// Pings that a server may have been sent, when the next is due, since anything was read of it.
const UNANSWERED: u32 = 2;

/// A connection that ended sooner was of no use: the next is tried after a pause.
const OF_USE: Duration = Duration::from_secs(1);

/// What is read at once, at most.
const READ: usize = 64 * 1024;

/// Room for what is to be written that is kept for the next time.
const KEPT: usize = 64 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Foreign(#[from] wire::Foreign),
    #[error("it says nothing, pings are not answered")]
    Silent,
}

/// Ends what is followed however the task ends.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Until `stop`.
pub(super) async fn run(shared: Arc<Shared>, mut dialer: Dialer, stop: CancellationToken) {
    let _end = End(&shared);
    let running = async {
        let mut attempts = 0;
        loop {
            sleep(reconnect_delay(attempts)).await;
            attempts += 1;
            match dialer.dial().await {
                Ok(connection) => {
                    let begun = Instant::now();
                    let mut pump = Pump::start(&shared, &mut dialer, connection);
                    let lost = poll_fn(|context| pump.poll(context)).await;
                    shared.disconnected();
                    match &lost {
                        Lost::Io(error) => tracing::debug!(connection = shared.name, %error, "nats_lost"),
                        Lost::Foreign(_) | Lost::Silent => tracing::warn!(connection = shared.name, error = %lost, "nats_lost"),
                    }
                    shared.health.on_event(shared.name, &Event::Disconnected);
                    if begun.elapsed() > OF_USE {
                        attempts = 0;
                    }
                }
                Err(error) => shared.health.on_event(shared.name, &event(error)),
            }
        }
    };
    stop.run_until_cancelled(running).await;
}

fn event(error: DialError) -> Event {
    match error {
        DialError::Refused(text) => Event::ServerError(ServerError::Other(text)),
        error => Event::ClientError(ClientError::Other(error.to_string())),
    }
}

/// One connection, until it is lost.
struct Pump<'a> {
    shared: &'a Shared,
    dialer: &'a mut Dialer,
    socket: Box<dyn Socket>,
    /// What was read and is not whole yet.
    buffer: BytesMut,
    /// What is being written, and how much of it is.
    out: Vec<u8>,
    written: usize,
    /// Written, and perhaps not sent.
    unflushed: bool,
    pings: Interval,
    /// Pings since anything was read.
    unanswered: u32,
}

impl<'a> Pump<'a> {
    fn start(shared: &'a Shared, dialer: &'a mut Dialer, connection: Connection) -> Self {
        let Connection { socket, buffer, info } = connection;
        shared.connected(info.version, info.max_payload);
        shared.health.on_event(shared.name, &Event::Connected);
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings.reset();
        Self { shared, dialer, socket, buffer, out: Vec::new(), written: 0, unflushed: false, pings, unanswered: 0 }
    }

    /// Ends with the connection.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Lost> {
        // First: whoever adds something to be written after we looked wakes us.
        self.shared.pump.register(context.waker());
        match self.advance(context) {
            Ok(()) => Poll::Pending,
            Err(lost) => Poll::Ready(lost),
        }
    }

    /// Reads and writes as far as it goes.
    fn advance(&mut self, context: &mut Context<'_>) -> Result<(), Lost> {
        while self.pings.poll_tick(context).is_ready() {
            if self.unanswered == UNANSWERED {
                return Err(Lost::Silent);
            }
            self.unanswered += 1;
            self.out.extend_from_slice(b"PING\r\n");
        }
        // What the greeting left is there without being read.
        let mut is_read = !self.buffer.is_empty();
        loop {
            if is_read {
                self.take()?;
            }
            // What the socket does not take waits: it wakes us.
            let _ = self.poll_write(context)?;
            if self.buffer.is_empty() && self.buffer.capacity() > 2 * READ {
                self.buffer = BytesMut::new();
            }
            self.buffer.reserve(READ);
            is_read = match poll_read_buf(Pin::new(&mut self.socket), context, &mut self.buffer) {
                Poll::Ready(Ok(0)) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Poll::Ready(read) => {
                    read?;
                    // Whatever it says, it is there; the answer to a ping may be far behind.
                    self.unanswered = 0;
                    true
                }
                Poll::Pending => false,
            };
            if !is_read {
                return Ok(());
            }
        }
    }

    /// Writes all there is. What is added while something waits for the socket waits too.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.written == self.out.len() {
                self.written = 0;
                self.out.clear();
                self.out.shrink_to(KEPT);
                mem::swap(&mut self.out, &mut self.shared.core.lock().out);
            }
            let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) else { break };
            let written = ready!(Pin::new(&mut self.socket).poll_write(context, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Passes on all that is whole.
    fn take(&mut self) -> Result<(), Lost> {
        let (mut dropped, mut is_told, mut read) = (0, false, 0);
        let mut events = Vec::new();
        {
            // Once for all that came: who subscribes or publishes meanwhile waits for some microseconds.
            let mut core = self.shared.core.lock();
            while let Some((op, length)) = wire::parse(self.buffer.get(read..).unwrap_or_default())? {
                read += length;
                match op {
                    Op::Message { id, message } => {
                        // One that has just been left.
                        let Some(entry) = core.sinks.get(&id) else { continue };
                        if entry.sink.take(&message, self.shared.capacity).is_err() {
                            dropped += 1;
                            if !is_told && !is_of_the_moment(&message) {
                                // Before anything that came after it is seen.
                                self.shared.health.raise_generation();
                                is_told = true;
                            }
                        }
                    }
                    Op::Ping => self.out.extend_from_slice(b"PONG\r\n"),
                    Op::Pong | Op::Ok => {}
                    Op::Info(info) => {
                        self.dialer.discover(&info);
                        if let (Some(server), Some(max_payload)) = (&mut core.server, info.max_payload) {
                            server.max_payload = max_payload;
                        }
                        events.extend(info.lame_duck.then_some(Event::LameDuckMode));
                    }
                    Op::Err(error) => events.push(Event::ServerError(ServerError::Other(error.to_owned()))),
                }
            }
        }
        self.buffer.advance(read);
        for event in events {
            self.shared.health.on_event(self.shared.name, &event);
        }
        if dropped > 0 {
            self.shared.health.dropped(dropped);
        }
        Ok(())
    }
}

/// What a group's members hear and no log has (typing): nobody would look for it.
fn is_of_the_moment(message: &Incoming<'_>) -> bool {
    let is_of_group = matches!(subject::parse(message.subject), Some((Space::Live, _, Topic::Group(_))));
    is_of_group && message.header(SEQUENCE).is_none()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::timeout,
    };

    use super::*;
    use crate::broker::nats::{
        connect::Health,
        link::{Link, Publication, Unsent},
        options::{NatsAuth, NatsOptions, Role},
    };

    /// A link to a server that signs everybody in, then says `PING` so often, and answers nothing.
    async fn link_to_one_that_only_says(every: Duration, options: NatsOptions) -> (Link, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut reading, mut writing) = stream.into_split();
                writing.write_all(b"INFO {}\r\nPONG\r\n").await.unwrap();
                tokio::spawn(async move { while reading.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {} });
                tokio::spawn(async move {
                    loop {
                        sleep(every).await;
                        if writing.write_all(b"PING\r\n").await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let stop = CancellationToken::new();
        let options = NatsOptions { urls: vec![url], ..options };
        let health = Health::new(Role::Gateway, &NatsAuth::None);
        let link = Link::start("test", &options, Role::Gateway, health, stop.clone()).await.unwrap();
        let connected = async {
            while !link.is_connected() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), connected).await.unwrap();
        (link, stop)
    }

    #[tokio::test]
    async fn who_speaks_is_kept_though_it_answers_no_ping_and_who_is_silent_is_left() {
        let (speaks, _stop) = link_to_one_that_only_says(Duration::from_millis(200), NatsOptions::default()).await;
        let (silent, _stop_too) = link_to_one_that_only_says(Duration::from_hours(1), NatsOptions::default()).await;
        let left = async {
            while silent.connects() == 1 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(20), left).await.unwrap();
        assert_eq!(speaks.connects(), 1);
    }

    #[tokio::test]
    async fn no_more_waits_to_be_sent_than_may() {
        let options = NatsOptions { max_in_flight_bytes: 1000, ..NatsOptions::default() };
        let (link, stop) = link_to_one_that_only_says(Duration::from_millis(200), options).await;
        let publication = Publication { subject: "a", reply: None, headers: &[], payload: &[b'x'; 1500] };
        let small = Publication { payload: b"x", ..publication };
        let huge = vec![b'x'; super::super::MAX_PAYLOAD + 1];
        let too_large = Publication { payload: &huge, ..publication };
        // Nothing of it is sent meanwhile: there is one thread, and it is here.
        assert_eq!(link.publish([small, too_large]), Err(Unsent::TooLarge(super::super::MAX_PAYLOAD)), "and nothing of the first");
        assert!(link.0.core.lock().out.is_empty());
        assert_eq!([(); 3].map(|()| link.publish([publication])), [Ok(()), Ok(()), Err(Unsent::Full)]);
        stop.cancel();
        let ended = async {
            while link.publish([publication]) != Err(Unsent::Disconnected) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), ended).await.unwrap();
        let mut late = link.subscribe("b".to_owned(), |_| Some(()));
        assert_eq!(timeout(Duration::from_secs(10), futures::StreamExt::next(&mut late)).await.unwrap(), None, "it is over");
    }
}
