//! What the criterion benches measure of delivery's inside.

use std::{
    io::{self, Read},
    net::TcpStream,
    sync::Arc,
};

use bytes::Bytes;
use natter_shared::{
    event::{Event, GroupKind},
    id::UserId,
    position::{Epoch, Position},
    timestamp::Timestamp,
};
use tokio::{net::TcpListener, time::Instant};

use super::{
    GroupMeta,
    batch::{Batch, Sealed},
    encode::encode_event,
    ring::{Entry, Ring, RingBudget},
};
use crate::{
    auth::Identity,
    session::{Protocol, SessionHandle},
    socket::{Outlet, OutletLimits},
};

const LIMITS: OutletLimits = OutletLimits { messages: 10_000, bytes: 1 << 20, missed: 1 << 20 };

/// Events that a ring holds.
const RING: usize = 1000;

/// The members of a room and its ring, without the task that they belong to.
pub struct Room {
    members: Vec<(Arc<SessionHandle>, TcpStream)>,
    meta: GroupMeta,
    ring: Ring,
    position: Position,
}

impl Room {
    /// A room of so many members, each behind a TCP socket on loopback.
    ///
    /// # Errors
    /// Where sockets cannot be had.
    pub async fn open(members: usize) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut all = Vec::with_capacity(members);
        for number in 0..members {
            let theirs = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
            let (ours, _) = listener.accept().await?;
            ours.writable().await?;
            let outlet = Arc::new(Outlet::held(LIMITS));
            outlet.attach(ours);
            outlet.release(Bytes::new());
            let user = UserId::new(&format!("user-{number}")).map_err(io::Error::other)?;
            let session = SessionHandle::new(&Identity::of(user), Protocol::V1, outlet);
            all.push((session, theirs.into_std()?));
        }
        let position = Position::new(Epoch(1), 1);
        let meta = GroupMeta { kind: GroupKind::Open, display_name: "lobby".into(), at: Position::START };
        Ok(Self { members: all, meta, ring: Ring::new(position, RingBudget::new(1 << 30, RING)), position })
    }

    /// The next event, framed; the bytes of its frame.
    pub fn frame(&mut self, event: Event) -> usize {
        self.lay(event).map_or(0, |sealed| sealed.into_entries().map(|entry| entry.v1.len()).sum())
    }

    /// The next event, written to every member and kept in the ring; how many bytes each gets.
    pub fn deliver(&mut self, event: Event) -> usize {
        let Some(sealed) = self.lay(event) else { return 0 };
        for (session, _) in &self.members {
            sealed.write_to(session);
        }
        sealed.into_entries().map(|entry| self.keep(entry)).sum()
    }

    /// The next event, kept in the ring and written to nobody; the bytes of its frame.
    pub fn keep_only(&mut self, event: Event) -> usize {
        self.lay(event).map_or(0, |sealed| sealed.into_entries().map(|entry| self.keep(entry)).sum())
    }

    /// How many of the ring's events come after the one `back` events ago, as for who comes back.
    pub fn recover(&self, back: u64) -> usize {
        self.ring.after(Position::new(self.position.epoch, self.position.seq.saturating_sub(back))).count()
    }

    /// Reads `bytes` at each member.
    ///
    /// # Errors
    /// Where one does not get so many.
    pub fn read(&mut self, bytes: usize) -> io::Result<()> {
        let mut buffer = vec![0; bytes];
        for (_, socket) in &mut self.members {
            socket.set_nonblocking(false)?;
            socket.read_exact(&mut buffer)?;
        }
        Ok(())
    }

    fn lay(&mut self, event: Event) -> Option<Sealed> {
        self.position.seq += 1;
        let encoded = encode_event(event, self.position, Timestamp::default(), Some(&self.meta), false);
        let mut batch = Batch::default();
        batch.add(self.position, encoded);
        batch.seal()
    }

    fn keep(&mut self, entry: Entry) -> usize {
        let bytes = entry.v1.len();
        self.ring.push(entry, Instant::now());
        bytes
    }
}
