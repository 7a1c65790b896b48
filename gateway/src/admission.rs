//! Which connections may become sessions: bounds on the process, on an address, and on the rate of
//! handshakes.

use std::{
    net::IpAddr,
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

use crate::{http::Problem, metrics::Metrics, rate::Bucket};

/// Counts who is connected.
pub struct Admission {
    table: Arc<Table>,
    handshakes: Mutex<Bucket>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Table {
    all: AtomicUsize,
    by_address: DashMap<IpAddr, usize>,
}

/// A connection's place; dropped, it is free again.
pub struct Ticket {
    table: Arc<Table>,
    address: Option<IpAddr>,
    metrics: Arc<Metrics>,
}

impl Admission {
    /// Nobody is connected yet.
    pub fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        let rate = limits.handshakes_per_second;
        Self { table: Arc::default(), handshakes: Mutex::new(Bucket::new(rate, rate, Instant::now())), metrics }
    }

    /// A place for a connection from `peer`, or from whom a trusted proxy says it is for.
    ///
    /// # Errors
    /// 429 over a bound of the address or the rate, 503 over that of the process; both with
    /// `Retry-After`.
    pub fn admit(&self, peer: Option<IpAddr>, headers: &HeaderMap, config: &Config) -> Result<Ticket, Problem> {
        let limits = &config.limits;
        let refuse = |code, detail: &str| {
            self.metrics.refused.inc();
            Err(Problem::of(code, detail))
        };
        if !self.handshakes.lock().take(Instant::now()) {
            return refuse(ErrorCode::RateLimited, "too many handshakes; try again later");
        }
        if self.table.all.load(Ordering::Relaxed) >= limits.connections {
            return refuse(ErrorCode::Busy, "this gateway has as many connections as it may");
        }
        let address = peer.map(|peer| client_address(peer, headers, &config.http));
        if let Some(address) = address {
            let mut count = self.table.by_address.entry(address).or_default();
            if *count >= limits.connections_per_ip {
                drop(count);
                return refuse(ErrorCode::RateLimited, "too many connections from this address");
            }
            *count += 1;
        }
        self.table.all.fetch_add(1, Ordering::Relaxed);
        self.metrics.connections.inc();
        Ok(Ticket { table: Arc::clone(&self.table), address, metrics: Arc::clone(&self.metrics) })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.table.all.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections.dec();
        if let Some(address) = self.address {
            self.table.by_address.remove_if_mut(&address, |_, count| {
                *count -= 1;
                *count == 0
            });
        }
    }
}

/// The address that counts: the last forwarded one that no trusted proxy has.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, http: &Http) -> IpAddr {
    let trusted = |address: IpAddr| http.trusted_proxies.iter().any(|range| range.contains(address));
    if !trusted(peer) {
        return peer;
    }
    let lists = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let mut hops: Vec<&str> = lists.flat_map(|list| list.split(',')).collect();
    while let Some(hop) = hops.pop() {
        match hop.trim().parse() {
            Ok(hop) if trusted(hop) => {}
            Ok(hop) => return hop,
            // What stands before it anybody may have written.
            Err(_) => return peer,
        }
    }
    peer
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use natter_shared::telemetry::metrics::Registry;

    use super::*;

    fn config(per_ip: usize, all: usize) -> Config {
        let mut config = Config::default();
        config.limits.connections_per_ip = per_ip;
        config.limits.connections = all;
        config
    }

    #[test]
    fn bounds_hold_at_their_edge_and_places_come_back() {
        let config = config(2, 3);
        let admission = Admission::new(&config.limits, Arc::new(Metrics::new(&Registry::new("test"))));
        let none = HeaderMap::new();
        let admit = |peer: &str| admission.admit(peer.parse().ok(), &none, &config);
        let first = admit("192.0.2.1").unwrap();
        let _second = admit("192.0.2.1").unwrap();
        assert!(admit("192.0.2.1").is_err());
        let _third = admit("192.0.2.2").unwrap();
        assert!(admit("192.0.2.3").is_err());
        drop(first);
        assert!(admit("192.0.2.1").is_ok());
    }

    #[test]
    fn forwarded_addresses_count_only_from_listed_proxies() {
        let mut http = Http { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..Http::default() };
        let headers: HeaderMap =
            [("x-forwarded-for".parse().unwrap(), "6.6.6.6, 198.51.100.7, 10.0.0.9".parse().unwrap())].into_iter().collect();
        let at = |peer: &str, http: &Http| client_address(peer.parse().unwrap(), &headers, http).to_string();
        assert_eq!(at("10.0.0.1", &http), "198.51.100.7");
        assert_eq!(at("192.0.2.1", &http), "192.0.2.1");
        http.trusted_proxies.clear();
        assert_eq!(at("10.0.0.1", &http), "10.0.0.1");
    }
}
