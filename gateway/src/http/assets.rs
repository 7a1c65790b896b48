//! The built-in pages' scripts and styles, compiled in.

use axum::{
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::Problem;

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// A file of `assets/`, by its path there.
macro_rules! assets {
    ($($path:literal: $kind:expr),* $(,)?) => {
        [$(($path, $kind, include_str!(concat!("../../assets/", $path)))),*]
    };
}

/// `natter*.js` is the client module, for other pages too; `page/` is our own page.
const ASSETS: [(&str, &str, &str); 23] = assets! {
    "natter.js": SCRIPT,
    "natter-clock.js": SCRIPT,
    "natter-outbox.js": SCRIPT,
    "natter-positions.js": SCRIPT,
    "natter-requests.js": SCRIPT,
    "natter-timeline.js": SCRIPT,
    "natter-wire.js": SCRIPT,
    "page/api.js": SCRIPT,
    "page/bell.js": SCRIPT,
    "page/composer.js": SCRIPT,
    "page/dialogs.js": SCRIPT,
    "page/dom.js": SCRIPT,
    "page/groups.js": SCRIPT,
    "page/history.js": SCRIPT,
    "page/main.js": SCRIPT,
    "page/people.js": SCRIPT,
    "page/room.js": SCRIPT,
    "page/sign-in.js": SCRIPT,
    "page/start.js": SCRIPT,
    "page/status.js": SCRIPT,
    "page/strings.js": SCRIPT,
    "natter.css": STYLE,
    "icon.svg": IMAGE,
};

/// A file; browsers keep it and ask whether it has changed, so a new release shows at once.
pub(super) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let found = ASSETS.into_iter().find(|(of, ..)| *of == name);
    let (_, content_type, content) = found.ok_or_else(|| Problem::not_found("there is no such file"))?;
    let etag = etag(content);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|tags| tags.to_str().is_ok_and(|tags| tags.contains(&etag)));
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { content.into_response() };
    let own = response.headers_mut();
    own.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    own.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, no-cache"));
    // The client module may be imported by any page; there is nothing secret in a file of the release.
    own.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    own.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        own.insert(header::ETAG, etag);
    }
    Ok(response)
}

fn etag(content: &str) -> String {
    let hash = Sha256::digest(content);
    format!("\"{}\"", data_encoding::HEXLOWER.encode(hash.get(..16).unwrap_or_default()))
}
