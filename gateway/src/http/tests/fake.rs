//! A gateway over the fake broker, and its routes, asked without a socket.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, Response, StatusCode, header},
};
use natter_shared::{
    broker::Broker,
    config::{Auth, Config, Http, Limits, Secret},
    id::UserId,
    position::Position,
    timestamp::Timestamp,
};
use serde_json::Value;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tower::ServiceExt;

use crate::{
    app::App,
    auth::Identity,
    http::router,
    memory::Memory,
    testing::{self, FakeBroker},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A user whose every text is hostile.
pub(super) const MALLORY: &str = r#"m"><script>x</script>"#;

/// A gateway whose persister is the fake broker.
pub(super) struct FakeSite {
    pub(super) app: Arc<App>,
    pub(super) broker: Arc<FakeBroker>,
    _ends: DropGuard,
}

impl FakeSite {
    pub(super) fn new(change: impl FnOnce(&mut Http, &mut Auth)) -> Self {
        Self::limited(change, |_| ())
    }

    pub(super) fn limited(change: impl FnOnce(&mut Http, &mut Auth), limit: impl FnOnce(&mut Limits)) -> Self {
        let mut config = Config::default();
        limit(&mut config.limits);
        config.auth.secret = Some(Secret::new(SECRET));
        config.auth.dev_login = true;
        config.http.allowed_origins = vec!["https://listed.test".to_owned()];
        change(&mut config.http, &mut config.auth);
        let (broker, stop) = (Arc::new(FakeBroker::default()), CancellationToken::new());
        let app = testing::app(Arc::clone(&broker) as _, config, &Arc::new(Memory::new(1 << 60)), &TaskTracker::new(), &stop);
        // What is stored is known.
        for shard in broker.shards().iter() {
            app.knowledge.canary(shard, Instant::now(), Position::START, 0);
        }
        Self { app, broker, _ends: stop.drop_guard() }
    }

    pub(super) fn token(&self, name: &str) -> String {
        let user = UserId::new(name).unwrap();
        self.app.auth.issue(&user, name, Timestamp::now(), Duration::from_mins(1)).unwrap().0
    }

    /// The session cookie of a user.
    pub(super) fn session(&self, name: &str) -> String {
        self.session_since(name, Timestamp::now())
    }

    pub(super) fn expired_session(&self, name: &str) -> String {
        self.session_since(name, Timestamp(1_000_000))
    }

    fn session_since(&self, name: &str, since: Timestamp) -> String {
        let (user, handle) = (UserId::new(name).unwrap(), Some(name.to_owned()));
        let identity = Identity { user, display_name: handle.clone(), handle, expires_at: since, issued_at: since };
        format!("natter_session={}", self.app.auth.sessions().issue(&identity, since, Duration::from_mins(1)).0)
    }

    pub(super) fn csrf(&self, name: &str) -> String {
        self.app.auth.csrf().issue(Some(&UserId::new(name).unwrap()))
    }
}

/// The routes, and the site behind them.
pub(super) struct Routes {
    pub(super) site: Arc<FakeSite>,
    router: Router,
}

impl Routes {
    pub(super) fn new() -> Self {
        Self::over(FakeSite::new(|_, _| ()))
    }

    pub(super) fn over(site: FakeSite) -> Self {
        let site = Arc::new(site);
        Self { router: router(Arc::clone(&site.app)), site }
    }

    /// A request to `natter.test` with these headers.
    pub(super) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answered {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "natter.test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        Answered::read(response).await
    }

    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answered {
        self.send("GET", path, headers, "").await
    }
}

pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) head: Response<()>,
    pub(super) body: String,
}

impl Answered {
    async fn read(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Self { status: parts.status, head: Response::from_parts(parts, ()), body: String::from_utf8(body.to_vec()).unwrap() }
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.head.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn set_cookie(&self, name: &str) -> Option<String> {
        let cookies = self.head.headers().get_all(header::SET_COOKIE);
        cookies.iter().map(|value| value.to_str().unwrap().to_owned()).find(|value| value.starts_with(&format!("{name}=")))
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The status, and the code of the problem that the body is.
    pub(super) fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.body);
        (self.status.as_u16(), self.json()["code"].as_str().unwrap().to_owned())
    }
}
