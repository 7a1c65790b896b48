//! Who may call the HTTP API of a live gateway: keys until they are revoked, pages of listed origins,
//! and cookies only with the CSRF token.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use natter_tests::{
    cluster::{Cluster, Store},
    http::cookie_of,
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use super::api::{call, done};

super::on_both_stores!(a_revoked_key_is_refused_by_every_gateway_within_five_seconds);

async fn a_revoked_key_is_refused_by_every_gateway_within_five_seconds(store: Store) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let (shop, mail) = (cluster.api_key("shop")?, cluster.api_key("mail")?);
    let user = "server/users/id-erin";
    for index in [0, 1] {
        done(&cluster, index, &shop, Method::PUT, user, json!({"handle": "erin"})).await?;
    }
    let revoked = Instant::now();
    cluster.revoke_api_keys("shop")?;
    let refused_by = revoked + Duration::from_secs(5);
    for index in [0, 1] {
        // Asked all the time, as a back end does that does not know.
        loop {
            let asked = Instant::now();
            let (status, answer) = call(&cluster, index, &shop, Method::GET, user, None, Value::Null).await?;
            if status == StatusCode::UNAUTHORIZED {
                break;
            }
            ensure!(asked < refused_by, "gateway {index} still answers after {:?}: {status} {answer}", asked - revoked);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    for index in [0, 1] {
        let (status, answer) = call(&cluster, index, &shop, Method::GET, user, None, Value::Null).await?;
        ensure!(status == StatusCode::UNAUTHORIZED && answer["code"] == "unauthorized", "{status} {answer}");
        done(&cluster, index, &mail, Method::GET, user, Value::Null).await.context("the other key holds")?;
    }
    Ok(())
}

const LISTED: &str = "https://app.example";
const FOREIGN: &str = "https://evil.example";

fn header(answer: &Response, name: &str) -> String {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase()
}

fn may_read(answer: &Response) -> bool {
    header(answer, "access-control-allow-origin") == LISTED && header(answer, "access-control-allow-credentials") == "true"
}

async fn preflight(url: &str, origin: &str, method: &str) -> Result<Response> {
    let request = Client::new().request(Method::OPTIONS, url).header("Origin", origin);
    let request = request.header("Access-Control-Request-Method", method);
    Ok(request.header("Access-Control-Request-Headers", "content-type,idempotency-key,x-csrftoken").send().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_listed_origins_may_call_and_no_others() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).env("NATTER_HTTP__ALLOWED_ORIGINS", LISTED).start().await?;
    let api = format!("http://{}/api/v1", cluster.gateway(0));
    for (path, method) in [("groups", "POST"), ("groups/lobby", "PATCH"), ("groups/lobby/read", "PUT"), ("session", "DELETE")] {
        let answer = preflight(&format!("{api}/{path}"), LISTED, method).await?;
        ensure!(answer.status().is_success() && may_read(&answer), "{method} {path}: {answer:?}");
        ensure!(header(&answer, "access-control-allow-methods").contains(&method.to_ascii_lowercase()), "{answer:?}");
        let headers = header(&answer, "access-control-allow-headers");
        ensure!(["authorization", "content-type", "idempotency-key", "x-csrftoken"].iter().all(|name| headers.contains(name)), "{headers}");
        let answer = preflight(&format!("{api}/{path}"), FOREIGN, method).await?;
        ensure!(header(&answer, "access-control-allow-origin").is_empty(), "{answer:?}");
    }
    // Answers can be read, refusals too.
    let refused = Client::new().get(format!("{api}/me")).header("Origin", LISTED).send().await?;
    ensure!(refused.status() == StatusCode::UNAUTHORIZED && may_read(&refused), "{refused:?}");
    let foreign = Client::new().get(format!("{api}/me")).header("Origin", FOREIGN).send().await?;
    ensure!(header(&foreign, "access-control-allow-origin").is_empty(), "{foreign:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_changes_something_only_with_the_csrf_token_and_from_a_listed_page() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).env("NATTER_HTTP__ALLOWED_ORIGINS", LISTED).start().await?;
    let api = format!("http://{}/api/v1", cluster.gateway(0));
    let signed_in = |name: &'static str| Client::new().post(format!("{api}/dev/login")).json(&json!({"name": name})).send();
    let (ann, ben) = (signed_in("ann").await?, signed_in("ben").await?);
    let session = cookie_of(&ann, "natter_session").context("a session")?;
    let csrf = cookie_of(&ann, "csrftoken").context("a token")?;
    let bens = cookie_of(&ben, "csrftoken").context("a token")?;
    let by_cookie = |request: RequestBuilder, csrf: &str| request.header("Cookie", format!("natter_session={session}; csrftoken={csrf}"));
    let me = by_cookie(Client::new().get(format!("{api}/me")).header("Origin", LISTED), &csrf).send().await?;
    ensure!(me.status() == StatusCode::OK && may_read(&me), "{me:?}");
    // (origin, cookie, what the header echoes) and what it comes to
    let tries = [
        (Some(LISTED), &csrf, Some(csrf.as_str()), "", 200),
        (Some(LISTED), &csrf, None, "csrf", 403),
        (Some(LISTED), &csrf, Some("nonsense"), "csrf", 403),
        (Some(LISTED), &bens, Some(bens.as_str()), "csrf", 403),
        (Some(FOREIGN), &csrf, Some(csrf.as_str()), "origin", 403),
        (None, &csrf, Some(csrf.as_str()), "origin", 403),
    ];
    for (origin, cookie, echo, code, wanted) in tries {
        let mut request = by_cookie(Client::new().post(format!("{api}/groups/open")), cookie).json(&json!({"name": "lobby"}));
        if let Some(origin) = origin {
            request = request.header("Origin", origin);
        }
        if let Some(echo) = echo {
            request = request.header("X-CSRFToken", echo);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let body: Value = answer.json().await?;
        ensure!(status == wanted && body["code"].as_str().unwrap_or_default() == code, "{origin:?} {echo:?}: {status} {body}");
    }
    Ok(())
}
