//! One connection, from the upgrade over sign-in and joins to its end, in protocol v1.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr},
};

use anyhow::{Result, bail};
use memchr::memmem;
use mio::{event::Event, net::TcpStream};

use super::{resume::Resume, tally::Tally};
use crate::{
    frame::{self, CLOSE, PING, PONG, TEXT},
    mark::Mark,
    sequence::Sequence,
};

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The upgrade is under way.
    Upgrading,
    /// `connect` is.
    SigningIn,
    /// So many joins are.
    Joining(usize),
    /// It receives.
    Ready,
    /// We have closed it.
    Closing,
    /// It is no more.
    Gone,
}

/// One connection.
pub(super) struct Connection {
    stream: TcpStream,
    pub(super) phase: Phase,
    pub(super) room: usize,
    groups: usize,
    /// When it was begun, in nanoseconds since the start.
    pub(super) opened: u64,
    /// The beginning of a frame.
    partial: Vec<u8>,
    unsent: Vec<u8>,
    /// What it has of each sender of its room.
    pub(super) sequences: Vec<Sequence>,
    /// When the messages were sent whose replies are out; they are answered in order.
    pub(super) in_flight: VecDeque<u64>,
    /// Where it goes on when it comes back, of one that will.
    pub(super) resume: Option<Resume>,
}

/// The name of an open group: the room itself, or a further one.
pub(crate) fn group_name(room: usize, further: usize) -> String {
    if further == 0 { format!("r{room}") } else { format!("r{room}-{further}") }
}

impl Connection {
    /// One whose socket is being connected.
    pub(super) fn new(stream: TcpStream, room: usize, groups: usize, host: SocketAddr, token: &str, now: u64) -> Self {
        // The key of RFC 6455's own example: nobody looks at what is answered to it.
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: natter.v1.json\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        Self {
            stream,
            phase: Phase::Upgrading,
            room,
            groups: groups.max(1),
            opened: now,
            partial: Vec::new(),
            unsent: request.into_bytes(),
            sequences: Vec::new(),
            in_flight: VecDeque::new(),
            resume: None,
        }
    }

    /// Its socket can be read, or written, or has failed. An error is the end of the connection.
    pub(super) fn on_event(&mut self, event: &Event, buffer: &mut [u8], tally: &mut Tally) -> Result<()> {
        if event.is_error()
            && let Some(error) = self.stream.take_error()?
        {
            return Err(error.into());
        }
        if event.is_writable() {
            self.flush()?;
        }
        if event.is_readable() {
            while self.read(buffer, tally)? || event.is_read_closed() {}
        }
        Ok(())
    }

    /// Sends a frame, now or as soon as the socket takes it.
    pub(super) fn send(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        frame::from_client(&mut self.unsent, opcode, payload);
        self.flush()
    }

    /// Closes the socket without a word.
    pub(super) fn hang_up(&mut self) {
        self.phase = Phase::Gone;
        // It may be gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                // Not connected yet: it will be writable when it is.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once; whether there may be more. The poll tells again only of what comes after a read that
    /// did not fill the buffer.
    fn read(&mut self, buffer: &mut [u8], tally: &mut Tally) -> Result<bool> {
        let kept = self.partial.len();
        let Some(head) = buffer.get_mut(..kept) else { bail!("a frame larger than {} bytes", buffer.len()) };
        head.copy_from_slice(&self.partial);
        let (end, is_full) = match self.stream.read(buffer.get_mut(kept..).unwrap_or_default()) {
            Ok(0) => bail!("closed by the server"),
            Ok(count) => (kept + count, kept + count == buffer.len()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        tally.bytes += (end - kept) as u64;
        self.partial.clear();
        let bytes = buffer.get(..end).unwrap_or_default();
        let used = self.consume(bytes, tally)?;
        self.partial.extend_from_slice(bytes.get(used..).unwrap_or_default());
        Ok(is_full)
    }

    /// Handles all that is whole; how many bytes that was.
    fn consume(&mut self, bytes: &[u8], tally: &mut Tally) -> Result<usize> {
        let (now, mut at) = (tally.now(), 0);
        if self.phase == Phase::Upgrading {
            let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return Ok(0) };
            let answer = bytes.get(..end).unwrap_or_default();
            if !answer.starts_with(b"HTTP/1.1 101 ") {
                bail!("not upgraded: {}", String::from_utf8_lossy(answer).lines().next().unwrap_or_default());
            }
            at = end + 4;
            self.phase = Phase::SigningIn;
            let connect = self.resume.as_ref().map_or_else(|| r#"{"type":"connect","id":1}"#.to_owned(), Resume::connect);
            self.send(TEXT, connect.as_bytes())?;
        }
        while let Some(frame) = frame::parse(bytes, at) {
            let payload = bytes.get(frame.start..frame.end).unwrap_or_default();
            match frame.opcode {
                TEXT => self.on_text(payload, tally, now)?,
                PING => self.send(PONG, payload)?,
                CLOSE => {
                    let code = payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
                    bail!("closed with {code} {}", String::from_utf8_lossy(payload.get(2..).unwrap_or_default()));
                }
                _ => {}
            }
            at = frame.end;
        }
        Ok(at)
    }

    fn on_text(&mut self, text: &[u8], tally: &mut Tally, now: u64) -> Result<()> {
        if let Some(mark) = Mark::find(text) {
            let is_new = tally.deliver(mark, &mut self.sequences, now);
            if let Some(resume) = &mut self.resume {
                resume.on_message(text, is_new)?;
                self.look_whether_back(tally, now);
            }
        } else if text == br#"{"type":"ping"}"# {
            self.send(TEXT, br#"{"type":"pong"}"#)?;
        } else if text.starts_with(br#"{"type":"error""#) {
            if self.phase != Phase::Ready {
                bail!("{}", String::from_utf8_lossy(text));
            }
            self.in_flight.pop_front();
            tally.refuse(self.room, text);
        } else if text.starts_with(br#"{"type":"ready""#) {
            self.on_ready(text, tally, now)?;
        } else if text.starts_with(br#"{"type":"reply""#) {
            if let (Phase::Joining(_), Some(resume)) = (self.phase, &mut self.resume) {
                resume.on_joined(text)?;
            }
            self.on_reply(tally, now);
        }
        Ok(())
    }

    /// It is signed in: it joins its groups, or those that it was not told to be a member of.
    fn on_ready(&mut self, text: &[u8], tally: &mut Tally, now: u64) -> Result<()> {
        let mut missing: Vec<String> = (0..self.groups).map(|further| group_name(self.room, further)).collect();
        if let Some(resume) = &mut self.resume {
            let names = resume.on_ready(text)?;
            missing.retain(|name| !names.contains(name));
        }
        self.phase = if missing.is_empty() { Phase::Ready } else { Phase::Joining(missing.len()) };
        for name in missing {
            let join = format!(r#"{{"type":"join","id":2,"group":"{name}"}}"#);
            self.send(TEXT, join.as_bytes())?;
        }
        self.look_whether_back(tally, now);
        Ok(())
    }

    /// Notes when it is back with all that it missed.
    fn look_whether_back(&mut self, tally: &mut Tally, now: u64) {
        if self.phase == Phase::Ready && self.resume.as_mut().is_some_and(Resume::is_back) {
            tally.caught_up.add(now.saturating_sub(self.opened));
            tally.back += 1;
        }
    }

    fn on_reply(&mut self, tally: &mut Tally, now: u64) {
        match self.phase {
            Phase::Joining(1) => {
                self.phase = Phase::Ready;
                tally.joined.add(now.saturating_sub(self.opened));
            }
            Phase::Joining(left) => self.phase = Phase::Joining(left - 1),
            _ => {
                tally.accepted += 1;
                if let Some(sent) = self.in_flight.pop_front() {
                    tally.last = now;
                    tally.replied.add(now.saturating_sub(sent));
                }
            }
        }
    }
}
