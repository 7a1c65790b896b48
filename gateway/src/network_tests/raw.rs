//! A client that writes whatever bytes it likes.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Edge, PATIENCE};

pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;
pub(super) const FIN: u8 = 0x80;

const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A masked frame; `first` is its first byte: FIN, reserved bits, opcode.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = header(first, payload.len() as u64);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// The header of a masked frame that says it has `len` bytes.
pub(super) fn header(first: u8, len: u64) -> Vec<u8> {
    let mut out = vec![first];
    match len {
        0..=125 => out.push(MASKED + len as u8),
        126..=0xffff => {
            out.push(MASKED + 126);
            out.extend((len as u16).to_be_bytes());
        }
        _ => {
            out.push(MASKED + 127);
            out.extend(len.to_be_bytes());
        }
    }
    out.extend(MASK);
    out
}

/// A Close with a code and a reason.
pub(super) fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// A frame of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) first: u8,
    pub(super) payload: Vec<u8>,
}

impl Got {
    pub(super) fn of(first: u8, payload: &[u8]) -> Self {
        Self { first, payload: payload.to_vec() }
    }

    /// The code of a Close; 1005 where there is none.
    pub(super) fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
        (self.first == FIN | CLOSE).then_some(code)
    }
}

/// An open connection.
pub(super) struct Raw {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
}

/// The upgrade's request.
pub(super) fn upgrade_request(addr: SocketAddr, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

impl Raw {
    /// A TCP connection, and nothing said yet.
    pub(super) async fn connect(edge: &Edge) -> Self {
        let stream = TcpStream::connect(edge.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// An upgraded one.
    pub(super) async fn open(edge: &Edge, path: &str) -> Self {
        let mut raw = Self::connect(edge).await;
        raw.write(upgrade_request(edge.addr, path).as_bytes()).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        raw
    }

    /// One to the echo.
    pub(super) async fn echo(edge: &Edge) -> Self {
        Self::open(edge, "/echo").await
    }

    /// Writes all of it; that the other side has closed meanwhile shows in what is read.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the server does not read");
    }

    /// Writes byte after byte, each in its own packet.
    pub(super) async fn drip(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write(&[*byte]).await;
            tokio::task::yield_now().await;
        }
    }

    /// What has come, and more; false at the end.
    async fn fill(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await.expect("the server says nothing");
        read.is_ok_and(|read| read > 0)
    }

    /// An HTTP answer's status line and headers.
    pub(super) async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            if !self.fill().await {
                return String::from_utf8_lossy(&self.buffer).into_owned();
            }
        }
    }

    /// Whatever comes up to the end.
    pub(super) async fn rest_of_http(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// The next frame; none at the end.
    pub(super) async fn frame(&mut self) -> Option<Got> {
        loop {
            if let Some((got, size)) = parse(&self.buffer) {
                self.buffer.drain(..size);
                return Some(got);
            }
            if !self.fill().await {
                assert!(self.buffer.is_empty(), "the last frame is cut: {:?}", self.buffer);
                return None;
            }
        }
    }

    /// Every frame up to the end of the connection.
    pub(super) async fn rest(&mut self) -> Vec<Got> {
        let mut all = Vec::new();
        while let Some(got) = self.frame().await {
            all.push(got);
        }
        all
    }

    /// The code of the Close that ends the connection; nothing may follow it.
    pub(super) async fn close_code(&mut self) -> Option<u16> {
        let mut rest = self.rest().await;
        let code = rest.pop()?.close_code();
        assert!(rest.iter().all(|got| got.close_code().is_none()), "something follows a Close: {rest:?}");
        code
    }
}

fn parse(bytes: &[u8]) -> Option<(Got, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(second & 0x80, 0, "servers do not mask");
    let (len, start) = match second {
        126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
        short => (u64::from(short), 2),
    };
    let end = start + len as usize;
    Some((Got::of(first, bytes.get(start..end)?), end))
}
