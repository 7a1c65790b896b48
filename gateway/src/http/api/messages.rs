//! Messages of one's groups: history, sending, and how far one has read.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use natter_shared::{
    event::{Data, Event, Read},
    id::{GroupId, GroupRef, MessageId, Nonce, UserId},
    position::Position,
    rpc::{FindMembership, MessageHistory},
    subject::Topic,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, PATIENCE,
    access::User,
    extract::{Asked, At, Once},
    no_such_group,
    page::limit,
    words::MessageWord,
};
use crate::{
    delivery::message_frame,
    http::{Problem, extract::JsonBody},
    publish::{Draft, Said, accept, mark, wait_until_applied},
};

/// Which messages.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Around {
    /// Those before this position, the newest of them first cut.
    #[param(value_type = Option<String>)]
    before: Option<Position>,
    /// Those after this position; instead of `before`.
    #[param(value_type = Option<String>)]
    after: Option<Position>,
    /// How many at most (50).
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// A page of a group's messages.
#[derive(Serialize, ToSchema)]
pub(super) struct History {
    /// In the order of their positions.
    messages: Vec<MessageWord>,
    /// There are more in the direction asked. A page may be shorter than `limit`: this alone tells the end.
    more: bool,
    /// The newest page, and one `after` a position, are complete up to here: resume from it on the socket, or ask for what is
    /// `after` it, and nothing is missed. Of a page `before` a position it says nothing.
    #[schema(value_type = String)]
    position: Position,
}

/// Messages of a group of mine: the newest, or those before or after a position.
#[utoipa::path(
    get, path = "/api/v1/groups/{group}/messages", tag = "messages",
    params(("group" = String, Path, description = "A group's id or an open group's name"), Around),
    responses((status = 200, body = History)),
)]
pub(super) async fn list_messages(
    State(api): State<Arc<Api>>,
    User(identity): User,
    At(group): At<GroupRef>,
    Asked(around): Asked<Around>,
) -> Result<Json<History>, Problem> {
    // One's own messages are in it.
    let sent = api.sent.get(&(identity.user.key(), group.id()));
    history(&api, Some(identity.user), group.id(), &around, sent).await.map(Json)
}

/// A page of history, to a member or to the application's back end.
pub(super) async fn history(
    api: &Api,
    user: Option<UserId>,
    group: GroupId,
    around: &Around,
    sent: Option<Position>,
) -> Result<History, Problem> {
    if around.before.is_some() && around.after.is_some() {
        return Err(Problem::bad_request("history takes `before` or `after`, not both"));
    }
    let limit = limit(around.limit)?.min(api.limits().history_page);
    let of_member = user.is_some();
    let call = MessageHistory { user, group, before: around.before, after: around.after, limit };
    let answer = if of_member { api.call_of_member(call, group, sent).await? } else { api.call(call).await? };
    let applied = answer.applied(api.broker().shards().of(Topic::Group(group)));
    let position = answer.reply.complete_to(around.after, applied);
    let told = answer.reply.messages.into_iter().filter_map(|m| message_frame(m.event, m.position, m.stored_at));
    Ok(History { messages: told.map(MessageWord::from).collect(), more: answer.reply.more, position })
}

/// A new message.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewMessage {
    /// The text.
    pub(super) body: String,
    /// The message it answers.
    #[schema(value_type = Option<uuid::Uuid>)]
    pub(super) reply_to: Option<MessageId>,
    /// Free-form JSON, carried as it comes.
    #[schema(value_type = Option<serde_json::Value>)]
    pub(super) data: Option<Data>,
}

/// A message is stored.
#[derive(Serialize, ToSchema)]
pub(super) struct Sent {
    #[schema(value_type = uuid::Uuid)]
    message_id: MessageId,
    /// In the group's order.
    #[schema(value_type = String)]
    position: Position,
}

/// Sends a message to a group of mine. Answered when it is stored.
#[utoipa::path(
    post, path = "/api/v1/groups/{group}/messages", tag = "messages", request_body = NewMessage,
    params(("group" = String, Path, description = "A group's id or an open group's name")),
    responses((status = 201, body = Sent)),
)]
pub(super) async fn post_message(
    State(api): State<Arc<Api>>,
    User(identity): User,
    At(group): At<GroupRef>,
    Once(nonce): Once,
    JsonBody(new): JsonBody<NewMessage>,
) -> Result<(StatusCode, Json<Sent>), Problem> {
    require_member(&api, &identity.user, group.id()).await?;
    let said = Said { body: new.body, reply_to: new.reply_to, data: new.data };
    let sent = send(&api, &identity.user, group.id(), nonce, said).await?;
    api.sent
        .entry((identity.user.key(), group.id()))
        .and_upsert_with(|entry| entry.map_or(sent.position, |entry| entry.into_value().max(sent.position)));
    Ok((StatusCode::CREATED, Json(sent)))
}

/// Gets a message stored, whose sender may send it.
pub(super) async fn send(api: &Api, sender: &UserId, group: GroupId, nonce: Nonce, said: Said) -> Result<Sent, Problem> {
    let (message_id, draft) = Draft::message(api.limits(), sender, group, nonce, said, None)?;
    let position = accept(api.broker(), api.intake(), draft, PATIENCE).await?;
    api.app.metrics.accepted.inc();
    Ok(Sent { message_id, position })
}

/// Whether the user is a member now.
pub(super) async fn require_member(api: &Api, user: &UserId, group: GroupId) -> Result<(), Problem> {
    let found = api.call_of_member(FindMembership { user: user.clone(), group }, group, None).await?.reply;
    found.map(drop).ok_or_else(no_such_group)
}

/// How far.
#[derive(Deserialize, ToSchema)]
pub(super) struct ReadTo {
    /// The last position read.
    #[schema(value_type = String)]
    position: Position,
}

/// I have read a group up to a position.
#[utoipa::path(
    put, path = "/api/v1/groups/{group}/read", tag = "messages", request_body = ReadTo,
    params(("group" = String, Path, description = "A group's id or an open group's name")),
    responses((status = 204)),
)]
pub(super) async fn put_read(
    State(api): State<Arc<Api>>,
    User(identity): User,
    At(group): At<GroupRef>,
    JsonBody(to): JsonBody<ReadTo>,
) -> Result<StatusCode, Problem> {
    require_member(&api, &identity.user, group.id()).await?;
    let event = Event::Read(Read { user: identity.user.clone(), group: group.id(), position: to.position });
    let at = mark(api.broker(), api.intake(), identity.user.key(), &event, PATIENCE).await?;
    wait_until_applied(api.broker(), at, PATIENCE).await?;
    Ok(StatusCode::NO_CONTENT)
}
