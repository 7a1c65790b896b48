//! The way in: `/` and the sign-in page.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{
    Problem, cookies, dev,
    extract::Caller,
    team_pages::{self, TeamPages},
};
use crate::app::App;

const LOBBY: &str = "/chat/lobby/";

/// What a path keeps as it is; all else is percent-encoded.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'a> {
    dev_login: bool,
    next: &'a str,
}

/// Where to go after signing in.
#[derive(Deserialize)]
pub(super) struct Next {
    next: Option<String>,
}

/// To the lobby, or to sign in first.
pub(super) async fn root(caller: Caller) -> Redirect {
    Redirect::to(if caller.identity().is_some() { LOBBY } else { "/sign-in" })
}

/// The sign-in page.
pub(super) async fn sign_in(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Result<Query<Next>, QueryRejection>,
) -> Result<Response, Problem> {
    let next = query.ok().and_then(|Query(query)| query.next).filter(|next| is_local(next));
    let csrf = caller.csrf_token(&app);
    if let Some(pages) = app.pages.as_ref().filter(|pages| pages.has_sign_in()) {
        let page = team_pages::SignIn { next: next.as_deref().unwrap_or(LOBBY), csrf: &csrf, dev_login: dev::is_offered(&app, &caller) };
        return team_html(&app, &caller, &csrf, pages, pages.sign_in(&page));
    }
    let page = SignInPage { dev_login: dev::is_offered(&app, &caller), next: next.as_deref().unwrap_or(LOBBY) };
    html(&app, &caller, &csrf, &page)
}

/// Sends somebody who asked for `path`, as the URL had it, to sign in and come back.
pub(super) fn to_sign_in(path: &str) -> Redirect {
    Redirect::to(&format!("/sign-in?next={}", encode_path(path)))
}

/// A decoded path as a URL has it.
pub(super) fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

/// Renders a page, with the CSRF cookie that its forms echo.
pub(super) fn html(app: &App, caller: &Caller, csrf: &str, page: &impl Template) -> Result<Response, Problem> {
    Ok(with_cookie(app, caller, csrf, page.render().map_err(|error| not_rendered(&error))?))
}

/// A page of the team's own, with its own policy.
pub(super) fn team_html(
    app: &App,
    caller: &Caller,
    csrf: &str,
    pages: &TeamPages,
    rendered: Result<String, minijinja::Error>,
) -> Result<Response, Problem> {
    let mut response = with_cookie(app, caller, csrf, rendered.map_err(|error| not_rendered(&error))?);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, pages.policy.clone());
    Ok(response)
}

fn not_rendered(error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "page_not_rendered");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the page could not be made")
}

fn with_cookie(app: &App, caller: &Caller, csrf: &str, page: String) -> Response {
    let mut response = Html(page).into_response();
    let headers = response.headers_mut();
    headers.extend(cookies::csrf(csrf, app.config.auth.session_lifetime, caller.https).map(|cookie| (header::SET_COOKIE, cookie)));
    headers.insert(header::VARY, HeaderValue::from_static("Cookie, Authorization"));
    response
}

/// A path of this host, not one that a browser takes for another (`//evil.test`, `/\evil.test`).
fn is_local(next: &str) -> bool {
    let mut bytes = next.bytes();
    bytes.next() == Some(b'/')
        && !matches!(bytes.next(), Some(b'/' | b'\\'))
        && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_this_host_are_gone_on_to() {
        for good in ["/", "/chat/lobby/", "/chat/%E5%A4%A7/?x=1"] {
            assert!(is_local(good), "{good}");
        }
        for bad in ["", "chat", "//evil.test", "/\\evil.test", "https://evil.test", "javascript:alert(1)", "/\t/evil.test", "/a\\b", "/大"]
        {
            assert!(!is_local(bad), "{bad}");
        }
    }
}
