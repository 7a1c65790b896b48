//! What tungstenite reads from and writes to: reads come from the socket, counted by the meter;
//! writes go through the outlet, which always accepts the whole buffer, so that what tungstenite
//! writes by itself (pongs, the echo of a Close) never lands inside another frame.

use std::{
    io::{self, Read},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{Role, WebSocketConfig},
};

use super::{
    Outlet,
    meter::{Breach, Meter, ReadLimits},
};
use crate::app::App;

/// The smallest buffer that reads most frames at once: it is held by every idle connection.
const READ_BUFFER: usize = 512;

/// The reading side of a session's socket. On the heap: a future that hands it on has room for each
/// place that it is handed to.
pub type Socket = Box<WebSocketStream<SocketIo>>;

/// The reading side of an outlet's socket; `read` is what came behind the upgrade's headers.
pub(crate) async fn websocket(app: &App, outlet: &Arc<Outlet>, mut read: Vec<u8>) -> Socket {
    let limits = &app.config.limits;
    let largest = limits.frame_bytes.max(limits.connect_frame_bytes);
    let (io, good) = SocketIo::new(Arc::clone(outlet), Arc::clone(&app.read_limits), largest, &read);
    read.truncate(good);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(largest))
        .max_frame_size(Some(largest));
    Box::new(WebSocketStream::from_partially_read(io, read, Role::Server, Some(config)).await)
}

/// The reading side of an attached [`Outlet`], as tungstenite's stream.
pub struct SocketIo {
    outlet: Arc<Outlet>,
    meter: Meter,
}

impl SocketIo {
    /// Reads from `outlet`'s socket, messages of `largest` bytes at most, and writes through
    /// `outlet`. Also says how much of `read`, which came before, may be read.
    pub fn new(outlet: Arc<Outlet>, limits: Arc<ReadLimits>, largest: usize, read: &[u8]) -> (Self, usize) {
        let now = Instant::now();
        let mut meter = Meter::new(limits, largest, now);
        let good = meter.pass(read, now);
        (Self { outlet, meter }, good)
    }

    /// From the next message on, so many bytes of each.
    pub fn set_largest(&mut self, bytes: usize) {
        self.meter.set_largest(bytes);
    }
}

/// The breach that ended a connection's reading, if that is what did.
pub fn breach_of(error: &io::Error) -> Option<Breach> {
    error.get_ref().and_then(|inner| inner.downcast_ref()).copied()
}

impl AsyncRead for SocketIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { outlet, meter } = &mut *self;
        if let Some(breach) = meter.breach() {
            return Poll::Ready(Err(io::Error::other(breach)));
        }
        let Some(stream) = outlet.stream() else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            let read = match read_once(stream, room) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let good = meter.pass(room.get(..read).unwrap_or_default(), Instant::now());
            if let Some(breach) = meter.breach().filter(|_| good == 0) {
                return Poll::Ready(Err(io::Error::other(breach)));
            }
            buf.advance(good);
            return Poll::Ready(Ok(()));
        }
    }
}

/// What there is to read. Where that does not fill `room`, the socket counts as not ready until there is
/// more, as tokio's own reading has it: the next look costs no system call.
fn read_once(stream: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    let (size, mut short) = (room.len(), None);
    let done = stream.try_io(Interest::READABLE, || {
        let read = (&*SockRef::from(stream)).read(room)?;
        if read > 0 && read < size {
            short = Some(read);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(read)
    });
    short.map_or(done, Ok)
}

impl AsyncWrite for SocketIo {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.outlet.push_control(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
