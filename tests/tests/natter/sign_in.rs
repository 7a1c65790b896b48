//! Signing in as applications and pages do: tokens of an issuer that publishes its keys, cookies
//! that every gateway knows, fresh tokens in band, and the end of all of them.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{SinkExt, StreamExt};
use natter_tests::{
    client::{Client, RequestError},
    cluster::Cluster,
    http::cookie_of,
    socket::upgrade_v1,
    standalone::Standalone,
    token::{self, SECRET, User},
};
use parking_lot::Mutex;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_tungstenite::tungstenite::Message;

const KEY_A: &str = include_str!("../../keys/rsa-a.pem");
const KEY_B: &str = include_str!("../../keys/rsa-b.pem");
const JWK_A: &str = include_str!("../../keys/rsa-a.jwk.json");
const JWK_B: &str = include_str!("../../keys/rsa-b.jwk.json");
const ISSUER: &str = "https://id.test";
const PATIENCE: Duration = Duration::from_secs(20);

/// An issuer that publishes keys over HTTP; gone with this value.
struct Issuer {
    addr: SocketAddr,
    keys: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl Issuer {
    async fn start(keys: &[&str]) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let keys = Arc::new(Mutex::new(set(keys)));
        let published = Arc::clone(&keys);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let body = published.lock().clone();
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                    let _ = stream.write_all((head + &body).as_bytes()).await;
                });
            }
        });
        Ok(Self { addr, keys, task })
    }

    fn publishes(&self, keys: &[&str]) {
        *self.keys.lock() = set(keys);
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn set(keys: &[&str]) -> String {
    format!("{{\"keys\":[{}]}}", keys.join(","))
}

/// A cluster whose first issuer publishes RSA keys.
async fn cluster(issuer: &Issuer, gateways: usize) -> Result<Cluster> {
    let url = format!("http://{}/keys", issuer.addr);
    let builder = Cluster::builder().gateways(gateways).env("NATTER_AUTH__ISSUER", ISSUER).env("NATTER_AUTH__ALGORITHM", "RS256");
    let builder = builder.env("NATTER_AUTH__JWKS_URL", &url).env("NATTER_AUTH__DEV_LOGIN", "false");
    builder.env("NATTER_AUTH__JWKS_COOLDOWN", "1s").env("NATTER_AUTH__JWKS_REFRESH", "2s").start().await
}

/// Claims that hold for so many seconds.
fn claims(user: &User, seconds: u64) -> Value {
    let mut claims = user.claims();
    (claims["iss"], claims["exp"]) = (json!(ISSUER), json!(token::now() + seconds));
    claims
}

fn signed(user: &User, key: &str, kid: &str) -> String {
    token::sign_rs256(&claims(user, 3600), key, kid)
}

async fn session(gateway: SocketAddr, method: Method, headers: &[(&str, &str)]) -> Result<Response> {
    let mut request = reqwest::Client::new().request(method, format!("http://{gateway}/api/v1/session"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.send().await?)
}

/// Both cookies, as a browser sends them back, and the CSRF token.
fn cookies(answer: &Response) -> Result<(String, String)> {
    let session = cookie_of(answer, "natter_session").context("a session cookie")?;
    let csrf = cookie_of(answer, "csrftoken").context("a CSRF cookie")?;
    Ok((format!("natter_session={session}; csrftoken={csrf}"), csrf))
}

async fn signs_in(gateway: SocketAddr, user: &User, token: String) -> Result<bool> {
    let mut client = Client::with_token(user, token);
    match client.reconnect(gateway).await {
        Ok(_) => Ok(true),
        Err(error) => match error.downcast_ref::<RequestError>() {
            Some(refused) if refused.code() == "unauthorized" => Ok(false),
            _ => Err(error),
        },
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await? {
        ensure!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_an_issuer_publishes_are_used_and_rotated() -> Result<()> {
    let issuer = Issuer::start(&[JWK_A]).await?;
    let cluster = cluster(&issuer, 2).await?;
    let (ann, bob) = (User::named("ann"), User::named("bob"));
    for gateway in cluster.addrs() {
        assert!(signs_in(gateway, &ann, signed(&ann, KEY_A, "a")).await?);
        assert!(!signs_in(gateway, &ann, signed(&ann, KEY_B, "a")).await?, "another key under its name");
        assert!(!signs_in(gateway, &ann, signed(&ann, KEY_B, "b")).await?, "a key that is not published");
        // `auth.secret` is for cookies only here; and the published key is no secret.
        assert!(!signs_in(gateway, &ann, token::sign(&claims(&ann, 3600), SECRET)).await?);
        assert!(!signs_in(gateway, &ann, token::sign(&claims(&ann, 3600), JWK_A)).await?);
    }
    issuer.publishes(&[JWK_A, JWK_B]);
    for gateway in cluster.addrs() {
        until("a new key", async || signs_in(gateway, &bob, signed(&bob, KEY_B, "b")).await).await?;
        assert!(signs_in(gateway, &ann, signed(&ann, KEY_A, "a")).await?, "the old one is still published");
    }
    issuer.publishes(&[JWK_B]);
    for gateway in cluster.addrs() {
        until("the end of the old key", async || Ok(!signs_in(gateway, &ann, signed(&ann, KEY_A, "a")).await?)).await?;
        assert!(signs_in(gateway, &bob, signed(&bob, KEY_B, "b")).await?);
    }
    Ok(())
}

/// Nobody is logged out by an issuer that is away: clients do not come back from "unauthorized".
#[tokio::test(flavor = "multi_thread")]
async fn while_an_issuers_keys_are_not_known_tokens_are_not_refused_but_put_off() -> Result<()> {
    let issuer = Issuer::start(&["no keys yet"]).await?;
    let cluster = cluster(&issuer, 1).await?;
    let (gateway, ann) = (cluster.gateway(0), User::named("ann"));
    let token = signed(&ann, KEY_A, "a");
    let refused = Client::with_token(&ann, token.clone()).reconnect(gateway).await.expect_err("no keys");
    let refused = refused.downcast_ref::<RequestError>().context("a refusal")?;
    assert!(matches!(refused, RequestError::Refused(error) if error["code"] == "unavailable" && error["retryable"] == true), "{refused}");
    let bearer = format!("Bearer {token}");
    assert_eq!(session(gateway, Method::GET, &[("Authorization", &bearer)]).await?.status(), StatusCode::SERVICE_UNAVAILABLE);
    issuer.publishes(&[JWK_A]);
    until("the keys", async || Ok(session(gateway, Method::POST, &[("Authorization", &bearer)]).await?.status() == StatusCode::OK)).await?;
    assert!(signs_in(gateway, &ann, token).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_of_one_gateway_signs_in_at_the_other_until_it_is_cleared() -> Result<()> {
    let issuer = Issuer::start(&[JWK_A]).await?;
    let cluster = cluster(&issuer, 2).await?;
    let (a, b) = (cluster.gateway(0), cluster.gateway(1));
    let ann = User::named("ann");
    let bearer = format!("Bearer {}", signed(&ann, KEY_A, "a"));
    let foreign = session(a, Method::POST, &[("Authorization", &bearer), ("Origin", "https://evil.test")]).await?;
    assert_eq!((foreign.status(), cookie_of(&foreign, "natter_session")), (StatusCode::FORBIDDEN, None));
    let answer = session(a, Method::POST, &[("Authorization", &bearer)]).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    let (cookie, csrf) = cookies(&answer)?;
    let body: Value = answer.json().await?;
    assert_eq!((&body["user"]["id"], &body["user"]["handle"]), (&json!(ann.id), &json!(ann.handle)));

    let current = session(b, Method::GET, &[("Cookie", &cookie)]).await?;
    assert_eq!(current.json::<Value>().await?, body);
    // A socket of a page of the other gateway; and not of a page of anywhere else.
    let own = format!("http://{b}");
    let mut socket = upgrade_v1(b, &[("Cookie", &cookie), ("Origin", &own)]).await?;
    socket.send(Message::text(r#"{"type":"connect","id":1}"#)).await?;
    let ready: Value = serde_json::from_str(socket.next().await.context("a frame")??.to_text()?)?;
    assert_eq!((&ready["type"], &ready["user"]["id"]), (&json!("ready"), &json!(ann.id)), "{ready}");
    assert!(upgrade_v1(b, &[("Cookie", &cookie), ("Origin", "https://evil.test")]).await.is_err());
    // One that does not hold any more is as none: the page cannot take it back, and has a token.
    let mut socket = upgrade_v1(b, &[("Cookie", "natter_session=of.old"), ("Origin", &own)]).await?;
    let connect = json!({"type": "connect", "id": 1, "token": signed(&ann, KEY_A, "a")});
    socket.send(Message::text(connect.to_string())).await?;
    let ready: Value = serde_json::from_str(socket.next().await.context("a frame")??.to_text()?)?;
    assert_eq!(ready["type"], "ready", "{ready}");
    // The cookie is no bearer token, in no place where one could be.
    let value = cookie.split(['=', ';']).nth(1).unwrap_or_default();
    assert!(!signs_in(b, &ann, value.to_owned()).await?);
    let as_bearer = session(b, Method::POST, &[("Authorization", &format!("Bearer {value}"))]).await?;
    assert_eq!(as_bearer.status(), StatusCode::UNAUTHORIZED);

    let out = session(b, Method::DELETE, &[("Cookie", &cookie), ("Origin", &own)]).await?;
    assert_eq!(out.status(), StatusCode::FORBIDDEN, "without the CSRF token");
    let out = session(b, Method::DELETE, &[("Cookie", &cookie), ("Origin", &own), ("X-CSRFToken", &csrf)]).await?;
    assert_eq!((out.status(), cookie_of(&out, "natter_session")), (StatusCode::NO_CONTENT, Some(String::new())));
    assert_eq!(session(b, Method::GET, &[]).await?.status(), StatusCode::UNAUTHORIZED);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_token_unless_a_fresh_one_comes() -> Result<()> {
    let issuer = Issuer::start(&[JWK_A]).await?;
    let cluster = cluster(&issuer, 1).await?;
    let gateway = cluster.gateway(0);
    let (ann, bob) = (User::named("ann"), User::named("bob"));
    let short = |user: &User, seconds| token::sign_rs256(&claims(user, seconds), KEY_A, "a");
    let ends_at = |seconds: u64| Instant::now() + Duration::from_secs(seconds);

    // Left alone, it is closed when the token ends: not before its last second, and not long after.
    let ends = ends_at(10);
    let mut alone = Client::with_token(&ann, short(&ann, 10));
    alone.reconnect(gateway).await?;
    let mut refreshed = Client::with_token(&ann, short(&ann, 10));
    refreshed.reconnect(gateway).await?;

    let refresh = async |token: String| refreshed.request(json!({"type": "refresh", "token": token})).await;
    let refused = async |token: String| refresh(token).await.err().map(|error| error.code().to_owned());
    assert_eq!(refused(short(&bob, 3600)).await.as_deref(), Some("unauthorized"), "another user's");
    assert_eq!(refused(token::sign_rs256(&claims(&ann, 3600), KEY_B, "a")).await.as_deref(), Some("unauthorized"), "forged");
    assert_eq!(refused("nonsense".to_owned()).await.as_deref(), Some("unauthorized"));
    // Signed with a key that was published a moment ago, which has to be fetched first.
    issuer.publishes(&[JWK_A, JWK_B]);
    until("a refresh with a new key", async || Ok(refresh(token::sign_rs256(&claims(&ann, 15), KEY_B, "b")).await.is_ok())).await?;
    let extended = ends_at(15);
    // One that ends sooner takes nothing away.
    assert!(refresh(short(&ann, 1)).await.is_ok());

    let (code, reason) = alone.wait_for_close(PATIENCE).await?;
    assert_eq!((code, reason.as_str()), (4401, "token"));
    // `exp` is cut to whole seconds, and a busy machine is late.
    let now = Instant::now();
    assert!(now + Duration::from_secs(1) > ends && now < ends + Duration::from_secs(3), "{:?} after the token's end", ends.elapsed());
    assert!(refreshed.record(|record| record.closed.is_none()), "the fresh token holds");
    assert_eq!(refreshed.wait_for_close(PATIENCE).await?.0, 4401);
    let now = Instant::now();
    assert!(
        now + Duration::from_secs(2) > extended && now < extended + Duration::from_secs(3),
        "{:?} after the fresh token's end",
        extended.elapsed()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_opened_by_cookie_ends_with_it_unless_a_token_comes() -> Result<()> {
    // The shortest lifetime there is is too long for a test to wait for: so the cookie's own end is
    // tried where cookies are (the gateway's tests), and here that a token extends such a session.
    let natter = Standalone::start(&[]).await?;
    let gateway = natter.node.addr;
    let session = natter_tests::http::HttpSession::signed_in(gateway, "ann").await?;
    let (cookie, own) = (session.cookie.clone().context("a cookie")?, format!("http://{gateway}"));
    let mut socket = upgrade_v1(gateway, &[("Cookie", &cookie), ("Origin", &own)]).await?;
    socket.send(Message::text(r#"{"type":"connect","id":1}"#)).await?;
    ensure!(socket.next().await.context("a frame")??.to_text()?.contains("ready"));
    let bob = natter_tests::http::HttpSession::signed_in(gateway, "bob").await?;
    for (token, expected) in [(session.token.as_deref(), "reply"), (bob.token.as_deref(), "error")] {
        let refresh = json!({"type": "refresh", "id": 2, "token": token});
        socket.send(Message::text(refresh.to_string())).await?;
        let answer: Value = serde_json::from_str(socket.next().await.context("a frame")??.to_text()?)?;
        assert_eq!((answer["type"].as_str(), &answer["id"]), (Some(expected), &json!(2)), "{answer}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_away_keeps_nobody_out_whose_key_is_known() -> Result<()> {
    let issuer = Issuer::start(&[JWK_A]).await?;
    let cluster = cluster(&issuer, 1).await?;
    let gateway = cluster.gateway(0);
    let ann = User::named("ann");
    assert!(signs_in(gateway, &ann, signed(&ann, KEY_A, "a")).await?);
    drop(issuer);
    let deadline = Instant::now() + Duration::from_secs(4);
    while Instant::now() < deadline {
        let begun = Instant::now();
        assert!(signs_in(gateway, &ann, signed(&ann, KEY_A, "a")).await?);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        let begun = Instant::now();
        assert!(!signs_in(gateway, &ann, signed(&ann, KEY_B, "b")).await?);
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
    Ok(())
}
