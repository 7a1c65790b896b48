//! Signing in for pages: a bearer token becomes a cookie, which no script can read; who is signed
//! in; and signing out.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use natter_shared::{
    rpc::{self, FindUser, Profile, SignIn},
    timestamp::Timestamp,
};
use serde::Serialize;

use super::{Problem, cookies, extract::Caller};
use crate::{
    app::App,
    auth::{By, Identity, SignedIn},
};

#[derive(Serialize)]
struct Session {
    user: Profile,
    expires_at: Timestamp,
}

/// `POST`: who holds a bearer token is signed in by cookie from now on, for `auth.session_lifetime`.
/// A cookie does not do: it would renew itself for ever.
pub(super) async fn sign_in(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, Problem> {
    // A foreign page must not sign its visitor in as somebody of its choice.
    caller.require_origin()?;
    let Ok(Some(SignedIn { identity, by: By::Bearer })) = &caller.who else { return Err(caller.refusal()) };
    app.rates.take_user(identity.user.key())?;
    let user = make_known(&app, identity).await?;
    let (headers, expires_at) = cookies_for(&app, identity, caller.https)?;
    Ok((headers, Json(Session { user, expires_at })).into_response())
}

/// `GET`: who is signed in, and until when. Sets the CSRF cookie where the browser has none.
pub(super) async fn current(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, Problem> {
    let Ok(Some(SignedIn { identity, by })) = &caller.who else { return Err(caller.refusal()) };
    app.rates.take_user(identity.user.key())?;
    let found = rpc::call(&*app.broker, FindUser::Id(identity.user.clone()), None).await?.reply;
    let user = match found {
        Some(user) => user,
        None => make_known(&app, identity).await?,
    };
    let mut headers = HeaderMap::new();
    match by {
        By::Cookie => {
            let csrf = cookies::csrf(&caller.csrf_token(&app), app.config.auth.session_lifetime, caller.https);
            headers.extend(csrf.map(|cookie| (header::SET_COOKIE, cookie)));
        }
        By::Bearer => {}
    }
    headers.insert(header::VARY, HeaderValue::from_static("Cookie, Authorization"));
    Ok((headers, Json(Session { user, expires_at: identity.expires_at })).into_response())
}

/// `DELETE`: forgets the cookies. Who is signed in by one has to prove that the page is ours.
pub(super) async fn sign_out(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, Problem> {
    caller.require_origin()?;
    if caller.identity().is_some() {
        caller.require_form(&app, None)?;
    }
    let cleared = cookies::cleared(caller.https).into_iter().map(|cookie| (header::SET_COOKIE, cookie));
    Ok((StatusCode::NO_CONTENT, cleared.collect::<HeaderMap>()).into_response())
}

/// The cookies of somebody who has just signed in, and when that ends.
pub(super) fn cookies_for(app: &App, identity: &Identity, https: bool) -> Result<(HeaderMap, Timestamp), Problem> {
    let lifetime = app.config.auth.session_lifetime;
    let (session, expires_at) = app.auth.sessions().issue(identity, Timestamp::now(), lifetime);
    let csrf = app.auth.csrf().issue(Some(&identity.user));
    let cookies = [cookies::session(&session, lifetime, https), cookies::csrf(&csrf, lifetime, https)];
    let mut headers = HeaderMap::new();
    for cookie in cookies {
        let cookie = cookie.ok_or_else(|| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "no cookie could be made"))?;
        headers.append(header::SET_COOKIE, cookie);
    }
    Ok((headers, expires_at))
}

/// So that the user is there at once, for others to write to.
pub(super) async fn make_known(app: &App, identity: &Identity) -> Result<Profile, Problem> {
    let Identity { user, handle, display_name, issued_at, .. } = identity.clone();
    Ok(rpc::call(&*app.broker, SignIn { user, handle, display_name, limit: 1, issued_at: Some(issued_at) }, None).await?.reply.profile)
}
