//! The page's forms: marking notifications seen, and opening a one-to-one group.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use natter_shared::{
    event::{Event, Seen, SeenWhat},
    frame::ErrorCode,
    id::{GroupId, NotificationId, UserId},
    rpc::{self, CreateSingle, FindUser, SignIn},
};
use serde::Serialize;

use super::Room;
use crate::{
    app::App,
    auth::Identity,
    http::{
        Problem,
        extract::{Caller, FormFields},
    },
    publish::{mark, wait_until_applied},
};

/// How long a form waits until the next page shows what it did.
const VISIBLE_WITHIN: Duration = Duration::from_secs(8);

/// What the original's scripts expect of a new group. The order of the fields is theirs.
#[derive(Serialize)]
struct Created<'a> {
    id: GroupId,
    display_name: &'a str,
}

/// A form, told apart by its `type`.
pub(in crate::http) async fn form(
    State(app): State<Arc<App>>,
    Room(_): Room,
    caller: Caller,
    fields: Result<FormFields, Problem>,
) -> Result<Response, Problem> {
    let field = fields.as_ref().ok().and_then(|fields| fields.get("csrfmiddlewaretoken"));
    let identity = caller.require_form(&app, field)?;
    app.rates.take_user(identity.user.key())?;
    let fields = fields?;
    match fields.get("type") {
        Some("Clean_Seen") => clean_seen(&app, identity, &fields).await,
        Some("Create_Group_Single") => create_single(&app, identity, &fields).await,
        Some(_) | None => Err(Problem::bad_request("`type` is Clean_Seen or Create_Group_Single")),
    }
}

/// Marks notifications of the user seen and read. Other users' are not touched: the event says
/// whose it is about.
async fn clean_seen(app: &App, identity: &Identity, fields: &FormFields) -> Result<Response, Problem> {
    let ids = fields.all("seen_id[]").chain(fields.all("seen_id")).map(str::parse::<NotificationId>);
    let ids: Vec<_> = ids.collect::<Result<_, _>>().map_err(|_| Problem::bad_request("`seen_id[]` is a notification's id"))?;
    if !ids.is_empty() {
        let seen = Seen { user: identity.user.clone(), what: SeenWhat::Ids(ids), read: true, archived: false };
        let at = mark(&*app.broker, &app.intake, identity.user.key(), &Event::Seen(seen), VISIBLE_WITHIN).await?;
        wait_until_applied(&*app.broker, at, VISIBLE_WITHIN).await?;
    }
    Ok(text_html(String::new()))
}

/// Finds or makes the one-to-one group with another user.
async fn create_single(app: &App, identity: &Identity, fields: &FormFields) -> Result<Response, Problem> {
    let other = fields.get("user").and_then(|user| UserId::new(user).ok());
    let other = other.ok_or_else(|| Problem::bad_request("`user` is a user's id"))?;
    if other == identity.user {
        return Err(Problem::bad_request("a group of two takes two"));
    }
    let broker = &*app.broker;
    let user = identity.user.clone();
    let sign_in = SignIn {
        user: user.clone(),
        handle: identity.handle.clone(),
        display_name: identity.display_name.clone(),
        limit: 1,
        issued_at: Some(identity.issued_at),
    };
    let mine = rpc::call(broker, sign_in, None).await?.reply.profile;
    let theirs = rpc::call(broker, FindUser::Id(other.clone()), None).await?.reply;
    let theirs = theirs.ok_or_else(|| Problem::of(ErrorCode::NotFound, "there is no such user"))?;
    let group = rpc::call(broker, CreateSingle { user, other, by_back_end: false }, None).await?.reply.group;
    let display_name = format!("{}_with_{}", mine.handle, theirs.handle);
    let created = Created { id: group, display_name: &display_name };
    let body = serde_json::to_string(&created).map_err(|error| Problem::bad_request(error.to_string()))?;
    // JSON sent as HTML, as the original did: no tag may begin in it.
    Ok(text_html(body.replace('<', "\\u003c")))
}

/// The safe headers add `nosniff`.
fn text_html(body: String) -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], body).into_response()
}
