//! The limit: a bare loop that writes the same bytes to the same sockets as Natter does, and nothing else. What there is for a socket
//! when all that has come is read is written at once.
//! `socket` is a client's, `reply` the frames.

mod reply;
mod socket;

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::SocketAddr,
};

use anyhow::Result;
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

use self::{
    reply::Request,
    socket::{Closed, Socket},
};

/// The listener's; sockets count from 0.
const LISTENER: Token = Token(usize::MAX);

/// An open group.
struct Room {
    id: Uuid,
    /// Its members' sockets.
    members: Vec<usize>,
}

/// All sockets and rooms.
pub struct Limit {
    poll: Poll,
    listener: TcpListener,
    sockets: Vec<Option<Socket>>,
    free: Vec<usize>,
    rooms: HashMap<String, Room>,
    /// Messages so far.
    count: u64,
    /// Whom there is something for, perhaps more than once.
    dirty: Vec<usize>,
    buffer: Vec<u8>,
}

impl Limit {
    /// Listens.
    pub fn bind(addr: SocketAddr) -> Result<Self> {
        let (poll, mut listener) = (Poll::new()?, TcpListener::bind(addr)?);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            sockets: Vec::new(),
            free: Vec::new(),
            rooms: HashMap::new(),
            count: 0,
            dirty: Vec::new(),
            buffer: vec![0; 1 << 16],
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the process ends.
    pub fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            // Of those who leave, places are given anew only when all of these events are through.
            let mut left = Vec::new();
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(index) => {
                        if self.serve(index).is_err() {
                            left.push(index);
                        }
                    }
                }
            }
            for index in std::mem::take(&mut self.dirty) {
                if let Some(Some(socket)) = self.sockets.get_mut(index) {
                    // Who has gone is found by its own event.
                    let _ = socket.flush();
                }
            }
            for index in left {
                self.forget(index);
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.take_in(stream)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // It has gone again.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take_in(&mut self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let index = self.free.pop().unwrap_or(self.sockets.len());
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        let socket = Some(Socket::new(stream));
        match self.sockets.get_mut(index) {
            Some(place) => *place = socket,
            None => self.sockets.push(socket),
        }
        Ok(())
    }

    /// Reads and answers all that has come. What waits to be written is, when all are served.
    fn serve(&mut self, index: usize) -> Result<(), Closed> {
        let Some(Some(socket)) = self.sockets.get_mut(index) else { return Ok(()) };
        self.dirty.push(index);
        let mut requests = Vec::new();
        let read = socket.read(&mut self.buffer, &mut requests);
        for text in requests {
            self.answer(index, &text)?;
        }
        read
    }

    fn answer(&mut self, index: usize, text: &[u8]) -> Result<(), Closed> {
        let request: Request = serde_json::from_slice(text).map_err(|_| Closed)?;
        let Some(Some(socket)) = self.sockets.get_mut(index) else { return Ok(()) };
        match request {
            Request::Connect { id } => {
                socket.user = reply::user(index);
                socket.send(&reply::ready(id, &socket.user));
            }
            Request::Join { id, group } => {
                let room = self.rooms.entry(group.to_owned()).or_insert_with(|| Room { id: Uuid::now_v7(), members: Vec::new() });
                if !room.members.contains(&index) {
                    room.members.push(index);
                    socket.rooms.push(group.to_owned());
                }
                socket.send(&reply::joined(id, room.id, group));
            }
            Request::Send { id, group, nonce, body } => {
                self.count += 1;
                let message = Uuid::now_v7();
                socket.send(&reply::accepted(id, message, self.count));
                let Some(room) = self.rooms.get(group) else { return Ok(()) };
                let frame = reply::message(room.id, message, &socket.user, nonce, body, self.count);
                for &member in &room.members {
                    if let Some(Some(socket)) = self.sockets.get_mut(member) {
                        socket.send(&frame);
                        self.dirty.push(member);
                    }
                }
            }
            Request::Pong => {}
        }
        Ok(())
    }

    fn forget(&mut self, index: usize) {
        let Some(socket) = self.sockets.get_mut(index).and_then(Option::take) else { return };
        for name in &socket.rooms {
            if let Some(room) = self.rooms.get_mut(name) {
                room.members.retain(|&member| member != index);
            }
        }
        self.free.push(index);
    }
}
