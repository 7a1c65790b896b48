//! Notifications of the application: to a user, to many, to a group.

use std::{collections::HashSet, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use futures::{StreamExt, TryStreamExt};
use natter_shared::{
    event::{Audience, Data},
    frame::ErrorCode,
    id::{GroupId, GroupRef, NotificationId, UserId},
    position::Position,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    http::{
        Problem,
        api::{Api, PATIENCE, access::BackEnd, extract::Once, server::check_group},
        extract::JsonBody,
    },
    publish::{Draft, accept},
};

/// Users that one call notifies.
const MOST_USERS: usize = 1000;

/// Notifications of one call that are being stored at the same time.
const AT_ONCE: usize = 64;

/// To whom.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http::api) enum Recipients {
    /// A user's id. One who was never here finds it on the first visit.
    #[schema(value_type = String)]
    User(UserId),
    /// Users' ids, 1,000 at most: each gets a notification of one's own.
    #[schema(value_type = Vec<String>)]
    Users(Vec<UserId>),
    /// A group's id, or an open group's name: all its members.
    #[schema(value_type = String)]
    Group(GroupRef),
}

/// A new notification of the application.
#[derive(Deserialize, ToSchema)]
pub(in crate::http::api) struct ServerNewNotification {
    to: Recipients,
    /// The text.
    body: String,
    /// Free-form JSON, carried as it comes.
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Data>,
}

/// What is stored.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct ServerNotified {
    notifications: Vec<OneNotified>,
}

/// A notification is stored.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct OneNotified {
    /// The user it went to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    user: Option<UserId>,
    /// The group it went to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>, nullable = false)]
    group: Option<GroupId>,
    #[schema(value_type = uuid::Uuid)]
    notification_id: NotificationId,
    /// In the recipient's or group's order.
    #[schema(value_type = String)]
    position: Position,
}

/// Notifies a user, users, or all members of a group. Answered when all of it is stored; where that
/// is not known of some, the same call with the same idempotency key does the rest.
#[utoipa::path(
    post, path = "/api/v1/server/notifications", tag = "server", request_body = ServerNewNotification,
    responses((status = 201, body = ServerNotified)),
)]
pub(in crate::http::api) async fn server_post_notifications(
    State(api): State<Arc<Api>>,
    _: BackEnd,
    Once(nonce): Once,
    JsonBody(new): JsonBody<ServerNewNotification>,
) -> Result<(StatusCode, Json<ServerNotified>), Problem> {
    let audiences = audiences(&api, new.to).await?;
    let draft = |to: &Audience| Draft::notification(api.limits(), None, to.clone(), nonce, new.body.clone(), new.data.clone());
    // All of them can be kept, or none: they differ in whom they are for only. Each has a copy of the text, so no more of them
    // are made at a time than are being stored.
    audiences.first().map(draft).transpose()?;
    let stored = futures::stream::iter(audiences.into_iter().map(|to| {
        let (api, draft) = (&api, &draft);
        async move {
            let (notification_id, draft) = draft(&to)?;
            let position = accept(api.broker(), api.intake(), draft, PATIENCE).await?;
            let (user, group) = match to {
                Audience::User(user) => (Some(user), None),
                Audience::Group(group) => (None, Some(group)),
            };
            Ok::<_, Problem>(OneNotified { user, group, notification_id, position })
        }
    }));
    let notifications = stored.buffered(AT_ONCE).try_collect().await?;
    Ok((StatusCode::CREATED, Json(ServerNotified { notifications })))
}

async fn audiences(api: &Api, to: Recipients) -> Result<Vec<Audience>, Problem> {
    match to {
        Recipients::User(user) => Ok(vec![Audience::User(user)]),
        Recipients::Users(users) if users.len() > MOST_USERS => {
            Err(Problem::of(ErrorCode::TooLarge, format!("`users` has at most {MOST_USERS}")))
        }
        Recipients::Users(users) => {
            let mut told = HashSet::new();
            Ok(users.into_iter().filter(|user| told.insert(user.clone())).map(Audience::User).collect())
        }
        Recipients::Group(group) => {
            let group = group.id();
            check_group(api, group).await?;
            Ok(vec![Audience::Group(group)])
        }
    }
}
