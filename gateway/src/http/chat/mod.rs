//! `/chat/<room>/`: the chat room's page and its two forms, as pages written for the original
//! chat room expect them (PROTOCOL.md).

mod form;
mod page;

use axum::{
    extract::{FromRequestParts, OriginalUri, Path},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use natter_shared::id::{GroupId, RoomName, open_group};
use uuid::Uuid;

pub(super) use form::form;
pub(super) use page::page;

use super::{Problem, pages::encode_path};

/// The room of a path: percent-decoded, NFC, 1 to 64 characters.
pub(super) struct Room(RoomName);

impl<S: Send + Sync> FromRequestParts<S> for Room {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(room) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::bad_request("a room's name is percent-encoded UTF-8"))?;
        RoomName::room(&room).map(Self).map_err(|error| Problem::bad_request(error.to_string()))
    }
}

/// `/chat/<room>` is `/chat/<room>/`, with the same method and body (308).
pub(super) async fn add_slash(Room(room): Room, OriginalUri(uri): OriginalUri) -> Response {
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    let location = format!("/chat/{}/{query}", encode_segment(&room));
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, location)]).into_response()
}

/// The page's path.
fn path_of(room: &RoomName) -> String {
    format!("/chat/{}/", encode_segment(room))
}

/// The group that a path names: an open one by its name, any by its id. The socket does the same.
fn group_of(room: &RoomName) -> GroupId {
    Uuid::parse_str(room.as_str()).map_or_else(|_| open_group(room), GroupId)
}

/// A room's name as one segment of a path: a slash in it stays in it.
fn encode_segment(room: &RoomName) -> String {
    encode_path(room.as_str()).replace('/', "%2F")
}
