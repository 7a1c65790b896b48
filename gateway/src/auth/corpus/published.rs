//! Keys that an issuer publishes, fetched from a real server on loopback: rotation, outages, sets
//! that are none, and tokens that would have us fetch for ever.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use jsonwebtoken::{Algorithm as Alg, EncodingKey};
use natter_shared::{
    config::{Algorithm, Auth, Issuer, Secret},
    timestamp::Timestamp,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    AuthError, Authenticator, SECRET,
    keys::{self, token},
};

/// What the server answers.
#[derive(Clone)]
enum Answer {
    Body(String),
    Status(u16),
    /// Elsewhere, where a set would be.
    Redirect,
    /// Nothing, for longer than a fetch may take.
    Silence,
}

/// What its handler shares with the test.
type Shared = (Arc<Mutex<Answer>>, Arc<AtomicUsize>);

/// An issuer's server. It ends with this value.
struct Server {
    addr: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    fetches: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl Server {
    async fn start(keys: &[Value]) -> Self {
        let (answer, fetches, stop) = (Arc::new(Mutex::new(set(keys))), Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let state = (Arc::clone(&answer), Arc::clone(&fetches));
        let elsewhere = Arc::new(set(keys));
        let router = Router::new()
            .route(
                "/keys",
                get(|State((answer, fetches)): State<Shared>| async move {
                    fetches.fetch_add(1, Ordering::SeqCst);
                    let answer = answer.lock().clone();
                    match answer {
                        Answer::Body(body) => body.into_response(),
                        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
                        Answer::Redirect => (StatusCode::FOUND, [(header::LOCATION, "/elsewhere")]).into_response(),
                        Answer::Silence => std::future::pending().await,
                    }
                }),
            )
            .route(
                "/elsewhere",
                get(move || async move {
                    match &*elsewhere {
                        Answer::Body(body) => body.clone(),
                        Answer::Status(_) | Answer::Redirect | Answer::Silence => String::new(),
                    }
                }),
            )
            .with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stopped = stop.clone();
        tokio::spawn(stopped.run_until_cancelled_owned(async move { axum::serve(listener, router).await }));
        Self { addr, answer, fetches, _stop: stop.drop_guard() }
    }

    fn url(&self) -> String {
        format!("http://{}/keys", self.addr)
    }

    fn now_says(&self, answer: Answer) {
        *self.answer.lock() = answer;
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

fn set(keys: &[Value]) -> Answer {
    Answer::Body(json!({"keys": keys}).to_string())
}

/// Times short enough for tests; the refresh is far away unless a test wants it.
fn config(algorithm: Algorithm, url: &str) -> Auth {
    Auth {
        secret: Some(Secret::new(SECRET)),
        issuer: Some("id".to_owned()),
        algorithm,
        jwks_url: Some(url.to_owned()),
        jwks_refresh: Duration::from_hours(1),
        jwks_cooldown: Duration::from_millis(300),
        jwks_timeout: Duration::from_secs(1),
        jwks_wait: Duration::from_secs(2),
        jwks_max_bytes: 64 * 1024,
        ..Auth::default()
    }
}

/// An authenticator that keeps its keys, until dropped.
struct Running {
    authenticator: Authenticator,
    _stop: DropGuard,
}

fn run(config: &Auth) -> Running {
    let (authenticator, stop) = (Authenticator::from_config(config).unwrap(), CancellationToken::new());
    authenticator.keep_keys(&TaskTracker::new(), &stop);
    Running { authenticator, _stop: stop.drop_guard() }
}

impl Running {
    async fn user(&self, token: &str) -> Result<String, AuthError> {
        self.authenticator.authenticate(token).await.map(|identity| identity.user.to_string())
    }

    /// Asks until the answer is this one.
    async fn until(&self, token: &str, wanted: Result<&str, AuthError>) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let is = self.user(token).await;
            if is.as_deref() == wanted.as_ref().map(|user| *user) {
                return;
            }
            assert!(Instant::now() < deadline, "still {is:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn claims(iss: &str, sub: &str) -> Value {
    json!({"iss": iss, "aud": "natter", "sub": sub, "exp": Timestamp::now().0 / 1000 + 600})
}

fn signed(key: &EncodingKey, kid: Option<&str>, sub: &str) -> String {
    let header = kid.map_or(json!({"alg": "RS256"}), |kid| json!({"alg": "RS256", "kid": kid}));
    token(key, Alg::RS256, &header, &claims("id", sub))
}

fn key_a() -> EncodingKey {
    keys::signing(Alg::RS256)
}

#[tokio::test]
async fn each_algorithm_with_published_keys() {
    for (algorithm, alg, jwk) in [
        (Algorithm::RS256, Alg::RS256, keys::rsa_a("k")),
        (Algorithm::ES256, Alg::ES256, keys::ec("k")),
        (Algorithm::EdDSA, Alg::EdDSA, keys::ed("k")),
    ] {
        // Beside keys of all other kinds, and with the same name.
        let others = [keys::rsa_b("k"), keys::ec("k"), keys::ed("k")].into_iter().filter(|other| other["kty"] != jwk["kty"]);
        let mut all: Vec<Value> = others.collect();
        all.push(jwk);
        let server = Server::start(&all).await;
        let running = run(&config(algorithm, &server.url()));
        let good = |kid: Value| token(&keys::signing(alg), alg, &json!({"alg": algorithm.as_str(), "kid": kid}), &claims("id", "alice"));
        // The first fetch is under way: it is waited for.
        assert_eq!(running.user(&good(json!("k"))).await.as_deref(), Ok("alice"), "{alg:?}");
        let without = token(&keys::signing(alg), alg, &json!({"alg": algorithm.as_str()}), &claims("id", "alice"));
        assert_eq!(running.user(&without).await.as_deref(), Ok("alice"), "the only key: {alg:?}");
        // The published key as a secret.
        let secret = EncodingKey::from_secret(all.last().unwrap().to_string().as_bytes());
        let confused = token(&secret, Alg::HS256, &json!({"alg": "HS256", "kid": "k"}), &claims("id", "alice"));
        assert_eq!(running.user(&confused).await, Err(AuthError::Algorithm));
        assert_eq!(server.fetches(), 1);
    }
}

#[tokio::test]
async fn a_key_is_rotated() {
    let server = Server::start(&[keys::rsa_a("a")]).await;
    let running = run(&config(Algorithm::RS256, &server.url()));
    let (old, new) = (signed(&key_a(), Some("a"), "alice"), signed(&keys::signing_b(), Some("b"), "bob"));
    running.until(&old, Ok("alice")).await;
    assert_eq!(running.user(&new).await, Err(AuthError::UnknownKey));
    // The new one is published beside the old one: the next token with it finds it, within a
    // cooldown, long before the refresh.
    server.now_says(set(&[keys::rsa_a("a"), keys::rsa_b("b")]));
    running.until(&new, Ok("bob")).await;
    assert_eq!(running.user(&old).await.as_deref(), Ok("alice"), "still published");
    // Two keys: a token has to say which.
    assert_eq!(running.user(&signed(&key_a(), None, "alice")).await, Err(AuthError::NoKeyId));
    // The other's name does not make it the other's.
    assert_eq!(running.user(&signed(&key_a(), Some("b"), "alice")).await, Err(AuthError::Signature));
}

#[tokio::test]
async fn a_key_that_is_withdrawn_holds_until_the_next_refresh() {
    let server = Server::start(&[keys::rsa_a("a"), keys::rsa_b("b")]).await;
    let running = run(&Auth { jwks_refresh: Duration::from_millis(500), ..config(Algorithm::RS256, &server.url()) });
    let (old, new) = (signed(&key_a(), Some("a"), "alice"), signed(&keys::signing_b(), Some("b"), "bob"));
    running.until(&old, Ok("alice")).await;
    server.now_says(set(&[keys::rsa_b("b")]));
    running.until(&old, Err(AuthError::UnknownKey)).await;
    assert_eq!(running.user(&new).await.as_deref(), Ok("bob"));
    server.now_says(set(&[]));
    running.until(&new, Err(AuthError::UnknownKey)).await;
}

#[tokio::test]
async fn while_the_endpoint_is_down_known_keys_go_on_and_unknown_ones_are_refused_quickly() {
    let server = Server::start(&[keys::rsa_a("a")]).await;
    let running = run(&config(Algorithm::RS256, &server.url()));
    let (known, unknown) = (signed(&key_a(), Some("a"), "alice"), signed(&keys::signing_b(), Some("b"), "bob"));
    running.until(&known, Ok("alice")).await;
    for down in [
        Answer::Status(500),
        Answer::Status(404),
        Answer::Status(204),
        Answer::Silence,
        Answer::Redirect,
        Answer::Body("x".to_owned()),
        Answer::Body("{}".to_owned()),
        Answer::Body(r#"{"keys":{}}"#.to_owned()),
        Answer::Body(format!("{{\"keys\":[]{}}}", " ".repeat(70_000))),
    ] {
        server.now_says(down);
        let before = server.fetches();
        let begun = Instant::now();
        assert_eq!(running.user(&unknown).await, Err(AuthError::UnknownKey));
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        while server.fetches() == before {
            assert!(begun.elapsed() < Duration::from_secs(10), "no further fetch");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // At once, fetch or no fetch; checking signatures takes its time where nothing is optimised.
        let begun = Instant::now();
        for _ in 0..20 {
            assert_eq!(running.user(&known).await.as_deref(), Ok("alice"));
        }
        assert!(begun.elapsed() < Duration::from_millis(4_500), "without waiting for the endpoint: {:?}", begun.elapsed());
    }
    // And back.
    server.now_says(set(&[keys::rsa_a("a"), keys::rsa_b("b")]));
    running.until(&unknown, Ok("bob")).await;
}

#[tokio::test]
async fn keys_that_nobody_confirms_end_at_last() {
    let server = Server::start(&[keys::rsa_a("a")]).await;
    let running = run(&Auth { jwks_max_stale: Duration::from_millis(900), ..config(Algorithm::RS256, &server.url()) });
    let known = signed(&key_a(), Some("a"), "alice");
    running.until(&known, Ok("alice")).await;
    server.now_says(Answer::Status(503));
    running.until(&known, Err(AuthError::NoKeys)).await;
    server.now_says(set(&[keys::rsa_a("a")]));
    running.until(&known, Ok("alice")).await;
}

#[tokio::test]
async fn tokens_with_made_up_keys_do_not_make_us_fetch_more_often() {
    let server = Server::start(&[keys::rsa_a("a")]).await;
    let running = run(&Auth { jwks_cooldown: Duration::from_secs(1), ..config(Algorithm::RS256, &server.url()) });
    running.until(&signed(&key_a(), Some("a"), "alice"), Ok("alice")).await;
    // Signed once: nobody looks at the signature of a key that is not known, and signing is slow enough
    // to keep to the cooldown by itself.
    let eve = signed(&keys::signing_b(), Some("b"), "eve");
    let (_, rest) = eve.split_once('.').unwrap();
    let made_up = |kid: String| {
        let header = json!({"alg": "RS256", "kid": kid}).to_string();
        format!("{}.{rest}", data_encoding::BASE64URL_NOPAD.encode(header.as_bytes()))
    };
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < Duration::from_millis(2_500) {
        let tokens: Vec<String> = (0..50).map(|n| made_up(format!("{asked}-{n}"))).collect();
        let all = futures::future::join_all(tokens.iter().map(|token| running.user(token))).await;
        assert!(all.iter().all(|outcome| *outcome == Err(AuthError::UnknownKey)));
        asked += all.len();
    }
    let most = 2 + begun.elapsed().as_secs() as usize;
    assert!(server.fetches() <= most, "{} fetches for {asked} tokens in {:?}", server.fetches(), begun.elapsed());
    assert!(server.fetches() >= 2, "each of them asked for one");
}

#[tokio::test]
async fn only_keys_that_fit_are_used() {
    let change = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    let unfit = [
        change(keys::rsa_a("a"), "use", json!("enc")),
        change(keys::rsa_a("a"), "alg", json!("RS512")),
        change(keys::rsa_a("a"), "alg", json!("PS256")),
        change(keys::rsa_a("a"), "alg", json!("HS256")),
        change(keys::rsa_a("a"), "alg", json!("of the future")),
        change(keys::rsa_a("a"), "key_ops", json!(["encrypt"])),
        change(keys::rsa_a("a"), "n", json!("****")),
        change(keys::rsa_a("a"), "n", json!("")),
        change(keys::rsa_a("a"), "e", json!("AQ")),
        change(keys::rsa_a("a"), "kty", json!("oct")),
        keys::rsa_weak("a"),
        json!({"kty": "oct", "kid": "a", "k": "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY"}),
        json!({"kty": "of the future", "kid": "a"}),
        json!("a"),
        json!(7),
        json!({}),
    ];
    let token = signed(&key_a(), Some("a"), "alice");
    for key in unfit {
        let server = Server::start(&[key.clone(), keys::rsa_b("b")]).await;
        let running = run(&config(Algorithm::RS256, &server.url()));
        // The good one beside it is used all the same.
        running.until(&signed(&keys::signing_b(), Some("b"), "bob"), Ok("bob")).await;
        assert_eq!(running.authenticator.verify(&token, Timestamp::now()), Err(AuthError::UnknownKey), "{key}");
    }
    let fits = change(change(keys::rsa_a("a"), "key_ops", json!(["verify"])), "x5c", json!(["MIIB"]));
    let server = Server::start(&[fits]).await;
    running_once(&server, &token).await;
}

async fn running_once(server: &Server, token: &str) {
    run(&config(Algorithm::RS256, &server.url())).until(token, Ok("alice")).await;
}

#[tokio::test]
async fn of_two_keys_with_one_name_each_may_be_the_one() {
    for order in [[keys::rsa_a("k"), keys::rsa_b("k")], [keys::rsa_b("k"), keys::rsa_a("k")]] {
        let server = Server::start(&order).await;
        let running = run(&config(Algorithm::RS256, &server.url()));
        running.until(&signed(&key_a(), Some("k"), "alice"), Ok("alice")).await;
        assert_eq!(running.user(&signed(&keys::signing_b(), Some("k"), "bob")).await.as_deref(), Ok("bob"));
        assert_eq!(running.user(&signed(&key_a(), None, "alice")).await, Err(AuthError::NoKeyId));
    }
}

#[tokio::test]
async fn a_key_of_another_issuer_is_unknown() {
    let (one, other) = (Server::start(&[keys::rsa_a("a")]).await, Server::start(&[keys::rsa_b("b")]).await);
    let partner = Issuer {
        issuer: "partner".to_owned(),
        audience: "natter".to_owned(),
        algorithm: Algorithm::RS256,
        secret: None,
        public_key: None,
        jwks_url: Some(other.url()),
    };
    let running = run(&Auth { issuers: vec![partner], ..config(Algorithm::RS256, &one.url()) });
    let of = |key: &EncodingKey, kid: &str, iss: &str| token(key, Alg::RS256, &json!({"alg": "RS256", "kid": kid}), &claims(iss, "alice"));
    running.until(&of(&key_a(), "a", "id"), Ok("alice")).await;
    running.until(&of(&keys::signing_b(), "b", "partner"), Ok("alice")).await;
    assert_eq!(running.user(&of(&keys::signing_b(), "b", "id")).await, Err(AuthError::UnknownKey));
    assert_eq!(running.user(&of(&key_a(), "a", "partner")).await, Err(AuthError::UnknownKey));
    assert_eq!(running.user(&of(&key_a(), "a", "nobody")).await, Err(AuthError::Issuer));
}

#[tokio::test]
async fn an_endpoint_that_is_down_at_start_is_found_when_it_is_up() {
    let server = Server::start(&[]).await;
    server.now_says(Answer::Status(502));
    let running = run(&config(Algorithm::RS256, &server.url()));
    let token = signed(&key_a(), Some("a"), "alice");
    assert_eq!(running.user(&token).await, Err(AuthError::NoKeys));
    server.now_says(set(&[keys::rsa_a("a")]));
    running.until(&token, Ok("alice")).await;
    // Nobody listens at all.
    let nobody = run(&config(Algorithm::RS256, "http://127.0.0.1:1/keys"));
    assert_eq!(nobody.user(&token).await, Err(AuthError::NoKeys));
}
