//! `http.pages_dir`: the team's page on the chat room's routes.

use std::fs;

use axum::http::StatusCode;
use natter_shared::{
    event::InboxCounts,
    id::{RoomName, open_group},
    rpc::{ChatPageData, GroupOverview},
};
use tempfile::TempDir;

use super::fake::{FakeSite, MALLORY, Routes};
use crate::testing::{membership, profile};

const CHAT: &str = "{% load static %}<script src=\"{% static 'room.js' %}\"></script>
{{ room_name|json_script:\"room-name\" }}{{ user.username }}
{% for g in groups %}<li id=\"room_{{ g.id }}\">{{ g.display_name }}</li>{% endfor %}
{% for u in users %}<li id=\"user_{{ u.id }}\">{{ u.username }}</li>{% endfor %}
<form>{% csrf_token %}</form><script>var inline = 1;</script>";

fn site(sign_in: bool) -> (TempDir, Routes) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("static/css")).unwrap();
    fs::write(folder.path().join("chat.html"), CHAT).unwrap();
    if sign_in {
        fs::write(folder.path().join("sign_in.html"), "ours, then {{ next }}").unwrap();
    }
    fs::write(folder.path().join("static/room.js"), "1;").unwrap();
    fs::write(folder.path().join("static/css/a b.css"), "a {}").unwrap();
    let path = folder.path().to_owned();
    let site = FakeSite::new(|http, _| {
        http.pages_dir = Some(path);
        http.pages_csp = "script-src 'self' https://cdn.test".to_owned();
    });
    (folder, Routes::over(site))
}

#[tokio::test]
async fn the_team_s_page_is_served_with_its_own_policy() {
    let (_folder, routes) = site(false);
    let lobby = open_group(&RoomName::room("lobby").unwrap());
    *routes.site.broker.page.lock() = Some(ChatPageData {
        profile: profile("alice"),
        groups: vec![GroupOverview { membership: membership(lobby, "lobby"), last_message: None, other: None }],
        more_groups: false,
        users: vec![profile(MALLORY)],
        notifications: Vec::new(),
        inbox: InboxCounts::default(),
    });
    let cookie = routes.site.session("alice");
    let page = routes.get("/chat/%3C%2Fscript%3E/", &[("cookie", &cookie)]).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.body);
    for part in [
        r#"<script src="/static/room.js">"#.to_owned(),
        r#"<script id="room-name" type="application/json">"\u003C/script\u003E"</script>alice"#.to_owned(),
        format!(r#"<li id="room_{lobby}">lobby</li>"#),
        r#"<li id="user_m&quot;&gt;&lt;script&gt;"#.to_owned(),
    ] {
        assert!(page.body.contains(&part), "{part} is not in {}", page.body);
    }
    let csrf = page.set_cookie("csrftoken").unwrap();
    let csrf = csrf.split([';', '=']).nth(1).unwrap();
    assert!(page.body.contains(&format!(r#"<input type="hidden" name="csrfmiddlewaretoken" value="{csrf}">"#)));
    assert_eq!(page.header("content-security-policy"), "script-src 'self' https://cdn.test");
    assert_eq!(page.header("cache-control"), "no-store");
    assert_eq!(routes.get("/chat/lobby/", &[]).await.status, StatusCode::SEE_OTHER, "anonymous");
    let sign_in = routes.get("/sign-in", &[]).await;
    assert!(sign_in.header("content-security-policy").contains("default-src 'none'"), "the built-in page keeps its own");
}

#[tokio::test]
async fn its_static_files_and_no_others() {
    let (_folder, routes) = site(false);
    let file = routes.get("/static/room.js", &[]).await;
    assert_eq!((file.status, file.body.as_str()), (StatusCode::OK, "1;"));
    assert_eq!(file.header("content-type"), "text/javascript; charset=utf-8");
    assert_eq!(file.header("x-content-type-options"), "nosniff");
    let again = routes.get("/static/room.js", &[("if-none-match", file.header("etag"))]).await;
    assert_eq!((again.status, again.body.as_str()), (StatusCode::NOT_MODIFIED, ""));
    assert_eq!(routes.get("/static/css/a%20b.css", &[]).await.header("content-type"), "text/css; charset=utf-8");
    for path in [
        "/static/",
        "/static/none.js",
        "/static/css",
        "/static/../chat.html",
        "/static/%2e%2e/chat.html",
        "/static/..%2fchat.html",
        "/static/%2Fetc%2Fpasswd",
        "/static//etc/passwd",
        "/static/room.js%00",
        "/static/css/..%5C..%5Cchat.html",
    ] {
        assert_eq!(routes.get(path, &[]).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(routes.get("/static/%FF", &[]).await.status, StatusCode::BAD_REQUEST, "not UTF-8");
    assert_eq!(Routes::new().get("/static/room.js", &[]).await.status, StatusCode::NOT_FOUND, "without pages_dir");
}

#[tokio::test]
async fn its_own_sign_in_page_where_it_has_one() {
    let (_folder, routes) = site(true);
    let page = routes.get("/sign-in?next=/chat/x/", &[]).await;
    assert_eq!(page.body, "ours, then /chat/x/");
    assert_eq!(page.header("content-security-policy"), "script-src 'self' https://cdn.test");
    assert!(page.set_cookie("csrftoken").is_some());
}
