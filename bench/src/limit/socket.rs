//! One client's socket: the upgrade, frames in, bytes out.

use std::io::{ErrorKind, Read as _, Write as _};

use bytes::{Buf as _, BytesMut};
use memchr::memmem;
use mio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::frame::{self, CLOSE, PING, PONG, TEXT};

/// The client has gone, or says what no client of ours does.
#[derive(Debug)]
pub(super) struct Closed;

/// One client's socket.
pub(super) struct Socket {
    stream: TcpStream,
    is_upgraded: bool,
    /// The beginning of a frame.
    partial: Vec<u8>,
    unsent: BytesMut,
    pub(super) user: String,
    /// The rooms that it is in.
    pub(super) rooms: Vec<String>,
}

impl Socket {
    /// One that was just accepted.
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, is_upgraded: false, partial: Vec::new(), unsent: BytesMut::new(), user: String::new(), rooms: Vec::new() }
    }

    /// Has a frame written with what else is there by [`flush`](Self::flush).
    pub(super) fn send(&mut self, frame: &[u8]) {
        self.unsent.extend_from_slice(frame);
    }

    /// Writes what waits, or what of it the kernel takes.
    pub(super) fn flush(&mut self) -> Result<(), Closed> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(written) => self.unsent.advance(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Closed),
            }
        }
        // An idle one keeps nothing.
        self.unsent = BytesMut::new();
        Ok(())
    }

    /// Reads until nothing is there; texts go to `requests`.
    pub(super) fn read(&mut self, buffer: &mut [u8], requests: &mut Vec<Vec<u8>>) -> Result<(), Closed> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(Closed),
                Ok(count) => self.partial.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Closed),
            }
            let mut bytes = std::mem::take(&mut self.partial);
            let used = self.consume(&mut bytes, requests)?;
            bytes.drain(..used);
            self.partial = bytes;
        }
    }

    fn consume(&mut self, bytes: &mut [u8], requests: &mut Vec<Vec<u8>>) -> Result<usize, Closed> {
        let mut at = 0;
        if !self.is_upgraded {
            let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return Ok(0) };
            self.upgrade(bytes.get(..end).unwrap_or_default())?;
            at = end + 4;
        }
        while let Some(found) = frame::parse(bytes, at) {
            let payload = bytes.get_mut(found.start..found.end).unwrap_or_default();
            frame::unmask(payload, found.mask.ok_or(Closed)?);
            match found.opcode {
                TEXT => requests.push(payload.to_vec()),
                PING => self.control(PONG, payload),
                CLOSE => {
                    self.control(CLOSE, payload);
                    self.flush()?;
                    return Err(Closed);
                }
                _ => {}
            }
            at = found.end;
        }
        Ok(at)
    }

    fn control(&mut self, opcode: u8, payload: &[u8]) {
        let mut bytes = Vec::with_capacity(payload.len() + 2);
        frame::from_server(&mut bytes, opcode, payload);
        self.send(&bytes);
    }

    fn upgrade(&mut self, request: &[u8]) -> Result<(), Closed> {
        let request = std::str::from_utf8(request).map_err(|_| Closed)?;
        let key = request.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
        });
        let accept = derive_accept_key(key.ok_or(Closed)?.as_bytes());
        self.is_upgraded = true;
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: natter.v1.json\r\n\r\n"
        );
        self.send(answer.as_bytes());
        Ok(())
    }
}
