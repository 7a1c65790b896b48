//! The page: what there is at the time it is loaded. Everything after comes by the socket.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use natter_shared::{
    id::{GroupId, RoomName, UserId},
    rpc::{self, ChatPage, ChatPageData, GroupOverview, InboxEntry, ListGroups, Profile, SignIn},
};

use super::{Room, group_of, path_of};
use crate::{
    app::App,
    http::{
        Problem, dev,
        extract::Caller,
        pages::{html, team_html, to_sign_in},
        team_pages,
    },
};

/// After so many seconds.
const ASKS_AGAIN: &str = "3";

/// Newest first, seen ones included.
const NOTIFICATIONS: u32 = 100;
const OTHER_USERS: u32 = 200;
/// Groups asked for at once; as many as persisters tell of in one answer.
const GROUPS: u32 = 200;

#[derive(Template)]
#[template(path = "chat.html")]
struct ChatRoom<'a> {
    room: &'a RoomName,
    room_group: GroupId,
    csrf: &'a str,
    profile: &'a Profile,
    groups: &'a [GroupOverview],
    users: &'a [Profile],
    notifications: &'a [InboxEntry],
    unseen: u64,
}

/// The page, for who is signed in; others sign in first. Where it cannot be shown just now, the browser asks again by itself.
pub(in crate::http) async fn page(State(app): State<Arc<App>>, room: Room, caller: Caller) -> Response {
    shown(app, room, caller).await.unwrap_or_else(|problem| {
        let is_retryable = problem.is_retryable();
        let mut response = problem.into_response();
        if is_retryable {
            response.headers_mut().insert(header::REFRESH, HeaderValue::from_static(ASKS_AGAIN));
        }
        response
    })
}

async fn shown(app: Arc<App>, Room(room): Room, caller: Caller) -> Result<Response, Problem> {
    let Some(identity) = caller.identity() else {
        return match caller.refusal() {
            // Whether the user may come in cannot be told just now: signing in again would not help.
            refusal if refusal.is_retryable() => Err(refusal),
            _ => Ok(to_sign_in(&path_of(&room)).into_response()),
        };
    };
    app.rates.take_user(identity.user.key())?;
    // Somebody may come with the token of an issuer of one's own, never seen here before.
    let sign_in = SignIn {
        user: identity.user.clone(),
        handle: identity.handle.clone(),
        display_name: identity.display_name.clone(),
        limit: 1,
        issued_at: Some(identity.issued_at),
    };
    rpc::call(&*app.broker, sign_in, None).await?;
    let data = data_of(&app, &identity.user).await?;

    let csrf = caller.csrf_token(&app);
    if let Some(pages) = &app.pages {
        let page = team_pages::Chat {
            room: &room,
            room_group: group_of(&room),
            path: &path_of(&room),
            csrf: &csrf,
            dev_login: dev::is_offered(&app, &caller),
            data: &data,
        };
        return team_html(&app, &caller, &csrf, pages, pages.chat(&page));
    }
    let page = ChatRoom {
        room: &room,
        room_group: group_of(&room),
        csrf: &csrf,
        profile: &data.profile,
        groups: &data.groups,
        users: &data.users,
        notifications: &data.notifications,
        unseen: data.inbox.unseen,
    };
    html(&app, &caller, &csrf, &page)
}

/// What the page of `user` shows: of groups as many as are delivered on its socket, and the same ones.
async fn data_of(app: &App, user: &UserId) -> Result<ChatPageData, Problem> {
    let most = app.config.limits.groups_per_connection;
    let call = ChatPage { user: user.clone(), notifications: NOTIFICATIONS, users: OTHER_USERS, groups: GROUPS };
    let mut data = rpc::call(&*app.broker, call, None).await?.reply;
    while data.more_groups && data.groups.len() < most {
        let after = data.groups.last().map(|last| last.membership.group);
        let page = rpc::call(&*app.broker, ListGroups { user: user.clone(), after, limit: GROUPS }, None).await?.reply;
        data.more_groups = page.more && !page.groups.is_empty();
        data.groups.extend(page.groups);
    }
    data.groups.truncate(most);
    Ok(data)
}
