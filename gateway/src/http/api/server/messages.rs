//! Messages of any group, and in the name of any user.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use natter_shared::{
    event::Data,
    id::{GroupRef, MessageId, UserId},
};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    http::{
        Problem,
        api::{
            Api,
            access::BackEnd,
            extract::{Asked, At, Once},
            messages::{Around, History, Sent, history, send},
            server::check_group,
            users::find,
        },
        extract::JsonBody,
    },
    publish::Said,
};

/// Messages of a group: the newest, or those before or after a position.
#[utoipa::path(
    get, path = "/api/v1/server/groups/{group}/messages", tag = "server",
    params(("group" = String, Path, description = "A group's id or an open group's name"), Around),
    responses((status = 200, body = History)),
)]
pub(in crate::http::api) async fn server_list_messages(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    At(group): At<GroupRef>,
    Asked(around): Asked<Around>,
) -> Result<Json<History>, Problem> {
    history(&api, None, group.id(), &around, None).await.map(Json)
}

/// A new message of a user.
#[derive(Deserialize, ToSchema)]
pub(in crate::http::api) struct ServerNewMessage {
    /// A known user's id; need not be a member.
    #[schema(value_type = String, min_length = 1, max_length = 128)]
    sender: UserId,
    /// The text.
    body: String,
    /// The message it answers.
    #[schema(value_type = Option<uuid::Uuid>)]
    reply_to: Option<MessageId>,
    /// Free-form JSON, carried as it comes.
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Data>,
}

/// Sends a message in the name of a known user. Answered when it is stored.
#[utoipa::path(
    post, path = "/api/v1/server/groups/{group}/messages", tag = "server", request_body = ServerNewMessage,
    params(("group" = String, Path, description = "A group's id or an open group's name")),
    responses((status = 201, body = Sent)),
)]
pub(in crate::http::api) async fn server_post_message(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    At(group): At<GroupRef>,
    Once(nonce): Once,
    JsonBody(new): JsonBody<ServerNewMessage>,
) -> Result<(StatusCode, Json<Sent>), Problem> {
    let group = group.id();
    check_group(&api, group).await?;
    find(&api, new.sender.clone()).await?;
    let said = Said { body: new.body, reply_to: new.reply_to, data: new.data };
    Ok((StatusCode::CREATED, Json(send(&api, &new.sender, group, nonce, said).await?)))
}
