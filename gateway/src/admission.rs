//! Which connections may be served, and which of them may become sessions: bounds on the process,
//! on an address, on the rate of handshakes, and on memory.
//!
//! A TCP connection takes its place when it is accepted, before it has said a word; so one that
//! never says one counts too. Behind a trusted proxy the address is known only with the upgrade.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use axum::http::HeaderMap;
use dashmap::DashMap;
use natter_shared::{
    config::{Config, Http, Limits},
    frame::ErrorCode,
};
use parking_lot::Mutex;

use crate::{
    http::Problem,
    limit::Limit,
    memory::Memory,
    metrics::Metrics,
    rate::{Bucket, Rate},
};

/// Counts who is connected.
pub struct Admission {
    table: Arc<Table>,
    handshakes: Mutex<Bucket>,
    rate: Rate,
    memory: Arc<Memory>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Table {
    all: AtomicUsize,
    by_address: DashMap<IpAddr, usize>,
}

impl Table {
    /// One more from this address, if it has fewer than `limit`.
    fn enter(self: &Arc<Self>, address: IpAddr, limit: usize) -> Option<AddressPlace> {
        let address = counted(address);
        let mut count = self.by_address.entry(address).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(AddressPlace { table: Arc::clone(self), address })
    }
}

/// One of the connections of an address; dropped, it is free again.
struct AddressPlace {
    table: Arc<Table>,
    address: IpAddr,
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        self.table.by_address.remove_if_mut(&self.address, |_, count| {
            *count -= 1;
            *count == 0
        });
    }
}

/// A TCP connection's place; dropped, it is free again.
pub struct Place {
    table: Arc<Table>,
    metrics: Arc<Metrics>,
    address: Option<AddressPlace>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.all.fetch_sub(1, Ordering::Relaxed);
        self.metrics.sockets.dec();
    }
}

/// A WebSocket's place, and that of its TCP connection; dropped, both are free again.
pub struct Ticket {
    metrics: Arc<Metrics>,
    _place: Option<Arc<Place>>,
    _address: Option<AddressPlace>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

impl Admission {
    /// Nobody is connected yet.
    pub fn new(limits: &Limits, memory: Arc<Memory>, metrics: Arc<Metrics>) -> Self {
        let per_second = limits.handshakes_per_second.into();
        let (rate, handshakes) = (Rate::new(per_second, per_second), Mutex::new(Bucket::new(Instant::now())));
        Self { table: Arc::default(), handshakes, rate, memory, metrics }
    }

    /// A place for a TCP connection. A trusted proxy's are counted by whom they are for, later.
    ///
    /// # Errors
    /// 503 over the bound of the process, 429 over that of the address; both with `Retry-After`.
    pub fn accept(&self, peer: IpAddr, config: &Config) -> Result<Place, Problem> {
        let limits = &config.limits;
        if self.table.all.fetch_add(1, Ordering::Relaxed) >= limits.connections {
            self.table.all.fetch_sub(1, Ordering::Relaxed);
            return Err(Problem::over(Limit::Connections, ErrorCode::Busy, "this gateway has as many connections as it may"));
        }
        self.metrics.sockets.inc();
        let place = |address| Place { table: Arc::clone(&self.table), metrics: Arc::clone(&self.metrics), address };
        if is_trusted(peer, &config.http) {
            return Ok(place(None));
        }
        // From here on dropped with the place.
        let place = place(self.table.enter(peer, limits.connections_per_ip));
        if place.address.is_some() { Ok(place) } else { Err(too_many_of_address()) }
    }

    /// Whether the connection with this place may become a WebSocket.
    ///
    /// # Errors
    /// 429 over a bound of the address or the rate, 503 for want of memory; both with
    /// `Retry-After`.
    pub fn admit(&self, place: Option<Arc<Place>>, peer: Option<IpAddr>, headers: &HeaderMap, config: &Config) -> Result<Ticket, Problem> {
        if self.memory.is_full() {
            return Err(Problem::over(Limit::MemoryBytes, ErrorCode::Busy, "this gateway has no memory left for another connection"));
        }
        let forwarded = peer.filter(|peer| is_trusted(*peer, &config.http)).map(|peer| client_address(peer, headers, &config.http));
        let address = match forwarded {
            Some(address) => Some(self.table.enter(address, config.limits.connections_per_ip).ok_or_else(too_many_of_address)?),
            // Counted since it was accepted.
            None => None,
        };
        // Last: what is refused for another reason takes nothing from everybody else's rate.
        if !self.handshakes.lock().take(&self.rate, 1, Instant::now()) {
            return Err(Problem::over(Limit::HandshakesPerSecond, ErrorCode::RateLimited, "too many handshakes; try again later"));
        }
        self.metrics.connections.inc();
        Ok(Ticket { metrics: Arc::clone(&self.metrics), _place: place, _address: address })
    }
}

fn too_many_of_address() -> Problem {
    Problem::over(Limit::ConnectionsPerIp, ErrorCode::RateLimited, "too many connections from this address")
}

fn is_trusted(address: IpAddr, http: &Http) -> bool {
    http.trusted_proxies.iter().any(|range| range.contains(address))
}

/// The address that counts: the last forwarded one that no trusted proxy has.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, http: &Http) -> IpAddr {
    if !is_trusted(peer, http) {
        return peer;
    }
    // Of several headers the later ones are of the nearer proxies, as of the values in one.
    for list in headers.get_all("x-forwarded-for").iter().rev() {
        // What stands before something unreadable anybody may have written.
        let Ok(list) = list.to_str() else { return peer };
        for hop in list.rsplit(',') {
            match address_of(hop.trim()) {
                Some(hop) if is_trusted(hop, http) => {}
                Some(hop) => return hop,
                None => return peer,
            }
        }
    }
    peer
}

/// An address, with a port or in brackets as some proxies write it.
fn address_of(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// Addresses of one network count as one where anybody gets a network: the /64 of IPv6.
pub(crate) fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests;
