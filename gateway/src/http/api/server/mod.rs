//! The API for the application's back end, by an API key. It may what an owner may, in every group.

mod groups;
mod members;
mod messages;
mod notifications;
mod users;

use std::sync::Arc;

use natter_shared::{
    frame::ErrorCode,
    id::GroupId,
    rpc::{self, Members},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, no_such_group};
use crate::http::Problem;

/// All calls, with their own description.
pub(super) fn described() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(users::server_get_user, users::server_put_user))
        .routes(routes!(users::server_disconnect_user))
        .routes(routes!(users::server_block_user))
        .routes(routes!(users::server_unblock_user))
        .routes(routes!(users::server_revoke_tokens))
        .routes(routes!(notifications::server_post_notifications))
        .routes(routes!(groups::server_create_group))
        .routes(routes!(groups::server_create_open))
        .routes(routes!(groups::server_create_single))
        .routes(routes!(groups::server_get_group, groups::server_rename_group))
        .routes(routes!(members::server_list_members))
        .routes(routes!(members::server_put_member, members::server_delete_member))
        .routes(routes!(messages::server_list_messages, messages::server_post_message))
}

/// That there is this group. For each message that is posted: its members are not looked at, however many they are.
async fn check_group(api: &Api, group: GroupId) -> Result<(), Problem> {
    match rpc::call(api.broker(), Members { user: None, group, after: None, limit: 0 }, None).await {
        Ok(_) => Ok(()),
        Err(error) if error.code == ErrorCode::NotFound => Err(no_such_group()),
        Err(error) => Err(error.into()),
    }
}
