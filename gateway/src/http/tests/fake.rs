//! A site over the fake broker, and its routes, asked without a socket.

mod broker;

use std::{sync::Arc, time::Duration};

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
    subject::Shard,
    telemetry::metrics::Registry,
    timestamp::Timestamp,
};
use serde_json::Value;
use tower::ServiceExt;

pub(crate) use self::broker::{API_KEY, FakeBroker};
pub(super) use self::broker::{membership, profile};
use crate::{
    auth::{AuthError, Authenticator, Identity},
    http::{Site, team_pages::TeamPages},
    metrics::Metrics,
    publish::Intake,
    rates::Rates,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A user whose every text is hostile.
pub(super) const MALLORY: &str = r#"m"><script>x</script>"#;

pub(super) struct FakeSite {
    pub(super) broker: FakeBroker,
    pub(super) intake: Intake,
    config: Config,
    auth: Authenticator,
    rates: Rates,
    pages: Option<TeamPages>,
    pub(super) missing: Vec<&'static str>,
    pub(super) closing: bool,
}

impl Site for FakeSite {
    fn broker(&self) -> &dyn Broker {
        &self.broker
    }

    fn intake(&self) -> &Intake {
        &self.intake
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn auth(&self) -> &Authenticator {
        &self.auth
    }

    fn rates(&self) -> &Rates {
        &self.rates
    }

    fn pages(&self) -> Option<&TeamPages> {
        self.pages.as_ref()
    }

    fn missing(&self) -> Vec<&'static str> {
        self.missing.clone()
    }

    fn judge(&self, _: &Identity) -> Result<(), AuthError> {
        Ok(())
    }

    fn recent(&self, _: Shard) -> Option<Position> {
        Some(Position::START)
    }

    fn is_closing(&self) -> bool {
        self.closing
    }

    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }

    fn accepted(&self) {}
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
        let auth = Authenticator::from_config(&config.auth).unwrap();
        let pages = TeamPages::of_config(&config.http).unwrap();
        let broker = FakeBroker::default();
        let intake = Intake::new(broker.shards(), Arc::new(Metrics::new(&Registry::new("test"))));
        let rates = Rates::new(&config.limits);
        Self { broker, intake, config, auth, rates, pages, missing: Vec::new(), closing: false }
    }

    pub(super) fn token(&self, name: &str) -> String {
        let user = UserId::new(name).unwrap();
        self.auth.issue(&user, name, Timestamp::now(), Duration::from_mins(1)).unwrap().0
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
        format!("natter_session={}", self.auth.sessions().issue(&identity, since, Duration::from_mins(1)).0)
    }

    pub(super) fn csrf(&self, name: &str) -> String {
        self.auth.csrf().issue(Some(&UserId::new(name).unwrap()))
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
        Self { router: crate::http::routes(site.clone()), site }
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
