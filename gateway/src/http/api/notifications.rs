//! One's inbox, and notifications to others.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use natter_shared::{
    event::{Audience, Data, Event, Seen, SeenWhat},
    frame::ErrorCode,
    id::{GroupRef, NotificationId, UserId},
    position::Position,
    rpc::{CountInbox, InboxCursor, ListNotifications},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, PATIENCE,
    access::User,
    extract::{Asked, Once},
    messages::require_member,
    page::{self, Page},
    users,
    words::{InboxWord, NotificationWord},
};
use crate::{
    http::{Problem, extract::JsonBody},
    publish::{Draft, accept, mark, wait_until_applied},
};

const LIST: &str = "notifications";

/// Notifications that one call marks by their ids.
const MOST_IDS: usize = 1000;

/// Which notifications.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// The archived ones instead of the others.
    #[serde(default)]
    #[param(required = false)]
    archived: bool,
    /// Only those not seen.
    #[serde(default)]
    #[param(required = false)]
    unseen: bool,
}

/// A page of one's inbox.
#[derive(Serialize, ToSchema)]
#[allow(clippy::struct_field_names, reason = "the name of the list in the answer")]
pub(super) struct Notifications {
    /// Newest first.
    notifications: Vec<NotificationWord>,
    /// Where the next page begins; null at the end.
    #[schema(required = true)]
    next: Option<String>,
    inbox: InboxWord,
}

/// My notifications, newest first. Where many are not asked for, as archived ones, a page may have few or none, and `next` all the same.
#[utoipa::path(get, path = "/api/v1/notifications", tag = "notifications", params(Which, Page), responses((status = 200, body = Notifications)))]
pub(super) async fn list_notifications(
    State(api): State<Arc<Api>>,
    User(identity): User,
    Asked(which): Asked<Which>,
    Asked(page): Asked<Page>,
) -> Result<Json<Notifications>, Problem> {
    let (limit, before) = (page.limit()?, page.after::<InboxCursor>(LIST)?);
    let call = ListNotifications { user: identity.user, before, archived: which.archived, unseen: which.unseen, limit };
    let found = api.call(call).await?.reply;
    let next = page::next(LIST, found.more, found.next.or_else(|| found.notifications.last().map(InboxCursor::from)));
    let notifications = found.notifications.into_iter().map(NotificationWord::from).collect();
    Ok(Json(Notifications { notifications, next, inbox: found.inbox.into() }))
}

/// Counts of my inbox.
#[utoipa::path(get, path = "/api/v1/notifications/counts", tag = "notifications", responses((status = 200, body = InboxWord)))]
pub(super) async fn count_notifications(State(api): State<Arc<Api>>, User(identity): User) -> Result<Json<InboxWord>, Problem> {
    Ok(Json(api.call(CountInbox { user: identity.user }).await?.reply.into()))
}

/// To whom.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Recipient {
    /// A user's id.
    #[schema(value_type = String)]
    User(UserId),
    /// A group's id, or an open group's name: all its members.
    #[schema(value_type = String)]
    Group(GroupRef),
}

/// A new notification.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewNotification {
    to: Recipient,
    /// The text.
    body: String,
    /// Free-form JSON, carried as it comes.
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Data>,
}

/// A notification is stored.
#[derive(Serialize, ToSchema)]
pub(super) struct Notified {
    #[schema(value_type = uuid::Uuid)]
    notification_id: NotificationId,
    /// In the recipient's or group's order.
    #[schema(value_type = String)]
    position: Position,
}

/// Notifies a user, or all members of a group of mine. Answered when it is stored.
#[utoipa::path(
    post, path = "/api/v1/notifications", tag = "notifications", request_body = NewNotification,
    responses((status = 201, body = Notified)),
)]
pub(super) async fn post_notification(
    State(api): State<Arc<Api>>,
    User(identity): User,
    Once(nonce): Once,
    JsonBody(new): JsonBody<NewNotification>,
) -> Result<(StatusCode, Json<Notified>), Problem> {
    let to = match new.to {
        Recipient::User(user) => {
            users::find(&api, user.clone()).await?;
            Audience::User(user)
        }
        Recipient::Group(group) => {
            require_member(&api, &identity.user, group.id()).await?;
            api.app.rates.take_group_notification(identity.user.key())?;
            Audience::Group(group.id())
        }
    };
    let (notification_id, draft) = Draft::notification(api.limits(), Some(&identity.user), to, nonce, new.body, new.data)?;
    let position = accept(api.broker(), api.intake(), draft, PATIENCE).await?;
    Ok((StatusCode::CREATED, Json(Notified { notification_id, position })))
}

/// Which notifications to mark: `ids` or `upto`.
#[derive(Deserialize, ToSchema)]
pub(super) struct Marked {
    /// These, 1,000 at most. Other users' have no effect.
    #[schema(value_type = Option<Vec<uuid::Uuid>>, max_items = 1000)]
    ids: Option<Vec<NotificationId>>,
    /// All to the user alone, up to this position of the inbox. Those to a group are marked by `ids`.
    #[schema(value_type = Option<String>)]
    upto: Option<Position>,
}

impl Marked {
    fn what(self) -> Result<SeenWhat, Problem> {
        match (self.ids, self.upto) {
            (Some(ids), None) if ids.len() <= MOST_IDS => Ok(SeenWhat::Ids(ids)),
            (Some(_), None) => Err(Problem::of(ErrorCode::TooLarge, format!("`ids` has at most {MOST_IDS}"))),
            (None, Some(upto)) => Ok(SeenWhat::Upto(upto)),
            (Some(_), Some(_)) | (None, None) => Err(Problem::bad_request("which ones is told by `ids` or by `upto`")),
        }
    }
}

/// I have seen these notifications.
#[utoipa::path(post, path = "/api/v1/notifications/seen", tag = "notifications", request_body = Marked, responses((status = 204)))]
pub(super) async fn mark_seen(
    State(api): State<Arc<Api>>,
    User(identity): User,
    JsonBody(marked): JsonBody<Marked>,
) -> Result<StatusCode, Problem> {
    let what = marked.what()?;
    store(&api, Seen { user: identity.user, what, read: false, archived: false }).await
}

/// I have read these notifications.
#[utoipa::path(post, path = "/api/v1/notifications/read", tag = "notifications", request_body = Marked, responses((status = 204)))]
pub(super) async fn mark_read(
    State(api): State<Arc<Api>>,
    User(identity): User,
    JsonBody(marked): JsonBody<Marked>,
) -> Result<StatusCode, Problem> {
    let what = marked.what()?;
    store(&api, Seen { user: identity.user, what, read: true, archived: false }).await
}

/// I am done with these notifications: out of the list, and never counted.
#[utoipa::path(post, path = "/api/v1/notifications/archive", tag = "notifications", request_body = Marked, responses((status = 204)))]
pub(super) async fn mark_archived(
    State(api): State<Arc<Api>>,
    User(identity): User,
    JsonBody(marked): JsonBody<Marked>,
) -> Result<StatusCode, Problem> {
    let what = marked.what()?;
    store(&api, Seen { user: identity.user, what, read: true, archived: true }).await
}

/// Stores a mark, and answers once the next page shows it.
async fn store(api: &Api, seen: Seen) -> Result<StatusCode, Problem> {
    let user = seen.user.key();
    let at = mark(api.broker(), api.intake(), user, &Event::Seen(seen), PATIENCE).await?;
    wait_until_applied(api.broker(), at, PATIENCE).await?;
    Ok(StatusCode::NO_CONTENT)
}
