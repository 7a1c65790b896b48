//! The write side of a socket, shared by all who write to it. Whoever has a frame writes it to
//! the TCP socket at once; only what the kernel does not take waits in a bounded backlog, and only
//! then does the session's own task help.
//!
//! One lock covers the backlog and the phase, so frames never interleave. It is never held across
//! an await.

mod backlog;

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    net::Shutdown,
    sync::OnceLock,
    time::Duration,
};

use bytes::Bytes;
use natter_shared::frame::CloseCode;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{net::TcpStream, sync::Notify};

use self::backlog::{Piece, State};
use super::wire;

/// Pieces of a backlog that are written at once.
const AT_ONCE: usize = 8;

/// Of what may be missed, this part may be read back before the session is open: the rest is for what comes live until then,
/// and for saying what was too much.
const HELD_SHARE: usize = 2;

/// How much may wait for a slow reader.
#[derive(Debug, Clone, Copy)]
pub struct OutletLimits {
    /// Frames, control frames counted.
    pub messages: usize,
    /// Bytes.
    pub bytes: usize,
    /// Bytes of what a returning client missed, and of all that comes before its session is open.
    pub missed: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not yet live: everything waits in the backlog.
    Held,
    /// Frames go straight to the socket.
    Open,
    /// The peer sent a Close: only its echo, written by tungstenite, still goes out.
    PeerClosing,
    /// A Close of ours is the last thing in the backlog or on the wire.
    Sealed(CloseCode),
    /// The socket is broken.
    Broken,
}

/// What the session's task wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutletState {
    /// Live.
    Open,
    /// A Close of ours is written or waits to be.
    Sealed(CloseCode),
    /// The socket is broken.
    Broken,
}

/// The write side of one socket.
pub struct Outlet {
    stream: OnceLock<TcpStream>,
    state: Mutex<State>,
    /// There is something for the session's task: a backlog to help with, or a new phase.
    attention: Notify,
    limits: OutletLimits,
}

impl Outlet {
    /// An outlet that holds everything back until [`Outlet::release`].
    pub fn held(limits: OutletLimits) -> Self {
        Self { stream: OnceLock::new(), state: Mutex::new(State::held()), attention: Notify::new(), limits }
    }

    /// Gives the outlet its socket; once.
    pub fn attach(&self, stream: TcpStream) {
        // A second socket would be a defect of ours; the first stays.
        let _ = self.stream.set(stream);
    }

    /// The socket, for the reading side.
    pub fn stream(&self) -> Option<&TcpStream> {
        self.stream.get()
    }

    /// Makes room for so many bytes of what was missed, if there is any; all of them are then written by
    /// [`Outlet::push_missed`]. Many groups of a session ask at the same time.
    pub fn reserve_missed(&self, bytes: usize) -> bool {
        let mut state = self.state.lock();
        // What comes live while it is held has to fit too.
        let most = if state.phase == Phase::Held { self.limits.missed / HELD_SHARE } else { self.limits.missed };
        let has_room = bytes == 0 || state.missed + bytes <= most;
        if has_room {
            state.missed += bytes;
        }
        has_room
    }

    /// Writes what a returning client missed. It does not count against the limits of a slow
    /// reader, who could do nothing about it, but against one of its own
    /// ([`Outlet::reserve_missed`]).
    pub fn push_missed(&self, frames: &Bytes) {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Open | Phase::Held => {
                let first = state.backlog.is_empty();
                state.backlog.push_back(Piece { bytes: frames.clone(), messages: 0, missed: true });
                if first && state.phase == Phase::Open {
                    self.drain(&mut state);
                }
            }
            Phase::PeerClosing | Phase::Sealed(_) | Phase::Broken => {}
        }
    }

    /// After a Close of ours: says that nothing follows, and drops what the peer still sends until it
    /// ends. Unread data would turn the end of the socket into a reset, and the Close would be lost.
    pub async fn read_out(&self) {
        let Some(stream) = self.stream.get() else { return };
        if !matches!(self.state(), OutletState::Sealed(_)) {
            return;
        }
        let _ = SockRef::from(stream).shutdown(Shutdown::Write);
        // On the heap: an array would be part of every session's future.
        let mut sink = vec![0; 4096];
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut sink) {
                Ok(0) => return,
                Ok(_) => tokio::task::consume_budget().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Cuts the connection: nothing more is written or read, now, whoever still holds the outlet. When the socket is dropped,
    /// what was not written is, too, and the peer sees a reset.
    pub fn cut(&self) {
        if let Some(stream) = self.stream.get() {
            let socket = SockRef::from(stream);
            let _ = socket.set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Writes `frames`, which are `messages` whole frames, or lets them wait; over the limits the
    /// connection is closed as a slow consumer.
    pub fn push(&self, frames: &Bytes, messages: u32) {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Open => self.write_or_append(&mut state, frames, messages),
            // That a session takes long to open is not its reader's slowness.
            Phase::Held if state.missed + frames.len() <= self.limits.missed => {
                state.missed += frames.len();
                state.backlog.push_back(Piece { bytes: frames.clone(), messages: 0, missed: true });
            }
            Phase::Held => self.append(&mut state, frames.clone(), messages),
            Phase::PeerClosing | Phase::Sealed(_) | Phase::Broken => {}
        }
    }

    /// Writes what tungstenite wants to be written: pongs, and the echo of a Close.
    pub(super) fn push_control(&self, frames: &[u8]) {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Open | Phase::PeerClosing => self.write_or_append(&mut state, &Bytes::copy_from_slice(frames), 1),
            Phase::Held => self.append(&mut state, Bytes::copy_from_slice(frames), 1),
            Phase::Sealed(_) | Phase::Broken => {}
        }
    }

    /// Goes live: `first` before everything that was held back.
    pub fn release(&self, first: Bytes) {
        let mut state = self.state.lock();
        if state.phase != Phase::Held {
            return;
        }
        if !first.is_empty() {
            state.bytes += first.len();
            state.messages += 1;
            state.backlog.push_front(Piece { bytes: first, messages: 1, missed: false });
        }
        state.phase = Phase::Open;
        self.drain(&mut state);
    }

    /// Writes `last` and a Close, and nothing of what was held back: a session that was not opened has
    /// told nothing, and its client would take it for received.
    pub fn refuse(&self, last: Bytes, code: CloseCode) {
        let mut state = self.state.lock();
        if state.phase != Phase::Held {
            return;
        }
        state.backlog.clear();
        (state.bytes, state.messages, state.missed) = (0, 0, 0);
        if !last.is_empty() {
            state.backlog.push_back(Piece { bytes: last, messages: 1, missed: false });
        }
        state.phase = Phase::Open;
        self.seal(&mut state, code);
    }

    /// Whether it is live, or was.
    pub fn is_released(&self) -> bool {
        self.state.lock().phase != Phase::Held
    }

    /// Appends a Close; nothing follows it.
    pub fn close(&self, code: CloseCode) {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Held | Phase::Open => self.seal(&mut state, code),
            Phase::PeerClosing | Phase::Sealed(_) | Phase::Broken => {}
        }
    }

    /// The peer sent a Close: only the echo still goes out.
    pub fn peer_closes(&self) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Held | Phase::Open) {
            state.phase = Phase::PeerClosing;
        }
    }

    /// At each ping: closes as a slow consumer who has read nothing since the last one of what waited then. Who only sends
    /// is heard of, and would else be kept until its pings are over the limits.
    pub fn close_if_stalled(&self) {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return;
        }
        if state.stalled && !self.takes_anything(&mut state) {
            return self.seal_slow(&mut state);
        }
        state.stalled = !state.backlog.is_empty();
    }

    /// Whether the kernel takes something of the backlog. That it can be written to it says only when a third of its buffer is
    /// free, which a slow line may not come to from one ping to the next.
    fn takes_anything(&self, state: &mut State) -> bool {
        let (Some(stream), Some(front)) = (self.stream.get(), state.backlog.front()) else { return false };
        let written = SockRef::from(stream).send(&front.bytes).unwrap_or_default();
        state.advance(written);
        self.drain(state);
        written > 0
    }

    /// Live, sealed or broken.
    pub fn state(&self) -> OutletState {
        match self.state.lock().phase {
            Phase::Held | Phase::Open | Phase::PeerClosing => OutletState::Open,
            Phase::Sealed(code) => OutletState::Sealed(code),
            Phase::Broken => OutletState::Broken,
        }
    }

    /// Helps with the backlog for as long as the session lives; returns when the outlet was sealed
    /// or broke. Cancel-safe.
    pub async fn help(&self) {
        loop {
            let waiting = {
                let state = self.state.lock();
                match state.phase {
                    Phase::Broken | Phase::Sealed(_) => return,
                    Phase::Held => false,
                    Phase::Open | Phase::PeerClosing => !state.backlog.is_empty(),
                }
            };
            tokio::select! {
                () = self.wait_and_drain(), if waiting => {}
                // Who reads nothing is never ready to be written to, and may be sealed meanwhile.
                () = self.attention.notified() => {}
            }
        }
    }

    /// Writes what waits, until nothing does. Cancel-safe.
    pub async fn flush(&self) {
        while !self.state.lock().backlog.is_empty() {
            self.wait_and_drain().await;
        }
    }

    async fn wait_and_drain(&self) {
        let writable = match self.stream.get() {
            Some(stream) => stream.writable().await.is_ok(),
            None => return self.attention.notified().await,
        };
        let mut state = self.state.lock();
        if writable { self.drain(&mut state) } else { self.break_off(&mut state) }
    }

    fn write_or_append(&self, state: &mut State, frames: &Bytes, messages: u32) {
        if !state.backlog.is_empty() {
            return self.append(state, frames.clone(), messages);
        }
        let Some(stream) = self.stream.get() else { return self.append(state, frames.clone(), messages) };
        match stream.try_write(frames) {
            Ok(written) if written == frames.len() => {}
            Ok(written) => {
                state.begun = written > 0;
                self.append(state, frames.slice(written..), messages);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.append(state, frames.clone(), messages),
            Err(_) => self.break_off(state),
        }
    }

    fn append(&self, state: &mut State, bytes: Bytes, messages: u32) {
        let first = state.backlog.is_empty();
        state.push(bytes, messages);
        if state.bytes > self.limits.bytes || state.messages > self.limits.messages {
            return self.seal_slow(state);
        }
        if first && state.phase != Phase::Held {
            self.attention.notify_one();
        }
    }

    /// Drops all whole frames after the piece that is on the wire in part, then closes.
    fn seal_slow(&self, state: &mut State) {
        state.backlog.truncate(usize::from(state.begun));
        self.seal(state, CloseCode::SlowConsumer);
    }

    fn seal(&self, state: &mut State, code: CloseCode) {
        if state.phase == Phase::Held {
            // Nothing of a session comes before its first frame.
            state.backlog.clear();
            state.missed = 0;
        }
        state.backlog.push_back(Piece { bytes: wire::close(code), messages: 1, missed: false });
        let counted = || state.backlog.iter().filter(|piece| !piece.missed);
        let (bytes, messages) = (counted().map(|piece| piece.bytes.len()).sum(), counted().map(|piece| piece.messages as usize).sum());
        (state.bytes, state.messages) = (bytes, messages);
        state.phase = Phase::Sealed(code);
        self.drain(state);
        self.attention.notify_one();
    }

    fn break_off(&self, state: &mut State) {
        state.phase = Phase::Broken;
        state.backlog = VecDeque::new();
        (state.bytes, state.messages, state.missed) = (0, 0, 0);
        self.attention.notify_one();
    }

    /// Writes as much of the backlog as the kernel takes.
    fn drain(&self, state: &mut State) {
        let Some(stream) = self.stream.get() else { return };
        while !state.backlog.is_empty() {
            let mut slices = [IoSlice::new(&[]); AT_ONCE];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&state.backlog) {
                *slice = IoSlice::new(&piece.bytes);
                count += 1;
            }
            match stream.try_write_vectored(slices.get(..count).unwrap_or_default()) {
                Ok(written) => state.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.attention.notify_one();
                    return;
                }
                Err(_) => return self.break_off(state),
            }
        }
        // An idle connection keeps no queue.
        state.backlog = VecDeque::new();
    }
}

#[cfg(test)]
mod tests;
