//! The built-in pages' scripts and styles, compiled in.

use axum::{
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::Problem;

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

const ASSETS: [(&str, &str, &str); 4] = [
    ("chat.js", SCRIPT, include_str!("../../assets/chat.js")),
    ("sign-in.js", SCRIPT, include_str!("../../assets/sign-in.js")),
    ("natter.css", STYLE, include_str!("../../assets/natter.css")),
    ("icon.svg", IMAGE, include_str!("../../assets/icon.svg")),
];

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
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        own.insert(header::ETAG, etag);
    }
    Ok(response)
}

fn etag(content: &str) -> String {
    let hash = Sha256::digest(content);
    format!("\"{}\"", data_encoding::HEXLOWER.encode(hash.get(..16).unwrap_or_default()))
}
