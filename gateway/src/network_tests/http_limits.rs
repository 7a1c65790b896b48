//! Limits of HTTP and of the handshake: the status, `Retry-After`, and the count under the limit's
//! name.

use std::{fmt::Write, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use natter_shared::{
    config::{Algorithm, Limits},
    id::UserId,
    timestamp::Timestamp,
};
use tokio::task::JoinSet;

use super::{
    Edge, PATIENCE,
    raw::{Raw, upgrade_request},
};

async fn edge(limit: impl FnOnce(&mut Limits)) -> Edge {
    Edge::start(|config| limit(&mut config.limits)).await
}

/// The key that the broker's persister knows.
const API_KEY: &str = "ntr_good";

/// The answer to a request on a connection of its own.
async fn ask(edge: &Edge, request: &str) -> String {
    let mut raw = Raw::connect(edge).await;
    raw.write(request.as_bytes()).await;
    raw.head().await
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
}

fn status(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

/// Refused with this status, for now.
fn assert_later(head: &str, expected: &str) {
    assert_eq!(status(head), expected, "{head}");
    assert!(head.to_ascii_lowercase().contains("\r\nretry-after: "), "{head}");
}

/// Waits until this is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, so).await.unwrap_or_else(|_| panic!("never {what}"));
}

#[tokio::test]
async fn connections_of_an_address_before_they_say_a_word() {
    let edge = edge(|limits| limits.connections_per_ip = 3).await;
    let mut silent = vec![Raw::connect(&edge).await, Raw::connect(&edge).await];
    until("two connections", || edge.metric("natter_gateway_sockets") == 2).await;
    let mut third = Raw::echo(&edge).await;
    for path in ["/echo", "/ws", "/sign-in"] {
        let head = ask(&edge, &upgrade_request(edge.addr, path)).await;
        assert_later(&head, "429");
        assert!(head.contains("connection: close"), "{head}");
    }
    assert_eq!(edge.refused("connections_per_ip"), 3);
    assert_eq!(status(&ask(&edge, &get("/healthz", "")).await), "200", "a full process is alive");
    silent.pop();
    until("one place free", || edge.metric("natter_gateway_sockets") == 2).await;
    let _fourth = Raw::echo(&edge).await;
    third.write(&super::raw::close(1000, b"")).await;
    assert_eq!(third.close_code().await, Some(1000));
}

#[tokio::test]
async fn upgrades_that_are_refused_for_another_reason_take_nothing_from_the_rate() {
    let edge = edge(|limits| limits.handshakes_per_second = 5).await;
    let no_room = format!("/ws/chat/{}/", "x".repeat(65));
    for _ in 0..20 {
        assert_eq!(status(&ask(&edge, &upgrade_request(edge.addr, &no_room)).await), "400");
    }
    assert_eq!(edge.refused("handshakes_per_second"), 0);
    let _good = Raw::open(&edge, "/ws").await;
}

#[tokio::test]
async fn connections_of_the_process() {
    let edge = edge(|limits| limits.connections = 2).await;
    let held = [Raw::echo(&edge).await, Raw::echo(&edge).await];
    assert_later(&ask(&edge, &upgrade_request(edge.addr, "/ws")).await, "503");
    assert_eq!(edge.refused("connections"), 1);
    for path in ["/healthz", "/metrics"] {
        assert_eq!(status(&ask(&edge, &get(path, "")).await), "200", "{path}");
    }
    drop(held);
    until("free again", || edge.metric("natter_gateway_sockets") == 0).await;
    let _free = Raw::echo(&edge).await;
}

#[tokio::test]
async fn only_so_many_are_told_why_at_a_time() {
    let edge = edge(|limits| limits.connections = 1).await;
    let _held = Raw::echo(&edge).await;
    // Who says nothing is let go soon.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(Raw::connect(&edge).await);
    }
    until("all refused, and let go", || edge.refused("connections") == 200).await;
    assert_eq!(edge.refused("header_timeout"), 0, "that was not why");
    assert_later(&ask(&edge, &get("/sign-in", "")).await, "503");
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_from_an_answer() {
    let edge = edge(|limits| limits.connections = 1).await;
    let _held = Raw::echo(&edge).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Raw::connect(&edge).await);
    }
    // More than there is room for.
    until("some are let go", || edge.refused("connections") >= 36).await;
    assert_eq!(status(&ask(&edge, &get("/healthz", "")).await), "200", "a full process is alive");
    assert_later(&ask(&edge, &get("/sign-in", "")).await, "503");
}

#[tokio::test]
async fn handshakes_per_second() {
    let edge = edge(|limits| limits.handshakes_per_second = 5).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(Raw::echo(&edge).await);
    }
    let mut refused = 0;
    for _ in 0..5 {
        let answer = ask(&edge, &upgrade_request(edge.addr, "/echo")).await;
        if status(&answer) != "101" {
            assert_later(&answer, "429");
            refused += 1;
        }
    }
    assert!(refused > 0, "ten in less than a second");
    assert_eq!(edge.refused("handshakes_per_second"), refused);
    assert_eq!(status(&ask(&edge, &get("/sign-in", "")).await), "200", "pages are no handshakes");
}

#[tokio::test]
async fn memory_refuses_handshakes_and_keeps_who_is_there() {
    let edge = edge(|limits| limits.memory_bytes = 1 << 30).await;
    let mut before = Raw::echo(&edge).await;
    edge.memory.set(1 << 30);
    assert_later(&ask(&edge, &upgrade_request(edge.addr, "/ws")).await, "503");
    assert_eq!(edge.refused("memory_bytes"), 1);
    before.write(&super::raw::close(1000, b"")).await;
    assert_eq!(before.close_code().await, Some(1000));
    edge.memory.set((1 << 30) - 1);
    let _after = Raw::echo(&edge).await;
}

#[tokio::test]
async fn headers_by_number_and_by_bytes() {
    let edge = edge(|limits| (limits.headers, limits.header_bytes) = (20, 8 * 1024)).await;
    let many = |count: usize| {
        (0..count).fold(String::new(), |mut all, number| {
            let _ = write!(all, "x-{number}: y\r\n");
            all
        })
    };
    assert_eq!(status(&ask(&edge, &get("/healthz", &many(19))).await), "200", "with Host there are twenty");
    assert_eq!(status(&ask(&edge, &get("/healthz", &many(20))).await), "431");
    until("counted", || edge.refused("header_bytes") == 1).await;
    let long = |bytes: usize| {
        let bare = get("/healthz", "x: \r\n").len();
        get("/healthz", &format!("x: {}\r\n", "y".repeat(bytes - bare)))
    };
    assert_eq!(status(&ask(&edge, &long(8 * 1024 - 1)).await), "200");
    assert_eq!(status(&ask(&edge, &long(8 * 1024 + 1024)).await), "431");
    until("counted", || edge.refused("header_bytes") == 2).await;
}

#[tokio::test]
async fn headers_have_their_time_and_so_has_a_connection_that_is_kept() {
    let edge = edge(|limits| limits.header_timeout = Duration::from_millis(400)).await;
    let request = get("/healthz", "");
    let (first, second) = request.split_at(10);
    let mut raw = Raw::connect(&edge).await;
    raw.write(first.as_bytes()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    raw.write(second.as_bytes()).await;
    assert_eq!(status(&raw.head().await), "200", "in time");
    // Kept, and then silent.
    let begun = std::time::Instant::now();
    raw.rest_of_http().await;
    assert!(begun.elapsed() < PATIENCE / 2);
    assert_eq!(edge.refused("header_timeout"), 0, "it had asked, and was answered");
    let mut slow = JoinSet::new();
    for _ in 0..50 {
        let mut raw = Raw::connect(&edge).await;
        raw.write(first.as_bytes()).await;
        slow.spawn(async move {
            // A byte now and then does not help.
            for byte in b"x-slow: yes".repeat(100) {
                raw.write(&[byte]).await;
                tokio::time::sleep(Duration::from_millis(40)).await;
                if raw.stream.try_read(&mut [0; 512]).is_ok_and(|read| read == 0) {
                    return true;
                }
            }
            false
        });
    }
    assert!(slow.join_all().await.into_iter().all(|ended| ended), "some are still served");
    assert!(edge.refused("header_timeout") >= 50);
    until("nothing left", || edge.metric("natter_gateway_sockets") == 0).await;
}

#[tokio::test]
async fn bodies_by_size() {
    let edge = Edge::start(|config| {
        config.auth.dev_login = true;
        (config.limits.http_body_bytes, config.limits.body_bytes) = (4096, 1024);
    })
    .await;
    let post = |len: usize| {
        let body = "x".repeat(len);
        format!("POST /api/v1/dev/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}")
    };
    assert_eq!(status(&ask(&edge, &post(4096)).await), "400", "read, and no JSON");
    assert_eq!(status(&ask(&edge, &post(4097)).await), "413");
    assert_eq!(edge.refused("http_body_bytes"), 1);
}

#[tokio::test]
async fn a_body_that_does_not_come_to_its_end() {
    let edge = Edge::start(|config| {
        config.auth.dev_login = true;
        config.limits.http_timeout = Duration::from_millis(300);
    })
    .await;
    let unfinished = "POST /api/v1/dev/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{";
    assert_later(&ask(&edge, unfinished).await, "503");
    assert_eq!(edge.refused("http_timeout"), 1);
}

#[tokio::test]
async fn calls_of_a_user_and_of_a_key() {
    let edge = edge(|limits| {
        (limits.http_requests_per_second, limits.http_requests_burst) = (1, 3);
        (limits.server_requests_per_second, limits.server_requests_burst) = (1, 5);
    })
    .await;
    let token = edge.app.auth.issue(&UserId::new("ann").unwrap(), "ann", Timestamp::now(), PATIENCE).unwrap().0;
    for (path, bearer, burst, limit) in [
        ("/api/v1/me", token.as_str(), 3, "http_requests_per_second"),
        ("/api/v1/server/users/bob", API_KEY, 5, "server_requests_per_second"),
    ] {
        let call = get(path, &format!("Authorization: Bearer {bearer}\r\n"));
        for _ in 0..burst {
            assert_eq!(status(&ask(&edge, &call).await), "200");
        }
        assert_eq!(edge.refused(limit), 0);
        assert_later(&ask(&edge, &call).await, "429");
        assert_eq!(edge.refused(limit), 1);
    }
}

#[tokio::test]
async fn a_handshake_has_its_time() {
    let edge = Edge::start(|config| {
        // Keys that nobody fetches: a token waits for them.
        config.auth.issuer = Some("slow".to_owned());
        config.auth.algorithm = Algorithm::RS256;
        config.auth.jwks_url = Some("http://127.0.0.1:1/keys".to_owned());
        config.auth.jwks_wait = Duration::from_secs(30);
        config.limits.handshake_timeout = Duration::from_millis(400);
    })
    .await;
    let part = |json: &str| BASE64URL_NOPAD.encode(json.as_bytes());
    let claims = part(r#"{"iss":"slow","aud":"natter","sub":"ann","exp":9999999999}"#);
    let token = format!("authorization: Bearer {}.{claims}.eA\r\n", part(r#"{"alg":"RS256","kid":"x"}"#));
    let request = upgrade_request(edge.addr, "/ws").replacen("\r\n\r\n", &format!("\r\n{token}\r\n"), 1);
    assert_later(&ask(&edge, &request).await, "503");
    assert_eq!(edge.refused("handshake_timeout"), 1);
    let _in_time = Raw::open(&edge, "/ws").await;
}
