//! The HTTP API: who may call, from where and how often, what does not fit, and its description.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use axum::http::StatusCode;
use natter_shared::event::Event;
use serde_json::{Value, json};

use super::fake::{FakeSite, Routes};
use crate::testing::API_KEY;

const JSON: (&str, &str) = ("content-type", "application/json");
const MESSAGES: &str = "/api/v1/groups/lobby/messages";

fn bearer(routes: &Routes) -> String {
    format!("Bearer {}", routes.site.token("alice"))
}

async fn document() -> Value {
    let answer = Routes::new().get("/api/openapi.json", &[]).await;
    assert_eq!(answer.status, StatusCode::OK);
    answer.json()
}

/// Each call of the document: method, path, what it says.
fn calls(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &Value)| {
        let path = path.clone();
        let operations = item.as_object().unwrap().clone().into_iter();
        operations.map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation)).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

#[tokio::test]
async fn every_call_is_documented_with_its_problems_and_how_to_sign_in() {
    let document = document().await;
    let calls = calls(&document);
    assert!(calls.len() > 35, "{}", calls.len());
    let mut ids = BTreeSet::new();
    for (method, path, operation) in &calls {
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
        assert!(operation["security"].is_array(), "{method} {path}");
        for status in ["400", "401", "404", "429", "503"] {
            let content = &operation["responses"][status]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(content, "#/components/schemas/Problem", "{method} {path} {status}");
        }
        assert!(operation["summary"].is_string() || operation["description"].is_string(), "{method} {path}");
    }
    for scheme in ["token", "session", "api_key"] {
        assert!(document["components"]["securitySchemes"][scheme].is_object(), "{scheme}");
    }
    // What is routed by hand, beside what describes itself.
    let documented: BTreeSet<_> = calls.into_iter().map(|(_, path, _)| path).collect();
    let own = include_str!("../mod.rs");
    for route in own.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next()).filter(|path| path.starts_with("/api/")) {
        assert!(documented.contains(route), "{route} is not in the document");
    }
}

#[tokio::test]
async fn every_documented_call_is_there_and_takes_nobody() {
    let document = document().await;
    let routes = Routes::new();
    for (method, path, operation) in calls(&document) {
        if operation["tags"][0] == "session" || operation["tags"][0] == "openapi" {
            continue;
        }
        let answer = routes.send(&method, &path.replace("{group}", "lobby").replace("{user}", "bob"), &[JSON], "{}").await;
        assert_eq!(answer.problem(), (401, "unauthorized".to_owned()), "{method} {path}");
        let other = if path.starts_with("/api/v1/server/") { bearer(&routes) } else { format!("Bearer {API_KEY}") };
        let headers = [JSON, ("authorization", other.as_str())];
        let answer = routes.send(&method, &path.replace("{group}", "lobby").replace("{user}", "bob"), &headers, "{}").await;
        assert_eq!(answer.problem(), (401, "unauthorized".to_owned()), "{method} {path}");
    }
}

#[tokio::test]
async fn a_cookie_takes_an_origin_and_a_csrf_token() {
    let routes = Routes::new();
    let (session, csrf) = (routes.site.session("alice"), routes.site.csrf("alice"));
    let cookie = format!("{session}; csrftoken={csrf}");
    let (cookie, echo) = (("cookie", cookie.as_str()), ("x-csrftoken", csrf.as_str()));
    let (own, listed, foreign) = (("origin", "http://natter.test"), ("origin", "https://listed.test"), ("origin", "https://evil.test"));
    let body = r#"{"body":"hello"}"#;
    let refused = async |headers: &[(&str, &str)]| routes.send("POST", MESSAGES, headers, body).await.problem();
    assert_eq!(refused(&[JSON, cookie, own]).await, (403, "csrf".to_owned()));
    assert_eq!(refused(&[JSON, cookie, echo]).await, (403, "origin".to_owned()));
    assert_eq!(refused(&[JSON, cookie, echo, foreign]).await, (403, "origin".to_owned()));
    assert!(routes.site.broker.published.lock().is_empty());
    for origin in [own, listed] {
        let answer = routes.send("POST", MESSAGES, &[JSON, cookie, echo, origin], body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    }
    // Reading takes neither.
    assert_eq!(routes.get("/api/v1/me", &[cookie]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_message_is_stored_for_members_only() {
    let routes = Routes::new();
    let token = bearer(&routes);
    let headers = [JSON, ("authorization", token.as_str())];
    let body = json!({"body": "hello", "data": {"x": [1]}, "unknown": true}).to_string();
    let answer = routes.send("POST", MESSAGES, &headers, &body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    assert_eq!(answer.json()["position"], "1.1");
    let published = routes.site.broker.published.lock().clone();
    let Some((_, Event::Message(message))) = published.first() else { panic!("{published:?}") };
    assert_eq!((message.sender.as_str(), message.body.as_str(), message.origin), ("alice", "hello", None));
    assert_eq!(message.data.as_ref().unwrap().get(), r#"{"x":[1]}"#);
    let other = routes.send("POST", "/api/v1/groups/other/messages", &headers, &body).await;
    assert_eq!(other.problem(), (404, "not_found".to_owned()));
    routes.site.broker.away.store(true, Ordering::Relaxed);
    let away = routes.send("POST", MESSAGES, &headers, &body).await;
    assert_eq!(away.problem(), (503, "unavailable".to_owned()));
    assert!(away.json()["retryable"] == true && !away.header("retry-after").is_empty());
}

#[tokio::test]
async fn what_does_not_fit_is_a_problem() {
    let routes = Routes::new();
    let token = bearer(&routes);
    let signed = ("authorization", token.as_str());
    let bad_request = (400, "bad_request".to_owned());
    for path in [
        "/api/v1/groups/Not%20a%20name",
        "/api/v1/groups/%FF/members",
        "/api/v1/groups?limit=0",
        "/api/v1/groups?limit=201",
        "/api/v1/groups?limit=x",
        "/api/v1/groups?cursor=x",
        "/api/v1/users?prefix=a&handle=b",
        "/api/v1/users?prefix=%00",
        "/api/v1/users/%00",
        "/api/v1/notifications?unseen=perhaps",
        "/api/v1/groups/lobby/messages?before=1",
        "/api/v1/groups/lobby/messages?before=1.1&after=1.1",
    ] {
        assert_eq!(routes.get(path, &[signed]).await.problem(), bad_request, "{path}");
    }
    for body in ["", "{", "[]", "{}", r#"{"body":7}"#, r#"{"body":"\u0000"}"#, r#"{"body":"x","reply_to":"x"}"#] {
        assert_eq!(routes.send("POST", MESSAGES, &[JSON, signed], body).await.problem(), bad_request, "{body}");
    }
    for body in [json!({}), json!({"ids": [], "upto": "1.1"}), json!({"ids": ["x"]}), json!({"upto": "x"})] {
        let answer = routes.send("POST", "/api/v1/notifications/seen", &[JSON, signed], &body.to_string()).await;
        assert_eq!(answer.problem(), bad_request, "{body}");
    }
    for key in ["", "a b", &"x".repeat(256), "\u{e4}"] {
        let headers = [JSON, signed, ("idempotency-key", key)];
        assert_eq!(routes.send("POST", MESSAGES, &headers, r#"{"body":"x"}"#).await.problem(), bad_request, "{key}");
    }
    let text = routes.send("POST", MESSAGES, &[("content-type", "text/plain"), signed], "x").await;
    assert_eq!(text.problem(), (415, "unsupported_media_type".to_owned()));
    let mut body = json!({"body": "\"".repeat(32 * 1024 - 16)}).to_string();
    assert_eq!(routes.send("POST", MESSAGES, &[JSON, signed], &body).await.status, StatusCode::CREATED, "every character escaped");
    body = json!({"body": "x".repeat(32 * 1024 + 1)}).to_string();
    assert_eq!(routes.send("POST", MESSAGES, &[JSON, signed], &body).await.problem(), (413, "too_large".to_owned()));
    let ids = vec!["019ab6b2-5b20-8c4d-a1b2-c3d4e5f6a7b8"; 1001];
    let many = routes.send("POST", "/api/v1/notifications/seen", &[JSON, signed], &json!({"ids": ids}).to_string()).await;
    assert_eq!(many.problem(), (413, "too_large".to_owned()));
    assert_eq!(routes.get("/api/v1/nothing", &[signed]).await.problem(), (404, "not_found".to_owned()));
    assert_eq!(routes.send("DELETE", "/api/v1/me", &[signed], "").await.problem(), (405, "method_not_allowed".to_owned()));
}

#[tokio::test]
async fn listed_origins_may_read_and_others_not() {
    let routes = Routes::new();
    let preflight = async |path: &str, origin: &str| {
        let headers = [("origin", origin), ("access-control-request-method", "PUT"), ("access-control-request-headers", "x-csrftoken")];
        routes.send("OPTIONS", path, &headers, "").await
    };
    for path in [MESSAGES, "/api/v1/me", "/assets/icon.svg"] {
        let answer = preflight(path, "https://listed.test").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("access-control-allow-origin"), "https://listed.test");
        assert_eq!(answer.header("access-control-allow-credentials"), "true");
        assert!(answer.header("access-control-allow-headers").contains("idempotency-key"));
        for foreign in ["https://evil.test", "https://listed.test.evil.test", "http://listed.test", "null"] {
            assert_eq!(preflight(path, foreign).await.header("access-control-allow-origin"), "", "{foreign}");
        }
    }
    let token = bearer(&routes);
    let answer = routes.get("/api/v1/me", &[("authorization", &token), ("origin", "https://listed.test")]).await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://listed.test");
    assert!(answer.header("access-control-expose-headers").contains("retry-after"));
    assert!(answer.head.headers().get_all("vary").iter().any(|vary| vary.to_str().unwrap().contains("origin")));
}

#[tokio::test(start_paused = true)]
async fn listed_origins_may_read_that_a_gateway_is_closing_or_too_slow() {
    let origin = ("origin", "https://listed.test");
    let site = FakeSite::new(|_, _| ());
    site.app.closing.cancel();
    let routes = Routes::over(site);
    let token = bearer(&routes);
    let answer = routes.send("POST", MESSAGES, &[JSON, ("authorization", &token), origin], "{}").await;
    assert_eq!(answer.problem(), (503, "draining".to_owned()));
    assert_eq!(answer.header("access-control-allow-origin"), "https://listed.test");
    let preflight = routes.send("OPTIONS", MESSAGES, &[origin, ("access-control-request-method", "POST")], "").await;
    assert_eq!(preflight.status, StatusCode::OK);
    for path in ["/api/v1/nothing", "/chat/lobby/"] {
        assert_eq!(routes.send("POST", path, &[], "").await.problem(), (503, "draining".to_owned()), "{path}");
    }

    let site = FakeSite::new(|_, _| ());
    site.broker.holds_joins.store(true, Ordering::Relaxed);
    let routes = Routes::over(site);
    let token = bearer(&routes);
    let answer = routes.send("POST", "/api/v1/groups/open", &[JSON, ("authorization", &token), origin], "{\"name\":\"lobby\"}").await;
    assert_eq!(answer.problem().1, "timeout");
    assert_eq!(answer.header("access-control-allow-origin"), "https://listed.test");
}

#[tokio::test]
async fn callers_are_held_to_their_rate() {
    let limit = |limits: &mut natter_shared::config::Limits| (limits.http_requests_per_second, limits.http_requests_burst) = (1, 3);
    let routes = Routes::over(FakeSite::limited(|_, _| (), limit));
    let alice = bearer(&routes);
    for _ in 0..3 {
        assert_eq!(routes.get("/api/v1/me", &[("authorization", &alice)]).await.status, StatusCode::OK);
    }
    let answer = routes.get("/api/v1/me", &[("authorization", &alice)]).await;
    assert_eq!(answer.problem(), (429, "rate_limited".to_owned()));
    assert!(answer.json()["retryable"] == true && !answer.header("retry-after").is_empty());
    let bob = format!("Bearer {}", routes.site.token("bob"));
    assert_eq!(routes.get("/api/v1/me", &[("authorization", &bob)]).await.status, StatusCode::OK, "others are not held up");
}

#[tokio::test]
async fn notifications_to_groups_are_held_to_their_rate() {
    let routes = Routes::over(FakeSite::limited(|_, _| (), |limits| limits.group_notifications_per_minute = 2));
    let (alice, key) = (bearer(&routes), format!("Bearer {API_KEY}"));
    let notify = async |path: &str, by: &str, to: &str| {
        routes.send("POST", path, &[JSON, ("authorization", by)], &format!("{{\"to\":{to},\"body\":\"x\"}}")).await
    };
    let (lobby, bob) = ("{\"group\":\"lobby\"}", "{\"user\":\"bob\"}");
    for _ in 0..2 {
        assert_eq!(notify("/api/v1/notifications", &alice, lobby).await.status, StatusCode::CREATED);
    }
    let answer = notify("/api/v1/notifications", &alice, lobby).await;
    assert_eq!(answer.problem(), (429, "rate_limited".to_owned()));
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    assert!((20..=30).contains(&wait), "{wait}");
    assert_eq!(notify("/api/v1/notifications", &alice, bob).await.status, StatusCode::CREATED, "to a user");
    assert_eq!(notify("/api/v1/server/notifications", &key, lobby).await.status, StatusCode::CREATED, "the back end's");
}

#[tokio::test]
async fn pages_and_sessions_take_of_the_same_rate() {
    let limit = |limits: &mut natter_shared::config::Limits| (limits.http_requests_per_second, limits.http_requests_burst) = (1, 1);
    let requests = [
        ("GET", "/chat/lobby/", ""),
        ("POST", "/chat/lobby/", "type=Clean_Seen"),
        ("GET", "/api/v1/session", ""),
        ("POST", "/api/v1/session", ""),
    ];
    for (method, path, body) in requests {
        let routes = Routes::over(FakeSite::limited(|_, _| (), limit));
        let alice = bearer(&routes);
        let headers = [("authorization", alice.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        assert_eq!(routes.get("/api/v1/me", &headers).await.status, StatusCode::OK);
        let answer = routes.send(method, path, &headers, body).await;
        assert_eq!(answer.problem(), (429, "rate_limited".to_owned()), "{method} {path}");
        assert!(!answer.header("retry-after").is_empty());
    }
}

#[tokio::test]
async fn api_keys_are_held_to_their_rate() {
    let limit = |limits: &mut natter_shared::config::Limits| (limits.server_requests_per_second, limits.server_requests_burst) = (1, 3);
    let routes = Routes::over(FakeSite::limited(|_, _| (), limit));
    let key = format!("Bearer {API_KEY}");
    for _ in 0..3 {
        assert_eq!(routes.get("/api/v1/server/users/bob", &[("authorization", &key)]).await.status, StatusCode::OK);
    }
    let answer = routes.get("/api/v1/server/users/bob", &[("authorization", &key)]).await;
    assert_eq!(answer.problem(), (429, "rate_limited".to_owned()));
    assert!(!answer.header("retry-after").is_empty());
}

/// Else each of them would count all members of a large group.
#[tokio::test]
async fn posting_in_somebodys_name_asks_no_more_of_a_group_than_whether_it_is_there() {
    let routes = Routes::new();
    let key = format!("Bearer {API_KEY}");
    for (group, status) in [("lobby", StatusCode::CREATED), ("elsewhere", StatusCode::NOT_FOUND)] {
        let headers = [JSON, ("authorization", key.as_str())];
        let path = format!("/api/v1/server/groups/{group}/messages");
        let answer = routes.send("POST", &path, &headers, r#"{"sender":"bob","body":"hello"}"#).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        let told = format!(r#"{{"to":{{"group":"{group}"}},"body":"hello"}}"#);
        let answer = routes.send("POST", "/api/v1/server/notifications", &headers, &told).await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
}

#[tokio::test]
async fn a_list_of_users_goes_on_behind_a_page_of_nobody() {
    let routes = Routes::new();
    let token = bearer(&routes);
    for (prefix, wanted) in [("b", vec!["bob", "carol"]), ("old", vec!["older", "oldest"])] {
        let (mut listed, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = routes.get(&format!("/api/v1/users?prefix={prefix}{cursor}"), &[("authorization", &token)]).await.json();
            listed.extend(page["users"].as_array().unwrap().iter().map(|user| user["handle"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(listed, wanted);
    }
}

#[tokio::test]
async fn an_api_key_is_asked_for_once_and_wrong_ones_are() {
    let routes = Routes::new();
    let key = format!("Bearer {API_KEY}");
    for _ in 0..5 {
        let answer = routes.get("/api/v1/server/users/bob", &[("authorization", &key)]).await;
        assert_eq!((answer.status, &answer.json()["id"]), (StatusCode::OK, &json!("bob")));
    }
    assert_eq!(routes.site.broker.key_checks.load(Ordering::Relaxed), 1);
    for wrong in ["Bearer ntr_bad", "Bearer good", "ntr_good", "Basic ntr_good", "Bearer "] {
        let answer = routes.get("/api/v1/server/users/bob", &[("authorization", wrong)]).await;
        assert_eq!(answer.problem(), (401, "unauthorized".to_owned()), "{wrong}");
    }
    assert_eq!(routes.site.broker.key_checks.load(Ordering::Relaxed), 2, "what is no key is not asked for");
}

#[tokio::test]
async fn a_post_to_a_shard_that_is_behind_is_busy_and_says_when_to_come_back() {
    let routes = Routes::new();
    for shard in 0..4 {
        routes.site.app.intake.set(shard, false);
    }
    let token = bearer(&routes);
    let headers = [JSON, ("authorization", token.as_str())];
    let answer = routes.send("POST", MESSAGES, &headers, r#"{"body":"hello"}"#).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("busy")), "{}", answer.body);
    assert_eq!(answer.json()["retryable"], true);
    assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|after| (3..=6).contains(&after)), "{:?}", answer.head);
    assert!(routes.site.broker.published.lock().is_empty());
}
