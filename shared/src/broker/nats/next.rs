//! Which server the client library's connections try next.

use async_nats::{ReconnectToServer, Server, ServerAddr};
use parking_lot::Mutex;

/// Each failure of a server counts so many times, and one more, where the last server that we had did not tell of it: it may have
/// left its cluster, or only come since.
const UNTOLD: usize = 3;

/// Which server a connection tries next: not the one that it had or tried last, if there are others. One
/// that is cut off would cost a whole attempt.
#[derive(Default)]
pub(super) struct Next {
    last: Mutex<Option<ServerAddr>>,
}

impl Next {
    /// Those that were configured, and that the last server told of, before those that others told of once: the client
    /// forgets none.
    pub(super) fn among(&self, servers: &[Server], told: &[String]) -> Option<ReconnectToServer> {
        let told: Vec<ServerAddr> = told.iter().filter_map(|url| url.parse().ok()).collect();
        let failures = |server: &Server| {
            let is_there = !server.is_discovered || told.is_empty() || told.contains(&server.addr);
            if is_there { server.failed_attempts } else { server.failed_attempts.saturating_add(1).saturating_mul(UNTOLD) }
        };
        let mut last = self.last.lock();
        let is_other = |server: &&Server| servers.len() == 1 || last.as_ref() != Some(&server.addr);
        let fewest = servers.iter().filter(is_other).map(failures).min()?;
        let best: Vec<&Server> = servers.iter().filter(is_other).filter(|server| failures(server) == fewest).collect();
        let addr = best.get(rand::random_range(0..best.len()))?.addr.clone();
        *last = Some(addr.clone());
        Some(ReconnectToServer { addr, delay: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_server_is_tried_than_the_last_one() {
        let server = |address: &str, failed_attempts| Server {
            addr: address.parse().unwrap(),
            failed_attempts,
            did_connect: true,
            is_discovered: false,
            last_error: None,
        };
        let (next, one) = (Next::default(), [server("nats://a:1", 3)]);
        for _ in 0..3 {
            assert_eq!(next.among(&one, &[]).unwrap().addr, one[0].addr);
        }
        let servers = [server("nats://a:1", 0), server("nats://b:1", 0), server("nats://c:1", 0)];
        let mut last = next.among(&servers, &[]).unwrap().addr;
        assert_ne!(last, one[0].addr);
        for _ in 0..30 {
            let now = next.among(&servers, &[]).unwrap().addr;
            assert_ne!(now, last);
            last = now;
        }
        let servers = [server("nats://a:1", 2), server("nats://b:1", 0), server("nats://c:1", 1)];
        let next = Next::default();
        assert_eq!(next.among(&servers, &[]).unwrap().addr, servers[1].addr);
        assert_eq!(next.among(&servers, &[]).unwrap().addr, servers[2].addr, "of the others the one that failed least");
        assert!(next.among(&[], &[]).is_none());
    }

    #[test]
    fn servers_that_have_left_a_cluster_are_tried_when_the_others_have_failed() {
        let server = |address: &str, is_discovered: bool| Server {
            addr: address.parse().unwrap(),
            failed_attempts: usize::from(!is_discovered),
            did_connect: false,
            is_discovered,
            last_error: None,
        };
        let mut servers = [server("nats://a:1", false), server("nats://gone:1", true), server("nats://c:1", true)];
        let told = ["c:1".to_owned()];
        let next = Next::default();
        let tried = [(); 4].map(|()| next.among(&servers, &told).unwrap().addr);
        assert_eq!(tried, [2, 0, 2, 0].map(|index: usize| servers[index].addr.clone()));
        // It may be there after all, and the word of who told is old.
        let mut tried = Vec::new();
        for _ in 0..20 {
            let addr = next.among(&servers, &told).unwrap().addr;
            let server = servers.iter_mut().find(|server| server.addr == addr).unwrap();
            server.failed_attempts += 1;
            tried.push(server.addr.host() == "gone");
        }
        assert!((2..=4).contains(&tried.iter().filter(|is_gone| **is_gone).count()), "now and then: {tried:?}");
    }
}
