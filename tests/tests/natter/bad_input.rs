//! Bad input: the documented error or close, and everybody else unharmed.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use futures::{SinkExt, StreamExt};
use natter_shared::id::Nonce;
use natter_tests::{
    client::{ANSWER, Client, RequestError},
    cluster::Cluster,
    http::HttpSession,
    socket::{upgrade, upgrade_v1},
    token::{self, User},
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{
    Error, Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use super::slow_readers::unsent;

/// KiB that the kernel may keep for all clients of a gateway of which one does not read.
const MOST_UNSENT: u64 = 512;

/// Two people who chat, to see that they go on.
struct Bystanders {
    ann: Client,
    ben: Client,
    group: natter_shared::id::GroupId,
}

impl Bystanders {
    async fn meet(gateway: SocketAddr) -> Result<Self> {
        let ann = Client::connect(gateway, &User::named("ann")).await?;
        let ben = Client::connect(gateway, &User::named("ben")).await?;
        let group = ann.join("lobby").await?;
        ben.join("lobby").await?;
        Ok(Self { ann, ben, group })
    }

    async fn are_unharmed(&self, after: &str) -> Result<()> {
        self.ann.send(self.group, after).await?;
        self.ben.wait_for_body(after).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_cannot_be_done_is_answered_with_its_error_and_the_connection_goes_on() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let all = Bystanders::meet(cluster.gateway(0)).await?;
    let mallory = Client::connect(cluster.gateway(0), &User::named("mallory")).await?;
    let private = all.group;
    let nowhere = uuid::Uuid::now_v7();
    let nonce = Nonce::now();
    let long_name = "a".repeat(65);
    let long_body = "x".repeat(33 * 1024);
    let cases = [
        (json!({"type": "dance"}), "unknown_type"),
        (json!({"type": "Send"}), "unknown_type"),
        (json!({"type": "connect", "token": mallory.user.token()}), "out_of_order"),
        (json!({"type": "join"}), "bad_request"),
        (json!({"type": "join", "group": 7}), "bad_request"),
        (json!({"type": "join", "group": "a.b"}), "bad_request"),
        (json!({"type": "join", "group": "*"}), "bad_request"),
        (json!({"type": "join", "group": ">"}), "bad_request"),
        (json!({"type": "join", "group": "a b"}), "bad_request"),
        (json!({"type": "join", "group": "a\r\nPUB ev.0.g.x 1"}), "bad_request"),
        (json!({"type": "join", "group": "Lobby"}), "bad_request"),
        (json!({"type": "join", "group": ""}), "bad_request"),
        (json!({"type": "join", "group": long_name}), "bad_request"),
        (json!({"type": "join", "group": nowhere}), "not_found"),
        (json!({"type": "send", "group": "lobby", "nonce": "x", "body": "x"}), "bad_request"),
        (json!({"type": "send", "group": "lobby", "nonce": uuid::Uuid::nil(), "body": "x"}), "bad_request"),
        (json!({"type": "send", "group": "lobby", "nonce": nonce}), "bad_request"),
        (json!({"type": "send", "group": "lobby", "nonce": nonce, "body": 1}), "bad_request"),
        (json!({"type": "send", "group": private, "nonce": nonce, "body": "let me in"}), "not_found"),
        (json!({"type": "send", "group": nowhere, "nonce": nonce, "body": "x"}), "not_found"),
        (json!({"type": "send", "group": "no-such-room", "nonce": nonce, "body": "x"}), "not_found"),
        (json!({"type": "send", "group": "lobby", "nonce": nonce, "body": long_body}), "too_large"),
        (json!({"type": "history", "group": private}), "not_found"),
        (json!({"type": "history", "group": private, "before": "x"}), "bad_request"),
        (json!({"type": "history", "group": private, "limit": -1}), "bad_request"),
        (json!({"type": "read", "group": private, "position": "1.1"}), "not_found"),
        (json!({"type": "read", "group": private, "position": "one"}), "bad_request"),
        (json!({"type": "notify", "to": {"user": "nobody at all"}, "nonce": nonce, "body": "x"}), "not_found"),
        (json!({"type": "notify", "to": {"user": ""}, "nonce": nonce, "body": "x"}), "bad_request"),
        (json!({"type": "notify", "to": {"group": private}, "nonce": nonce, "body": "x"}), "not_found"),
        (json!({"type": "notify", "to": {"everybody": true}, "nonce": nonce, "body": "x"}), "bad_request"),
        (json!({"type": "seen", "ids": ["x"]}), "bad_request"),
        (json!({"type": "refresh", "token": "x"}), "unauthorized"),
        (json!({"type": "refresh", "token": User::named("ann").token()}), "unauthorized"),
    ];
    let mut wrong = Vec::new();
    for (frame, expected) in cases {
        match mallory.request(frame.clone()).await {
            Err(RequestError::Refused(error)) if error["code"] == expected => {}
            other => wrong.push(format!("{expected} expected for {}: {other:?}", &frame.to_string()[..frame.to_string().len().min(120)])),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Requests without an id are answered too, and wrong ids are no ids.
    for text in
        [r#"{"type":"dance"}"#, r#"{"type":"dance","id":-1}"#, r#"{"type":"dance","id":"x"}"#, r#"{"type":"dance","id":4294967296}"#]
    {
        let before = mallory.record(|record| record.pushes.len());
        mallory.send_text(text)?;
        let answer = |record: &natter_tests::record::Record| record.pushes[before..].iter().find(|push| push["type"] == "error").cloned();
        let error = mallory.wait_until(text, ANSWER, answer).await?;
        assert_eq!((&error["code"], &error["id"]), (&json!("unknown_type"), &Value::Null), "{text}");
    }
    // Others' notifications stay theirs.
    let to_ben = json!({"type": "notify", "to": {"user": "id-ben"}, "nonce": Nonce::now(), "body": "for ben"});
    let notified = all.ann.request(to_ben).await?;
    mallory.request(json!({"type": "seen", "ids": [notified["notification_id"]]})).await?;
    all.ben.wait_for("the notification", ANSWER, |push| push["type"] == "notification").await?;
    let unseen = async || {
        let mut fresh = Client::new(&User::named("ben"));
        fresh.reconnect(cluster.gateway(0)).await.map(|ready| ready["inbox"]["unseen"].clone()).unwrap_or_default()
    };
    super::chat::wait_until("one unseen", async || unseen().await == 1).await;
    mallory.join("lobby").await.context("mallory may still join what is open")?;
    all.are_unharmed("after wrong frames").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_closes_its_connection_with_the_documented_code() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let gateway = cluster.gateway(0);
    let all = Bystanders::meet(gateway).await?;
    let text = |text: &str| Message::text(text.to_owned());
    let raw = |bytes: &[u8]| Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(Data::Text), true));
    let too_big = format!(r#"{{"type":"pong","x":"{}"}}"#, "x".repeat(65 * 1024));
    let cases = [
        ("half an object", text("{"), 4400),
        ("an array", text("[]"), 4400),
        ("nothing", text(""), 4400),
        ("a number", text("1"), 4400),
        ("no type", text(r#"{"id":7}"#), 4400),
        ("deep nesting", text(&"[".repeat(60_000)), 4400),
        ("binary", Message::binary(br#"{"type":"pong"}"#.to_vec()), 4400),
        ("oversize", text(&too_big), 1009),
        ("invalid UTF-8", raw(b"{\"type\":\"\xff\xfe\"}"), 1007),
    ];
    let mut wrong = Vec::new();
    for (what, message, expected) in cases {
        let mut stream = upgrade_v1(gateway, &[]).await?;
        let connect = json!({"type": "connect", "id": 1, "token": User::named("mallory").token()});
        stream.send(Message::text(connect.to_string())).await?;
        timeout(ANSWER, stream.next()).await?.context("ready")??;
        stream.send(message).await?;
        let code = close_code(&mut stream).await;
        if code != Some(expected) {
            wrong.push(format!("{what}: {expected} expected, {code:?} came"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    all.are_unharmed("after what is no frame").await
}

/// The code of the Close that follows.
async fn close_code<S>(stream: &mut S) -> Option<u16>
where
    S: futures::Stream<Item = Result<Message, Error>> + Unpin,
{
    loop {
        match timeout(ANSWER, stream.next()).await.ok()? {
            Some(Ok(Message::Close(Some(close)))) => return Some(close.code.into()),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_signs_in_with_a_token_that_does_not_hold() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let gateway = cluster.gateway(0);
    let all = Bystanders::meet(gateway).await?;
    let mut wrong = Vec::new();
    for (what, token) in token::hostile(&User::named("ann")) {
        let mut client = Client::with_token(&User::named("ann"), token.clone());
        let answer = client.reconnect(gateway).await;
        let refused = answer.as_ref().err().and_then(|error| error.downcast_ref::<RequestError>());
        let is_refused = matches!(refused, Some(RequestError::Refused(error)) if error["code"] == "unauthorized");
        let close = client.wait_for_close(ANSWER).await.ok().map(|(code, _)| code);
        if !is_refused || close != Some(4401) {
            wrong.push(format!("{what}: {answer:?}, close {close:?}"));
        }
        // By header it is the same, for all a browser can see.
        let bearer = format!("Bearer {token}");
        if let Ok(mut stream) = upgrade(gateway, "/ws/chat/lobby/", &[("Authorization", &bearer)]).await {
            let close = close_code(&mut stream).await;
            if close != Some(4401) {
                wrong.push(format!("{what}, chat room: close {close:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    all.are_unharmed("after forged tokens").await
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_comes_first_and_soon() -> Result<()> {
    let builder = Cluster::builder().gateways(1).env("NATTER_LIMITS__CONNECT_TIMEOUT", "1s");
    let cluster = builder.start().await?;
    let gateway = cluster.gateway(0);
    let mut stream = upgrade_v1(gateway, &[]).await?;
    let before = tokio::time::Instant::now();
    assert_eq!(close_code(&mut stream).await, Some(4410), "nobody came");
    assert!(before.elapsed() < Duration::from_secs(5));
    let mut stream = upgrade_v1(gateway, &[]).await?;
    stream.send(Message::text(json!({"type": "join", "id": 1, "group": "lobby"}).to_string())).await?;
    let answer = timeout(ANSWER, stream.next()).await?.context("an answer")??;
    let answer: Value = serde_json::from_str(answer.to_text()?)?;
    assert_eq!((&answer["type"], &answer["code"], &answer["id"]), (&json!("error"), &json!("out_of_order"), &json!(1)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_foreign_origins_are_refused_before_the_upgrade() -> Result<()> {
    let builder = Cluster::builder().gateways(1).env("NATTER_HTTP__ALLOWED_ORIGINS", "https://friend.test");
    let cluster = builder.start().await?;
    let gateway = cluster.gateway(0);
    let own = format!("http://{gateway}");
    let session = HttpSession::signed_in(gateway, "ann").await?;
    let cookie = session.cookie.clone().unwrap_or_default();
    for path in ["/ws", "/ws/chat/lobby/"] {
        let open = async |origin: Option<&str>| {
            let mut headers = vec![("Cookie", cookie.as_str())];
            headers.extend(origin.map(|origin| ("Origin", origin)));
            match upgrade(gateway, path, &headers).await {
                Ok(_) => 101,
                Err(Error::Http(answer)) => answer.status().as_u16(),
                Err(_) => 0,
            }
        };
        let foreign = ["https://evil.test", "null", "https://friend.test.evil.test", "http://friend.test", "https://friend.test:444"];
        for origin in foreign {
            assert_eq!(open(Some(origin)).await, 403, "{path} from {origin}");
        }
        for origin in [&own, "https://friend.test"] {
            assert_eq!(open(Some(origin)).await, 101, "{path} from {origin}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_haste_are_bounded() -> Result<()> {
    let builder = Cluster::builder().gateways(1).env("NATTER_LIMITS__HEARTBEAT_INTERVAL", "1s");
    let builder = builder.env("NATTER_LIMITS__HEARTBEAT_TIMEOUT", "1s").env("NATTER_LIMITS__HEADER_TIMEOUT", "1s");
    let cluster = builder.env("NATTER_LIMITS__FRAMES_PER_SECOND", "20").env("NATTER_LIMITS__FRAMES_BURST", "50").start().await?;
    let gateway = cluster.gateway(0);
    let all = Bystanders::meet(gateway).await?;
    let silent = Client::connect(gateway, &User::named("silent")).await?;
    silent.fall_silent();
    assert_eq!(silent.wait_for_close(ANSWER).await?.0, 4410);
    let hasty = Client::connect(gateway, &User::named("hasty")).await?;
    for _ in 0..500 {
        if hasty.say(&json!({"type": "pong"})).is_err() {
            break;
        }
    }
    assert_eq!(hasty.wait_for_close(ANSWER).await?.0, 4429);
    let slow = tokio::task::spawn_blocking(move || -> Result<Duration> {
        let mut stream = TcpStream::connect(gateway)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\n")?;
        let before = std::time::Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        Ok(before.elapsed())
    });
    assert!(slow.await?? < Duration::from_secs(5), "headers must come soon");
    assert!(all.ann.record(|record| record.pings) > 0 && all.ann.record(|record| record.closed.is_none()), "who answers stays");
    all.are_unharmed("after silence and haste").await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_closed_and_nobody_waits_for_it() -> Result<()> {
    let builder = Cluster::builder().gateways(1).env("NATTER_LIMITS__FRAMES_PER_SECOND", "100000");
    let builder = builder.env("NATTER_LIMITS__FRAMES_BURST", "100000").env("NATTER_LIMITS__BACKLOG_BYTES", "64KiB");
    let builder = builder.env("NATTER_LIMITS__USER_FRAMES_PER_SECOND", "100000").env("NATTER_LIMITS__USER_FRAMES_BURST", "100000");
    let builder = builder.env("NATTER_LIMITS__BYTES_PER_SECOND", "100MiB").env("NATTER_LIMITS__BYTES_BURST", "100MiB");
    let cluster = builder.start().await?;
    let gateway = cluster.gateway(0);
    let all = Bystanders::meet(gateway).await?;
    let user = User::named("sleeper");
    Client::connect(gateway, &user).await?.join("lobby").await?;
    let mut stream = upgrade_v1(gateway, &[]).await?;
    let connect = json!({"type": "connect", "id": 1, "token": user.token()});
    stream.send(Message::text(connect.to_string())).await?;
    timeout(ANSWER, stream.next()).await?.context("ready")??;
    // Not read from here on, until the kernel's buffers and the backlog are full.
    let body = "x".repeat(30 * 1024);
    let mut most_unsent = 0;
    for _ in 0..400 {
        all.ann.send(all.group, &body).await?;
        most_unsent = most_unsent.max(unsent(gateway.port())?);
    }
    all.are_unharmed("after a sleeper").await?;
    // For each 64 KiB and what is on its way; by itself it would take megabytes for the sleeper.
    assert!(most_unsent < MOST_UNSENT, "the kernel kept {most_unsent} KiB");
    eprintln!("the kernel kept {most_unsent} KiB");
    let mut code = None;
    // A connection that is still open says nothing in the end, and this fails.
    while let Some(Ok(message)) = timeout(ANSWER, stream.next()).await.context("the sleeper's connection never ended")? {
        if let Message::Close(Some(close)) = message {
            code = Some(u16::from(close.code));
        }
    }
    // Where the kernel could not pass it on in time, the connection is reset.
    assert!(matches!(code, None | Some(4408)), "{code:?}");
    let metrics = HttpSession::anonymous(gateway)?.page("/metrics").await?;
    let closed = metrics.lines().find_map(|line| line.strip_prefix(r#"natter_gateway_closes_total{code="4408"} "#));
    assert_eq!(closed, Some("1"), "{metrics}");
    let received = all.ben.bodies(all.group).len();
    assert_eq!(received, 401);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_http_is_refused_and_forms_need_their_token() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let gateway = cluster.gateway(0);
    let all = Bystanders::meet(gateway).await?;
    let anonymous = HttpSession::anonymous(gateway)?;
    assert_eq!(anonymous.get("/chat/lobby/").await?.status(), 303);
    assert_eq!(anonymous.get("/chat/lobby").await?.status(), 308);
    let form = [("type", "Create_Group_Single"), ("user", "ben")];
    assert_eq!(anonymous.post_as_is("/chat/lobby/", &form).await?.status(), 401);
    let ann = HttpSession::signed_in(gateway, "ann").await?;
    assert_eq!(ann.post_as_is("/chat/lobby/", &form).await?.status(), 403, "without the CSRF token");
    let forged = [form[0], form[1], ("csrfmiddlewaretoken", "forged")];
    assert_eq!(ann.post_as_is("/chat/lobby/", &forged).await?.status(), 403);
    let refused = [
        (vec![("type", "Create_Group_Single"), ("user", "ann")], 400),
        (vec![("type", "Create_Group_Single")], 400),
        (vec![("type", "Create_Group_Single"), ("user", "nobody at all")], 404),
        (vec![("type", "Dance")], 400),
        (vec![("type", "Clean_Seen"), ("seen_id[]", "x")], 400),
    ];
    for (fields, status) in refused {
        assert_eq!(ann.post_form("/chat/lobby/", &fields).await?.status().as_u16(), status, "{fields:?}");
    }
    let long = format!("/chat/{}/", "a".repeat(65));
    for path in [long.as_str(), "/chat/a%00b/", "/chat/%ff/", "/nowhere", "/chat//"] {
        let status = ann.get(path).await?.status().as_u16();
        assert!([400, 404].contains(&status), "{path}: {status}");
    }
    for path in ["/chat/Lobby/", "/chat/%E5%A4%A7%E5%BB%B3/", "/chat/a.%2A%3E%20b/"] {
        assert_eq!(ann.get(path).await?.status(), 200, "{path}");
    }
    let raw = tokio::task::spawn_blocking(move || -> Result<Vec<String>> {
        let requests: [&[u8]; 4] = [
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\r\n\r\n\r\n\r\nnonsense\r\n\r\n",
        ];
        let answer = |request: &[u8]| -> Result<String> {
            let mut stream = TcpStream::connect(gateway)?;
            stream.set_read_timeout(Some(ANSWER))?;
            stream.write_all(request)?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            Ok(String::from_utf8_lossy(&rest).lines().next().unwrap_or_default().to_owned())
        };
        requests.into_iter().map(answer).collect()
    });
    for answer in raw.await?? {
        assert!(!answer.contains(" 200 ") && !answer.contains(" 101 ") && !answer.contains(" 500 "), "{answer}");
    }
    all.are_unharmed("after broken HTTP").await
}
