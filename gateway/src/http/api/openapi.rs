//! The OpenAPI document: what the handlers say of themselves, and what holds for all of them.

use std::sync::OnceLock;

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::{
    OpenApi as _, ToSchema,
    openapi::{
        Content, Object, OpenApi, Ref, RefOr, ResponseBuilder,
        header::HeaderBuilder,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
        schema::{ObjectBuilder, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use super::described;

/// Calls that take an idempotency key.
const ONCE: [&str; 6] = [
    "/api/v1/groups",
    "/api/v1/groups/{group}/messages",
    "/api/v1/notifications",
    "/api/v1/server/groups",
    "/api/v1/server/groups/{group}/messages",
    "/api/v1/server/notifications",
];

/// Why a call was not done (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
#[allow(dead_code, reason = "describes what http::problem writes")]
struct ProblemWord {
    /// `about:blank`: the code says it.
    r#type: String,
    /// The status in words.
    title: String,
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// For programs; stable.
    code: String,
    /// For people.
    detail: String,
    /// The same request may work later: see `Retry-After`.
    retryable: bool,
}

/// Who is signed in.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what http::session writes")]
struct Session {
    user: super::words::UserWord,
    #[schema(format = DateTime)]
    expires_at: String,
}

/// A name to sign in by.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what http::dev reads")]
struct DevLogin {
    #[schema(min_length = 1, max_length = 64)]
    name: String,
}

/// Signed in by name.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what http::dev writes")]
struct DevSession {
    token: String,
    user: super::words::UserWord,
    #[schema(format = DateTime)]
    expires_at: String,
}

/// Turns a bearer token into the cookies `natter_session` and `csrftoken`.
#[utoipa::path(post, path = "/api/v1/session", tag = "session", responses((status = 200, body = Session)))]
#[allow(dead_code, reason = "describes http::session")]
fn post_session() {}

/// Who is signed in, and until when.
#[utoipa::path(get, path = "/api/v1/session", tag = "session", responses((status = 200, body = Session)))]
#[allow(dead_code, reason = "describes http::session")]
fn get_session() {}

/// Signs out: clears the cookies. Who is not signed in stays so.
#[utoipa::path(delete, path = "/api/v1/session", tag = "session", responses((status = 204)), security((), ("token" = []), ("session" = [])))]
#[allow(dead_code, reason = "describes http::session")]
fn delete_session() {}

/// Signs anybody in by a bare name; only where the configuration has it.
#[utoipa::path(post, path = "/api/v1/dev/login", tag = "session", request_body = DevLogin, responses((status = 200, body = DevSession)), security(()))]
#[allow(dead_code, reason = "describes http::dev")]
fn dev_login() {}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Natter", description = "Groups, messages, notifications and users over HTTP. docs/http.md has each call with an example."),
    paths(post_session, get_session, delete_session, dev_login),
    components(schemas(ProblemWord)),
    tags(
        (name = "session", description = "Signing in and out"),
        (name = "users"), (name = "groups"), (name = "members"), (name = "messages"), (name = "notifications"),
        (name = "server", description = "For the application's back end, by API key"),
    ),
)]
struct Frame;

/// What handlers are added to.
pub(super) fn frame() -> OpenApi {
    Frame::openapi()
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "openapi", responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")), security(()))]
pub(super) async fn document() -> Response {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    // Plain data: writing it cannot fail.
    let text = DOCUMENT.get_or_init(|| serde_json::to_string(&complete()).unwrap_or_default());
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], text.as_str()).into_response()
}

/// The document with what holds for all calls: how to sign in, and which problems may come.
pub(super) fn complete() -> OpenApi {
    let mut document = described().into_openapi();
    let components = document.components.get_or_insert_default();
    let bearer = |text: &str| SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(text)).build());
    components.add_security_scheme("token", bearer("A JWT, as for the socket"));
    components.add_security_scheme("api_key", bearer("An API key, `ntr_…`, of the application's back end"));
    let cookie = "Set by POST /api/v1/session. What changes something comes from an own or listed Origin and echoes the cookie \
                  `csrftoken` in `X-CSRFToken`";
    components
        .add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description("natter_session", cookie))));
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            finish(path, method, operation);
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, put, post, patch, delete, .. } = item;
    [("get", get), ("put", put), ("post", post), ("patch", patch), ("delete", delete)]
        .into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn finish(path: &str, method: &str, operation: &mut Operation) {
    if operation.security.is_none() {
        let requirement = |name: &str| SecurityRequirement::new(name, [] as [&str; 0]);
        operation.security = Some(if path.starts_with("/api/v1/server/") {
            vec![requirement("api_key")]
        } else {
            vec![requirement("token"), requirement("session")]
        });
    }
    let takes_key = method == "post" && ONCE.contains(&path);
    if takes_key {
        operation.parameters.get_or_insert_default().push(RefOr::T(idempotency_key()));
    }
    let problems = [
        (400, "Something of the request does not fit", true),
        (401, "Not signed in", true),
        (403, "Not allowed; or a foreign page, or without CSRF token", true),
        (404, "Not there, or not for this caller to know of", true),
        (409, "The idempotency key was used for something else", takes_key),
        (413, "Too large", operation.request_body.is_some()),
        (415, "Not JSON", operation.request_body.is_some()),
        (429, "Faster than allowed", true),
        (503, "Something is away, or it is not known whether it was done: try again", true),
    ];
    for (status, description, _) in problems.into_iter().filter(|(.., may_come)| *may_come) {
        let content = Content::new(Some(RefOr::<utoipa::openapi::Schema>::Ref(Ref::from_schema_name("Problem"))));
        let mut response = ResponseBuilder::new().description(description).content("application/problem+json", content);
        if matches!(status, 429 | 503) {
            let seconds = HeaderBuilder::new().schema(Some(Object::with_type(Type::Integer))).description(Some("In seconds")).build();
            response = response.header("Retry-After", seconds);
        }
        operation.responses.responses.entry(status.to_string()).or_insert_with(|| RefOr::T(response.build()));
    }
}

fn idempotency_key() -> Parameter {
    let text = "Makes a retry the same request: repeated, at any time, it gives the same answer";
    let schema = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(255)).pattern(Some("^[!-~]+$"));
    ParameterBuilder::new().name("Idempotency-Key").parameter_in(ParameterIn::Header).description(Some(text)).schema(Some(schema)).build()
}
