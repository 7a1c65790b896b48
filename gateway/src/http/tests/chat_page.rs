//! `GET /chat/<room>/`.

use std::sync::atomic::Ordering;

use axum::http::StatusCode;
use natter_shared::{
    event::InboxCounts,
    id::{GroupId, Nonce, NotificationId, RoomName, open_group},
    rpc::{ChatPageData, GroupOverview, InboxEntry},
    timestamp::Timestamp,
};
use uuid::Uuid;

use super::fake::{FakeSite, MALLORY, Routes};
use crate::testing::{membership, profile};

fn cookie(routes: &Routes, name: &str) -> String {
    routes.site.session(name)
}

fn entry(body: &str, seen: bool) -> InboxEntry {
    let id = NotificationId(Nonce::now().uuid());
    InboxEntry {
        id,
        sender: None,
        group: None,
        body: body.to_owned(),
        position: None,
        sent_at: Timestamp(0),
        seen,
        read: seen,
        archived: false,
        data: None,
    }
}

fn overview(group: GroupId, display_name: &str) -> GroupOverview {
    GroupOverview { membership: membership(group, display_name), last_message: None, other: None }
}

#[tokio::test]
async fn the_page_has_the_elements_that_scripts_look_for() {
    let routes = Routes::new();
    let group = GroupId(Nonce::now().uuid());
    let (new, old) = (entry("new one", false), entry("old one", true));
    *routes.site.broker.page.lock() = Some(ChatPageData {
        profile: profile("alice"),
        groups: vec![overview(group, "alice_with_bob")],
        more_groups: false,
        users: vec![profile("bob")],
        notifications: vec![new.clone(), old.clone()],
        inbox: InboxCounts { unseen: 1, ..InboxCounts::default() },
    });
    let page = routes.get("/chat/lobby/", &[("cookie", &cookie(&routes, "alice"))]).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.body);
    let lobby = open_group(&RoomName::room("lobby").unwrap());
    for part in [
        format!(r#"<li id="room_{group}" class="exist_room" tabindex="0">alice_with_bob</li>"#),
        r#"<li id="user_bob" class="other_user" tabindex="0" data-display-name="The bob">bob</li>"#.to_owned(),
        format!(r#"<li id="notification_{}" class="list-group-item-primary">new one</li>"#, new.id),
        format!(r#"<li id="notification_{}" class="list-group-item">old one</li>"#, old.id),
        format!(r#"data-room="lobby" data-room-group="{lobby}" data-user-id="alice" data-handle="alice" data-display-name="The alice""#),
        r#"<span id="unseen-count">1</span>"#.to_owned(),
        r#"id="user-input""#.to_owned(),
        r#"id="chat-message-input""#.to_owned(),
        r#"id="notification-message-submit""#.to_owned(),
    ] {
        assert!(page.body.contains(&part), "{part} is not in {}", page.body);
    }
    assert!(page.body.find("new one") < page.body.find("old one"));
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("cache-control"), "no-store");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe-inline"));
    let csrf = page.set_cookie("csrftoken").unwrap();
    let csrf = csrf.split([';', '=']).nth(1).unwrap();
    assert!(page.body.contains(&format!(r#"name="csrfmiddlewaretoken" value="{csrf}""#)));

    // A token that holds is kept, so that other tabs' forms go on working.
    let both = format!("{}; csrftoken={csrf}", cookie(&routes, "alice"));
    assert!(routes.get("/chat/lobby/", &[("cookie", &both)]).await.set_cookie("csrftoken").unwrap().contains(csrf));
    // Another user's is not.
    let others = format!("{}; csrftoken={csrf}", cookie(&routes, "bob"));
    assert!(!routes.get("/chat/lobby/", &[("cookie", &others)]).await.set_cookie("csrftoken").unwrap().contains(csrf));
}

/// Whoever makes groups with somebody chooses which ids come first.
#[tokio::test]
async fn the_page_has_each_group_that_a_connection_has() {
    let routes = Routes::over(FakeSite::limited(|_, _| (), |limits| limits.groups_per_connection = 450));
    for (groups, shown) in [(200, 200), (201, 201), (401, 401), (460, 450)] {
        let group = |number| overview(GroupId(Uuid::from_u128(number)), &format!("group {number}"));
        *routes.site.broker.page.lock() = Some(ChatPageData {
            profile: profile("alice"),
            groups: (1..=groups).map(group).collect(),
            more_groups: false,
            users: Vec::new(),
            notifications: Vec::new(),
            inbox: InboxCounts::default(),
        });
        let page = routes.get("/chat/lobby/", &[("cookie", &cookie(&routes, "alice"))]).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.body);
        assert_eq!(page.body.matches(r#"<li id="room_"#).count(), shown, "of {groups}");
        assert!(page.body.contains(&format!(">group {shown}<")));
    }
}

#[tokio::test]
async fn nothing_that_people_write_becomes_markup() {
    let routes = Routes::new();
    *routes.site.broker.page.lock() = Some(ChatPageData {
        profile: profile(MALLORY),
        groups: vec![overview(GroupId(Nonce::now().uuid()), MALLORY)],
        more_groups: false,
        users: vec![profile(MALLORY)],
        notifications: vec![entry(MALLORY, false)],
        inbox: InboxCounts::default(),
    });
    let page = routes.get("/chat/%22%3E%3Cscript%3Ex%3C%2Fscript%3E/", &[("cookie", &cookie(&routes, "alice"))]).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.body);
    assert!(!page.body.contains("<script>") && !page.body.contains(r#"m"><"#), "{}", page.body);
    assert!(page.body.contains(r#"id="user_m&#34;&#62;&#60;script&#62;"#), "{}", page.body);
}

#[tokio::test]
async fn anonymous_users_sign_in_first_and_come_back() {
    let routes = Routes::new();
    let answer = routes.get("/chat/%E5%A4%A7%20x/", &[]).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), "/sign-in?next=/chat/%25E5%25A4%25A7%2520x/");
    let back = routes.get(answer.header("location"), &[]).await;
    assert!(back.body.contains(r#"data-next="/chat/%E5%A4%A7%20x/""#), "{}", back.body);
    let expired = routes.site.expired_session("alice");
    assert_eq!(routes.get("/chat/lobby/", &[("cookie", &expired)]).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn without_its_slash_the_path_is_permanently_the_one_with_it() {
    let routes = Routes::new();
    for (path, location) in [
        ("/chat/lobby", "/chat/lobby/"),
        ("/chat/Lobby?x=1", "/chat/Lobby/?x=1"),
        ("/chat/%E5%A4%A7", "/chat/%E5%A4%A7/"),
        ("/chat/a%2Fb", "/chat/a%2Fb/"),
        // One spelling of a name: composed.
        ("/chat/e%CC%81", "/chat/%C3%A9/"),
    ] {
        for method in ["GET", "POST"] {
            let answer = routes.send(method, path, &[], "").await;
            assert_eq!((answer.status.as_u16(), answer.header("location")), (308, location), "{path}");
        }
    }
}

#[tokio::test]
async fn room_names_are_checked() {
    let routes = Routes::new();
    let cookie = cookie(&routes, "alice");
    let (longest, too_long) = ("%E5%A4%A7".repeat(64), "%E5%A4%A7".repeat(65));
    for room in ["Lobby", "%E5%A4%A7%E5%BB%B3", "a%20b", "a%2Fb", ".", longest.as_str()] {
        assert_eq!(routes.get(&format!("/chat/{room}/"), &[("cookie", &cookie)]).await.status, StatusCode::OK, "{room}");
    }
    for room in ["%FF", "a%00b", "a%0Ab", "%C2%85", too_long.as_str()] {
        let answer = routes.get(&format!("/chat/{room}/"), &[("cookie", &cookie)]).await;
        assert_eq!(answer.problem(), (400, "bad_request".to_owned()), "{room}");
    }
}

#[tokio::test]
async fn without_a_persister_the_page_says_try_again() {
    let routes = Routes::new();
    routes.site.broker.away.store(true, Ordering::Relaxed);
    let answer = routes.get("/chat/lobby/", &[("cookie", &cookie(&routes, "alice"))]).await;
    assert_eq!(answer.problem(), (503, "unavailable".to_owned()));
    assert_eq!(answer.header("refresh"), "3", "the browser does");
}
