//! Signing in and out, and what is there without it.

use std::sync::atomic::Ordering;

use axum::http::StatusCode;

use super::fake::{FakeSite, Routes};

const JSON: (&str, &str) = ("content-type", "application/json");
const LOGIN: &str = "/api/v1/dev/login";

#[tokio::test]
async fn dev_login_gives_a_token_and_both_cookies() {
    let routes = Routes::new();
    let answer = routes.send("POST", LOGIN, &[JSON], r#"{"name":"alice"}"#).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let body = answer.json();
    assert_eq!(body["user"]["id"], "alice");
    assert_eq!(body["user"]["handle"], "alice");
    assert!(body["expires_at"].as_str().unwrap().ends_with('Z'));
    let session = answer.set_cookie("natter_session").unwrap();
    assert!(
        session.contains("; HttpOnly") && session.contains("; SameSite=Lax") && session.contains("; Path=/") && !session.contains("Secure")
    );
    assert!(!session.contains(body["token"].as_str().unwrap()), "the cookie is no bearer token");
    let csrf = answer.set_cookie("csrftoken").unwrap();
    assert!(!csrf.contains("HttpOnly") && csrf.contains("; SameSite=Lax"));
    assert_eq!(answer.header("cache-control"), "no-store");

    let cookie = session.split(';').next().unwrap();
    assert_eq!(routes.get("/", &[("cookie", cookie)]).await.header("location"), "/chat/lobby/");
    let bearer = format!("Bearer {}", body["token"].as_str().unwrap());
    assert_eq!(routes.get("/", &[("authorization", &bearer)]).await.header("location"), "/chat/lobby/");
}

#[tokio::test]
async fn cookies_are_secure_behind_https() {
    let routes = Routes::over(FakeSite::new(|http, _| http.public_url = Some("https://chat.test".to_owned())));
    let answer = routes.send("POST", LOGIN, &[JSON, ("origin", "https://chat.test")], r#"{"name":"alice"}"#).await;
    assert!(answer.set_cookie("natter_session").unwrap().contains("; Secure"));
    assert!(answer.set_cookie("csrftoken").unwrap().contains("; Secure"));
}

#[tokio::test]
async fn dev_login_refuses_what_it_must() {
    let routes = Routes::new();
    let name = |name: &str| serde_json::json!({"name": name}).to_string();
    for bad in ["", " ", " a", "a\nb", &"x".repeat(65)] {
        assert_eq!(routes.send("POST", LOGIN, &[JSON], &name(bad)).await.problem(), (400, "bad_request".to_owned()), "{bad:?}");
    }
    for bad in ["", "{", "[]", "{}", r#"{"name":7}"#] {
        assert_eq!(routes.send("POST", LOGIN, &[JSON], bad).await.problem(), (400, "bad_request".to_owned()), "{bad}");
    }
    let form = ("content-type", "text/plain");
    assert_eq!(routes.send("POST", LOGIN, &[form], &name("alice")).await.problem(), (415, "unsupported_media_type".to_owned()));
    let foreign = ("origin", "https://evil.test");
    assert_eq!(routes.send("POST", LOGIN, &[JSON, foreign], &name("alice")).await.problem(), (403, "origin".to_owned()));
    let huge = name(&"x".repeat(100_000));
    assert_eq!(routes.send("POST", LOGIN, &[JSON], &huge).await.problem(), (413, "too_large".to_owned()));
    assert_eq!(routes.get(LOGIN, &[]).await.problem(), (405, "method_not_allowed".to_owned()));

    routes.site.broker.away.store(true, Ordering::Relaxed);
    let answer = routes.send("POST", LOGIN, &[JSON], &name("alice")).await;
    assert_eq!(answer.problem(), (503, "unavailable".to_owned()));
    assert!(answer.json()["retryable"].as_bool().unwrap() && !answer.header("retry-after").is_empty());
    assert_eq!(answer.set_cookie("natter_session"), None);
}

#[tokio::test]
async fn dev_login_is_not_there_when_switched_off() {
    let routes = Routes::over(FakeSite::new(|_, auth| auth.dev_login = false));
    assert_eq!(routes.send("POST", LOGIN, &[JSON], r#"{"name":"alice"}"#).await.problem(), (404, "not_found".to_owned()));
    let page = routes.get("/sign-in", &[]).await;
    assert!(!page.body.contains("sign-in-form") && page.body.contains("Bearer"));
}

#[tokio::test]
async fn dev_login_goes_through_no_proxy_that_the_config_does_not_know_of() {
    let routes = Routes::new();
    for forwarded in [("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=192.0.2.7"), ("via", "1.1 proxy"), ("x-real-ip", "192.0.2.7")] {
        assert_eq!(routes.send("POST", LOGIN, &[JSON, forwarded], r#"{"name":"alice"}"#).await.problem(), (403, "forbidden".to_owned()));
        assert!(!routes.get("/sign-in", &[forwarded]).await.body.contains("sign-in-form"), "{forwarded:?}");
    }
    assert!(routes.get("/sign-in", &[]).await.body.contains("sign-in-form"));
    let wanted = Routes::over(FakeSite::new(|http, _| http.public_url = Some("https://chat.test".to_owned())));
    let headers = [JSON, ("origin", "https://chat.test"), ("x-forwarded-for", "192.0.2.7")];
    assert_eq!(wanted.send("POST", LOGIN, &headers, r#"{"name":"alice"}"#).await.status, StatusCode::OK);
}

#[tokio::test]
async fn dev_login_is_not_for_a_page_whose_name_was_made_to_lead_here() {
    let own = [JSON, ("origin", "http://natter.test")];
    let rebound = Routes::new().send("POST", LOGIN, &own, r#"{"name":"alice"}"#).await;
    assert_eq!((rebound.problem(), rebound.set_cookie("natter_session")), ((403, "forbidden".to_owned()), None));
    let named = Routes::over(FakeSite::new(|http, _| http.public_url = Some("http://natter.test".to_owned())));
    assert_eq!(named.send("POST", LOGIN, &own, r#"{"name":"alice"}"#).await.status, StatusCode::OK);
    let other = Routes::over(FakeSite::new(|http, _| http.public_url = Some("http://chat.test".to_owned())));
    assert_eq!(other.send("POST", LOGIN, &own, r#"{"name":"alice"}"#).await.problem(), (403, "forbidden".to_owned()));
}

#[tokio::test]
async fn the_sign_in_page_has_no_inline_script_and_goes_on_within_this_host() {
    let routes = Routes::new();
    assert_eq!(routes.get("/", &[]).await.header("location"), "/sign-in");
    let page = routes.get("/sign-in?next=%2Fchat%2Fother%2F", &[]).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.body.contains(r#"data-next="/chat/other/""#), "{}", page.body);
    assert!(page.header("content-security-policy").contains("script-src 'self'"));
    assert!(!page.body.contains("<script>") && !page.body.contains("onclick"));
    let (buttons, waiting) = (page.body.matches(r#"type="submit""#).count(), page.body.matches(r#"type="submit" disabled"#).count());
    assert_eq!((buttons, waiting), (2, 2), "until the script is there: a browser that submits them puts the token into the URL");
    assert!(page.set_cookie("csrftoken").is_some());
    for foreign in ["%2F%2Fevil.test", "https%3A%2F%2Fevil.test", "%22%3E%3Cscript%3E"] {
        let page = routes.get(&format!("/sign-in?next={foreign}"), &[]).await;
        assert!(page.body.contains(r#"data-next="/chat/lobby/""#), "{foreign}");
    }
}

#[tokio::test]
async fn health_assets_and_unknown_paths() {
    let routes = Routes::new();
    assert_eq!(routes.get("/healthz", &[]).await.status, StatusCode::OK);
    let ready = routes.get("/readyz", &[]).await;
    assert_eq!((ready.status, &ready.json()["missing"][0]), (StatusCode::SERVICE_UNAVAILABLE, &"broker".into()));
    assert!(routes.get("/metrics", &[]).await.body.ends_with("# EOF\n"));
    for (name, kind) in
        [("natter.js", "text/javascript"), ("page/start.js", "text/javascript"), ("natter.css", "text/css"), ("icon.svg", "image/svg+xml")]
    {
        let path = format!("/assets/{name}");
        let asset = routes.get(&path, &[]).await;
        assert!(asset.header("content-type").starts_with(kind) && asset.header("x-content-type-options") == "nosniff");
        let again = routes.get(&path, &[("if-none-match", asset.header("etag"))]).await;
        assert_eq!((again.status, again.body.as_str()), (StatusCode::NOT_MODIFIED, ""));
    }
    for folder in ["", "page/"] {
        for file in std::fs::read_dir(format!("{}/assets/{folder}", env!("CARGO_MANIFEST_DIR"))).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            if name.rsplit_once('.').is_some_and(|(_, kind)| kind == "js") {
                let status = routes.get(&format!("/assets/{folder}{name}"), &[]).await.status;
                assert_eq!(status, StatusCode::OK, "{folder}{name}, which others import");
            }
        }
    }
    for path in ["/assets/..%2Fchat.html", "/assets/x", "/nothing", "/chat", "/chat/"] {
        assert_eq!(routes.get(path, &[]).await.problem(), (404, "not_found".to_owned()), "{path}");
    }
}
