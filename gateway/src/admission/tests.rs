//! The bounds at their edges, and whose address counts.
#![allow(clippy::unwrap_used, reason = "tests")]

use natter_shared::telemetry::metrics::Registry;

use super::*;

fn admission(limit: impl FnOnce(&mut Limits)) -> (Admission, Config) {
    let mut config = Config::default();
    config.http.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    limit(&mut config.limits);
    let memory = Arc::new(Memory::new(1000));
    (Admission::new(&config.limits, memory, Arc::new(Metrics::new(&Registry::new("test")))), config)
}

fn forwarded(lists: &[&str]) -> HeaderMap {
    lists.iter().map(|list| ("x-forwarded-for".parse().unwrap(), list.parse().unwrap())).collect()
}

/// The address in a `trusted` network's eyes.
fn client(peer: &str, lists: &[&str]) -> String {
    let (_, config) = admission(|_| ());
    client_address(peer.parse().unwrap(), &forwarded(lists), &config.http).to_string()
}

#[test]
fn connections_of_the_process_at_the_edge() {
    let (admission, config) = admission(|limits| limits.connections = 3);
    let accept = |peer: &str| admission.accept(peer.parse().unwrap(), &config);
    let mut places: Vec<Place> = (1..=3).map(|host| accept(&format!("192.0.2.{host}")).unwrap()).collect();
    let refused = accept("192.0.2.4").err().unwrap();
    assert_eq!((refused.limit(), refused.status().as_u16()), (Some(Limit::Connections), 503));
    assert!(accept("10.0.0.1").is_err(), "a proxy's count too");
    places.pop();
    assert!(accept("192.0.2.4").is_ok());
    drop(places);
    assert!(admission.table.all.load(Ordering::Relaxed) == 0 && admission.table.by_address.is_empty(), "nothing is left behind");
}

#[test]
fn connections_of_an_address_at_the_edge_before_they_say_a_word() {
    let (admission, config) = admission(|limits| limits.connections_per_ip = 2);
    let accept = |peer: &str| admission.accept(peer.parse().unwrap(), &config);
    let first = accept("192.0.2.1").unwrap();
    let _second = accept("::ffff:192.0.2.1").unwrap();
    let refused = accept("192.0.2.1").err().unwrap();
    assert_eq!((refused.limit(), refused.status().as_u16()), (Some(Limit::ConnectionsPerIp), 429));
    let _other = accept("192.0.2.2").unwrap();
    drop(first);
    let _third = accept("192.0.2.1").unwrap();
    // One network of IPv6 is one address: anybody has 2^64 of them.
    let _v6 = [accept("2001:db8::1").unwrap(), accept("2001:db8::ffff:2").unwrap()];
    assert!(accept("2001:db8::3").is_err());
    assert!(accept("2001:db8:0:1::1").is_ok());
}

#[test]
fn an_address_behind_a_proxy_counts_with_the_upgrade() {
    let (admission, config) = admission(|limits| limits.connections_per_ip = 2);
    let _of_proxy: Vec<Place> = (0..10).map(|_| admission.accept("10.0.0.1".parse().unwrap(), &config).unwrap()).collect();
    let admit = |peer: &str, lists: &[&str]| admission.admit(None, peer.parse().ok(), &forwarded(lists), &config);
    let first = admit("10.0.0.1", &["198.51.100.7"]).unwrap();
    let _second = admit("10.0.0.2", &["198.51.100.7:4711"]).unwrap();
    assert_eq!(admit("10.0.0.1", &["198.51.100.7"]).err().unwrap().limit(), Some(Limit::ConnectionsPerIp));
    assert!(admit("10.0.0.1", &["198.51.100.8"]).is_ok());
    // Who is no proxy only says so; its TCP connection was counted.
    assert!(admit("192.0.2.1", &["198.51.100.7"]).is_ok());
    drop(first);
    assert!(admit("10.0.0.1", &["198.51.100.7"]).is_ok());
}

#[test]
fn a_websocket_keeps_the_place_of_its_connection() {
    let (admission, config) = admission(|limits| limits.connections = 1);
    let peer: IpAddr = "192.0.2.1".parse().unwrap();
    let place = Arc::new(admission.accept(peer, &config).unwrap());
    let ticket = admission.admit(Some(Arc::clone(&place)), Some(peer), &HeaderMap::new(), &config).unwrap();
    drop(place);
    assert!(admission.accept(peer, &config).is_err());
    drop(ticket);
    assert!(admission.accept(peer, &config).is_ok());
}

#[test]
fn handshakes_per_second_at_the_edge() {
    let (admission, config) = admission(|limits| limits.handshakes_per_second = 5);
    let admit = || admission.admit(None, None, &HeaderMap::new(), &config);
    assert!((0..5).all(|_| admit().is_ok()));
    let refused = admit().err().unwrap();
    assert_eq!((refused.limit(), refused.status().as_u16()), (Some(Limit::HandshakesPerSecond), 429));
}

#[test]
fn who_is_refused_for_another_reason_takes_nothing_of_the_rate() {
    let (admission, config) = admission(|limits| (limits.handshakes_per_second, limits.connections_per_ip) = (2, 1));
    let peer = "10.0.0.1".parse().ok();
    let admit = |client: &str| admission.admit(None, peer, &forwarded(&[client]), &config);
    let _first = admit("198.51.100.7").unwrap();
    for _ in 0..10 {
        assert_eq!(admit("198.51.100.7").err().unwrap().limit(), Some(Limit::ConnectionsPerIp));
    }
    let _second = admit("198.51.100.8").unwrap();
    assert_eq!(admit("198.51.100.9").err().unwrap().limit(), Some(Limit::HandshakesPerSecond));
}

/// `limits.memory_bytes`.
#[test]
fn memory_at_the_edge() {
    let (admission, config) = admission(|_| ());
    let admit = || admission.admit(None, None, &HeaderMap::new(), &config);
    admission.memory.set(999);
    assert!(admit().is_ok());
    admission.memory.set(1000);
    let refused = admit().err().unwrap();
    assert_eq!((refused.limit(), refused.status().as_u16()), (Some(Limit::MemoryBytes), 503));
    admission.memory.set(999);
    assert!(admit().is_ok(), "and again when there is some");
}

#[test]
fn the_defaults_admit_ten_thousand_connections_from_sixteen_addresses_at_once() {
    let (admission, config) = admission(|_| ());
    let mut held = Vec::new();
    for number in 0..10_000 {
        let peer = IpAddr::from([192, 0, 2, (number % 16) as u8]);
        let place = Arc::new(admission.accept(peer, &config).unwrap());
        held.push(admission.admit(Some(place), Some(peer), &HeaderMap::new(), &config).unwrap());
    }
}

#[test]
fn forwarded_addresses_count_only_from_listed_proxies() {
    let listed = &["6.6.6.6, 198.51.100.7, 10.0.0.9"];
    assert_eq!(client("10.0.0.1", listed), "198.51.100.7");
    assert_eq!(client("::ffff:10.0.0.1", listed), "198.51.100.7", "the same proxy on a socket for both");
    assert_eq!(client("fd00::1", listed), "198.51.100.7");
    assert_eq!(client("192.0.2.1", listed), "192.0.2.1");
    assert_eq!(client("fe80::1", listed), "fe80::1");
}

#[test]
fn of_forwarded_addresses_the_last_one_counts_that_no_proxy_has() {
    assert_eq!(client("10.0.0.1", &["6.6.6.6", "198.51.100.7", "10.0.0.9"]), "198.51.100.7", "several headers are one list");
    assert_eq!(client("10.0.0.1", &["6.6.6.6", "2001:db8::1, fd00::7"]), "2001:db8::1");
    assert_eq!(client("10.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
    assert_eq!(client("10.0.0.1", &["::ffff:198.51.100.7"]).parse::<IpAddr>().unwrap().to_canonical().to_string(), "198.51.100.7");
    assert_eq!(client("10.0.0.1", &["10.0.0.2, 10.0.0.3"]), "10.0.0.1", "nobody but proxies");
    assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    let many: Vec<String> = (0..5000).map(|number| format!("6.6.{}.{}", number / 250, number % 250)).collect();
    let mut lists: Vec<&str> = many.iter().map(String::as_str).collect();
    lists.push("198.51.100.7");
    assert_eq!(client("10.0.0.1", &lists), "198.51.100.7");
}

#[test]
fn behind_a_malformed_forwarded_address_nothing_is_believed() {
    for list in
        ["unknown", "", "6.6.6.6,", "6.6.6.6, x", "6.6.6.6, 198.51.100.7.1", "6.6.6.6;198.51.100.7", "\"6.6.6.6\"", "_hidden, 10.0.0.9"]
    {
        assert_eq!(client("10.0.0.1", &[list]), "10.0.0.1", "{list:?}");
    }
    assert_eq!(client("10.0.0.1", &["6.6.6.6", "caf\u{e9}"]), "10.0.0.1");
    assert_eq!(client("10.0.0.1", &["x, 198.51.100.7"]), "198.51.100.7", "what follows it is a proxy's word");
}
