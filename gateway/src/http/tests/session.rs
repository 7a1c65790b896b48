//! Cookies from bearer tokens, who is signed in, and signing out.

use std::time::Duration;

use axum::http::StatusCode;
use natter_shared::timestamp::Timestamp;

use super::fake::{Answered, FakeSite, Routes};

const SESSION: &str = "/api/v1/session";
const OWN: (&str, &str) = ("origin", "http://natter.test");

async fn sign_in(routes: &Routes, name: &str, headers: &[(&str, &str)]) -> Answered {
    let bearer = format!("Bearer {}", routes.site.token(name));
    let mut all = vec![("authorization", bearer.as_str())];
    all.extend_from_slice(headers);
    routes.send("POST", SESSION, &all, "").await
}

/// The cookies that an answer sets, as a browser sends them back.
fn cookies(answer: &Answered) -> (String, String) {
    let value = |name| answer.set_cookie(name).unwrap().split(';').next().unwrap().to_owned();
    let (session, csrf) = (value("natter_session"), value("csrftoken"));
    (format!("{session}; {csrf}"), csrf.trim_start_matches("csrftoken=").to_owned())
}

#[tokio::test]
async fn a_bearer_token_becomes_a_cookie() {
    let routes = Routes::new();
    for origin in [None, Some(OWN), Some(("origin", "https://listed.test"))] {
        let answer = sign_in(&routes, "alice", origin.as_slice()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        assert_eq!(answer.json()["user"]["id"], "alice");
        let session = answer.set_cookie("natter_session").unwrap();
        assert!(session.contains("; HttpOnly") && session.contains("; SameSite=Lax") && session.contains("; Max-Age=604800"), "{session}");
        assert!(!session.contains("Secure"));
        assert!(!answer.set_cookie("csrftoken").unwrap().contains("HttpOnly"));

        let (cookie, _) = cookies(&answer);
        let current = routes.get(SESSION, &[("cookie", &cookie)]).await;
        assert_eq!(current.json(), answer.json());
        assert!(current.header("vary").contains("Cookie") && current.header("cache-control") == "no-store");
    }
}

#[tokio::test]
async fn a_cookie_lasts_as_long_as_it_is_configured_to() {
    let lifetime = Duration::from_hours(3);
    let routes = Routes::over(FakeSite::new(|_, auth| auth.session_lifetime = lifetime));
    let begun = Timestamp::now();
    let answer = sign_in(&routes, "alice", &[]).await;
    for cookie in ["natter_session", "csrftoken"] {
        let cookie = answer.set_cookie(cookie).unwrap();
        assert!(cookie.contains("; Max-Age=10800"), "{cookie}");
    }
    let (cookie, _) = cookies(&answer);
    let current = routes.get(SESSION, &[("cookie", &cookie)]).await.json();
    for told in [answer.json(), current] {
        let expires_at: Timestamp = serde_json::from_value(told["expires_at"].clone()).unwrap();
        let lasts = Duration::from_millis(expires_at.0 - begun.0);
        assert!(lasts.abs_diff(lifetime) < Duration::from_mins(1), "{lasts:?}");
    }
}

#[tokio::test]
async fn a_cookie_of_another_gateway_holds_and_one_of_another_installation_does_not() {
    let (one, other) = (Routes::new(), Routes::new());
    let (cookie, _) = cookies(&sign_in(&one, "alice", &[]).await);
    assert_eq!(other.get(SESSION, &[("cookie", &cookie)]).await.json()["user"]["handle"], "alice");
    let foreign = Routes::over(FakeSite::new(|_, auth| {
        auth.secret = Some(natter_shared::config::Secret::new("another secret of at least 32 bytes"));
    }));
    assert_eq!(foreign.get(SESSION, &[("cookie", &cookie)]).await.problem(), (401, "unauthorized".to_owned()));
}

#[tokio::test]
async fn the_cookie_is_secure_where_the_users_side_is() {
    let public = Routes::over(FakeSite::new(|http, _| http.public_url = Some("https://chat.test".to_owned())));
    let answer = sign_in(&public, "alice", &[("origin", "https://chat.test")]).await;
    assert!(answer.set_cookie("natter_session").unwrap().contains("; Secure"));
    assert!(answer.set_cookie("csrftoken").unwrap().contains("; Secure"));
    // Anybody can say so; only a trusted proxy is believed.
    let said = sign_in(&Routes::new(), "alice", &[("x-forwarded-proto", "https")]).await;
    assert!(!said.set_cookie("natter_session").unwrap().contains("Secure"));
}

#[tokio::test]
async fn only_a_good_bearer_token_of_a_page_that_may_signs_in() {
    let routes = Routes::new();
    for foreign in ["https://evil.test", "null"] {
        let answer = sign_in(&routes, "mallory", &[("origin", foreign)]).await;
        assert_eq!((answer.problem(), answer.set_cookie("natter_session")), ((403, "origin".to_owned()), None));
    }
    let (cookie, csrf) = cookies(&sign_in(&routes, "alice", &[]).await);
    let value = cookie.split(';').next().unwrap().trim_start_matches("natter_session=");
    let token = routes.site.token("alice");
    for headers in [
        vec![],
        // A cookie would renew itself for ever.
        vec![("cookie", cookie.as_str()), ("x-csrftoken", csrf.as_str()), OWN],
        // Neither is taken for the other.
        vec![("authorization", &*format!("Bearer {value}"))],
        vec![("cookie", &*format!("natter_session={token}"))],
        vec![("authorization", "Bearer x"), ("cookie", cookie.as_str())],
    ] {
        let answer = routes.send("POST", SESSION, &headers, "").await;
        assert_eq!(answer.problem(), (401, "unauthorized".to_owned()), "{headers:?}");
        assert!(answer.set_cookie("natter_session").is_none() && answer.header("www-authenticate") == "Bearer");
    }
    for headers in [vec![], vec![("cookie", &*format!("natter_session={token}"))], vec![("authorization", &*format!("Bearer {value}"))]] {
        assert_eq!(routes.get(SESSION, &headers).await.problem(), (401, "unauthorized".to_owned()), "{headers:?}");
    }
    let expired = routes.site.expired_session("alice");
    assert_eq!(routes.get(SESSION, &[("cookie", &expired)]).await.problem(), (401, "unauthorized".to_owned()));
}

#[tokio::test]
async fn a_browser_without_a_csrf_token_is_given_one() {
    let routes = Routes::new();
    let current = routes.get(SESSION, &[("cookie", &routes.site.session("alice"))]).await;
    let csrf = current.set_cookie("csrftoken").unwrap();
    let csrf = csrf.split(['=', ';']).nth(1).unwrap();
    let cookie = format!("{}; csrftoken={csrf}", routes.site.session("alice"));
    let out = routes.send("DELETE", SESSION, &[("cookie", &cookie), ("x-csrftoken", csrf)], "").await;
    assert_eq!(out.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn signing_out_clears_the_cookies_and_takes_a_csrf_token() {
    let routes = Routes::new();
    let (cookie, csrf) = cookies(&sign_in(&routes, "alice", &[]).await);
    let out = async |headers: &[(&str, &str)]| routes.send("DELETE", SESSION, headers, "").await;
    let cookie = ("cookie", cookie.as_str());
    assert_eq!(out(&[cookie]).await.problem(), (403, "csrf".to_owned()));
    assert_eq!(out(&[cookie, OWN, ("x-csrftoken", &routes.site.csrf("bob"))]).await.problem(), (403, "csrf".to_owned()));
    let foreign = out(&[cookie, ("x-csrftoken", &csrf), ("origin", "https://evil.test")]).await;
    assert_eq!(foreign.problem(), (403, "origin".to_owned()));
    let done = out(&[cookie, OWN, ("x-csrftoken", &csrf)]).await;
    assert_eq!(done.status, StatusCode::NO_CONTENT);
    assert!(done.set_cookie("natter_session").unwrap().starts_with("natter_session=; Path=/; Max-Age=0;"));
    assert!(done.set_cookie("csrftoken").unwrap().starts_with("csrftoken=; Path=/; Max-Age=0;"));
    // Nobody any more: nothing to prove.
    assert_eq!(out(&[("cookie", &routes.site.expired_session("alice"))]).await.status, StatusCode::NO_CONTENT);
}
