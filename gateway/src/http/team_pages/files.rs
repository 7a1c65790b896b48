//! `/static/…`: the files beside a team's pages, as they were at the start.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{app::App, http::Problem};

/// What an end of a name says of the content. Else it is bytes, for which browsers ask what to do.
const TYPES: [(&str, &str); 28] = [
    ("avif", "image/avif"),
    ("css", "text/css; charset=utf-8"),
    ("gif", "image/gif"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("map", "application/json"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("ogg", "audio/ogg"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
];

/// A file in memory.
pub(super) struct StaticFile {
    content: Bytes,
    content_type: &'static str,
    etag: HeaderValue,
}

impl StaticFile {
    pub(super) fn new(name: &str, content: Vec<u8>) -> Self {
        let end = name.rsplit_once('.').map_or(String::new(), |(_, end)| end.to_ascii_lowercase());
        let content_type = TYPES.into_iter().find(|(of, _)| *of == end).map_or("application/octet-stream", |(_, kind)| kind);
        let hash = Sha256::digest(&content);
        let etag = format!("\"{}\"", data_encoding::HEXLOWER.encode(hash.get(..16).unwrap_or_default()));
        // Hexadecimal in quotes: any header holds it.
        let etag = HeaderValue::from_str(&etag).unwrap_or_else(|_| HeaderValue::from_static("\"\""));
        Self { content: content.into(), content_type, etag }
    }
}

/// A file; browsers keep it and ask whether it has changed.
pub(in crate::http) async fn static_file(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let file = app.pages.as_ref().and_then(|pages| pages.files.get(&path));
    let file = file.ok_or_else(|| Problem::not_found("there is no such file"))?;
    let asked = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let known = asked.zip(file.etag.to_str().ok()).is_some_and(|(tags, etag)| tags.contains(etag));
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { file.content.clone().into_response() };
    let own = response.headers_mut();
    own.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.content_type));
    own.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, no-cache"));
    own.insert(header::ETAG, file.etag.clone());
    Ok(response)
}
