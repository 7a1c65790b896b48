//! `POST /chat/<room>/`.

use axum::http::StatusCode;
use natter_shared::{
    event::{Event, SeenWhat},
    id::{Nonce, UserId, single_group},
    position::{Epoch, Position},
    subject::Topic,
};

use super::fake::{Answered, MALLORY, Routes};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded; charset=UTF-8");
const PATH: &str = "/chat/lobby/";

struct Page {
    routes: Routes,
    cookie: String,
    csrf: String,
}

impl Page {
    fn of(name: &str) -> Self {
        let routes = Routes::new();
        let csrf = routes.site.csrf(name);
        let cookie = format!("{}; csrftoken={csrf}", routes.site.session(name));
        Self { routes, cookie, csrf }
    }

    async fn post(&self, body: &str) -> Answered {
        self.routes.send("POST", PATH, &[FORM, ("cookie", &self.cookie), ("x-csrftoken", &self.csrf)], body).await
    }

    /// The form with a field that is valid in itself, under these headers.
    async fn post_with(&self, headers: &[(&str, &str)], field: Option<&str>) -> Answered {
        let field = field.map_or_else(String::new, |token| format!("&csrfmiddlewaretoken={token}"));
        let headers: Vec<_> = std::iter::once(FORM).chain(headers.iter().copied()).collect();
        self.routes.send("POST", PATH, &headers, &format!("type=Clean_Seen{field}")).await
    }
}

#[tokio::test]
async fn clean_seen_marks_ones_own_and_waits_until_it_shows() {
    let page = Page::of("alice");
    let (one, other) = (Nonce::now().uuid(), Nonce::now().uuid());
    let answer = page.post(&format!("type=Clean_Seen&seen_id%5B%5D={one}&seen_id[]={other}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let published = page.routes.site.broker.published.lock();
    let [(topic, Event::Seen(seen))] = published.as_slice() else { panic!("{published:?}") };
    let alice = UserId::new("alice").unwrap();
    assert_eq!(*topic, Topic::User(alice.key()));
    assert_eq!((&seen.user, seen.read), (&alice, true));
    let SeenWhat::Ids(ids) = &seen.what else { panic!("{seen:?}") };
    assert_eq!(ids.iter().map(|id| id.0).collect::<Vec<_>>(), [one, other]);
    assert_eq!(*page.routes.site.broker.awaited.lock(), [Position::new(Epoch(1), 1)]);
}

#[tokio::test]
async fn clean_seen_of_nothing_is_fine_and_of_nonsense_is_not() {
    let page = Page::of("alice");
    assert_eq!(page.post("type=Clean_Seen").await.status, StatusCode::OK);
    assert_eq!(page.post("type=Clean_Seen&seen_id[]=7").await.problem(), (400, "bad_request".to_owned()));
    assert!(page.routes.site.broker.published.lock().is_empty());
}

#[tokio::test]
async fn a_single_group_is_answered_as_the_original_does() {
    let page = Page::of("alice");
    let answer = page.post("type=Create_Group_Single&user=bob").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let group = single_group(&UserId::new("alice").unwrap(), &UserId::new("bob").unwrap());
    assert_eq!(answer.json(), serde_json::json!({"id": group, "display_name": "alice_with_bob"}));
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");

    let hostile = page.post("type=Create_Group_Single&user=m%22%3E%3Cscript%3Ex%3C%2Fscript%3E").await;
    assert!(!hostile.body.contains('<') && hostile.body.contains("\\u003cscript"), "{}", hostile.body);
    assert_eq!(hostile.json()["display_name"], format!("alice_with_{MALLORY}"));
}

#[tokio::test]
async fn mistakes_in_forms_are_told() {
    let page = Page::of("alice");
    for (body, expected) in [
        ("", (400, "bad_request")),
        ("type=Dance", (400, "bad_request")),
        ("type=clean_seen", (400, "bad_request")),
        ("type=Create_Group_Single", (400, "bad_request")),
        ("type=Create_Group_Single&user=", (400, "bad_request")),
        ("type=Create_Group_Single&user=a%00b", (400, "bad_request")),
        ("type=Create_Group_Single&user=alice", (400, "bad_request")),
        ("type=Create_Group_Single&user=nobody", (404, "not_found")),
    ] {
        assert_eq!(page.post(body).await.problem(), (expected.0, expected.1.to_owned()), "{body}");
    }
    let json = [("content-type", "application/json"), ("cookie", page.cookie.as_str()), ("x-csrftoken", page.csrf.as_str())];
    assert_eq!(page.routes.send("POST", PATH, &json, "{}").await.problem(), (415, "unsupported_media_type".to_owned()));
    let huge = format!("type=Clean_Seen&x={}", "x".repeat(100_000));
    assert_eq!(page.post(&huge).await.problem(), (413, "too_large".to_owned()));
}

#[tokio::test]
async fn anonymous_forms_are_refused() {
    let page = Page::of("alice");
    let expired = page.routes.site.expired_session("alice");
    for headers in [
        &[][..],
        &[("cookie", expired.as_str())],
        &[("cookie", "csrftoken=x")],
        &[("authorization", "Bearer x"), ("cookie", page.cookie.as_str())],
    ] {
        let answer = page.post_with(headers, None).await;
        assert_eq!(answer.problem(), (401, "unauthorized".to_owned()), "{headers:?}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
}

#[tokio::test]
async fn csrf_matrix() {
    let page = Page::of("alice");
    let site = &page.routes.site;
    let (cookie, good) = (page.cookie.as_str(), page.csrf.as_str());
    let (another, bobs) = (site.csrf("alice"), site.csrf("bob"));
    let session = cookie.split(';').next().unwrap();
    let (planted, forged) = (format!("{session}; csrftoken={bobs}"), format!("{session}; csrftoken=x"));
    let bearer = format!("Bearer {}", site.token("alice"));
    let (ok, csrf, origin) = (None, Some("csrf"), Some("origin"));
    for (what, headers, field, refused) in [
        ("header", &[("cookie", cookie), ("x-csrftoken", good)][..], None, ok),
        ("field", &[("cookie", cookie)], Some(good), ok),
        ("nothing", &[("cookie", cookie)], None, csrf),
        ("empty", &[("cookie", cookie)], Some(""), csrf),
        ("another one of ours", &[("cookie", cookie)], Some(another.as_str()), csrf),
        ("no cookie", &[("cookie", session), ("x-csrftoken", good)], None, csrf),
        ("another user's, planted", &[("cookie", planted.as_str())], Some(bobs.as_str()), csrf),
        ("not ours, planted", &[("cookie", forged.as_str())], Some("x"), csrf),
        ("bearer needs none", &[("authorization", bearer.as_str())], None, ok),
        ("own origin", &[("cookie", cookie), ("origin", "http://natter.test")], Some(good), ok),
        ("listed origin", &[("cookie", cookie), ("origin", "https://listed.test")], Some(good), ok),
        ("foreign origin", &[("cookie", cookie), ("origin", "https://evil.test")], Some(good), origin),
        ("no origin at all", &[("cookie", cookie), ("origin", "null")], Some(good), origin),
    ] {
        let answer = page.post_with(headers, field).await;
        match refused {
            None => assert_eq!(answer.status, StatusCode::OK, "{what}: {}", answer.body),
            Some(code) => assert_eq!(answer.problem(), (403, code.to_owned()), "{what}"),
        }
    }
}
