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
    time::{Interval, MissedTickBehavior, interval, sleep},
};
use tokio_util::{io::poll_read_buf, sync::CancellationToken};

use super::{
    Shared,
    dial::{Connection, DialError, Dialer, Socket},
    wire::{self, Op},
};
use crate::broker::nats::connect::{PING_INTERVAL, reconnect_delay};

/// Pings without an answer that a server may have when the next is due.
const UNANSWERED: u32 = 2;

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
    #[error("pings are not answered")]
    Silent,
}

/// Until `stop`.
pub(super) async fn run(shared: Arc<Shared>, mut dialer: Dialer, stop: CancellationToken) {
    let running = async {
        let mut attempts = 0;
        loop {
            sleep(reconnect_delay(attempts)).await;
            match dialer.dial().await {
                Ok(connection) => {
                    attempts = 0;
                    let mut pump = Pump::start(&shared, &mut dialer, connection);
                    let lost = poll_fn(|context| pump.poll(context)).await;
                    shared.disconnected();
                    tracing::debug!(connection = shared.name, error = %lost, "nats_lost");
                    shared.health.on_event(shared.name, &Event::Disconnected);
                }
                Err(error) => {
                    attempts += 1;
                    shared.health.on_event(shared.name, &event(error));
                }
            }
        }
    };
    stop.run_until_cancelled(running).await;
    shared.end();
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
    /// Pings without an answer.
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
                Poll::Ready(read) => read.map(|_| true)?,
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
        let (mut dropped, mut read) = (0, 0);
        {
            // Once for all that came: who subscribes or publishes meanwhile waits for some microseconds.
            let core = self.shared.core.lock();
            while let Some((op, length)) = wire::parse(self.buffer.get(read..).unwrap_or_default())? {
                read += length;
                match op {
                    Op::Message { id, message } => {
                        // One that has just been left.
                        let Some(entry) = core.sinks.get(&id) else { continue };
                        dropped += u64::from(entry.sink.take(&message, self.shared.capacity).is_err());
                    }
                    Op::Ping => self.out.extend_from_slice(b"PONG\r\n"),
                    Op::Pong => self.unanswered = 0,
                    Op::Ok => {}
                    Op::Info(info) => {
                        self.dialer.discover(&info);
                        if info.lame_duck {
                            self.shared.health.on_event(self.shared.name, &Event::LameDuckMode);
                        }
                    }
                    Op::Err(error) => {
                        let error = ServerError::Other(error.to_owned());
                        self.shared.health.on_event(self.shared.name, &Event::ServerError(error));
                    }
                }
            }
        }
        self.buffer.advance(read);
        if dropped > 0 {
            self.shared.health.dropped(dropped);
        }
        Ok(())
    }
}
