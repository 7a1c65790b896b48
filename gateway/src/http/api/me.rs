//! Oneself.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    access::{User, sign_in},
    words::{InboxWord, UserWord},
};
use crate::http::Problem;

/// Oneself.
#[derive(Serialize, ToSchema)]
pub(super) struct Me {
    user: UserWord,
    inbox: InboxWord,
}

/// Who I am, and the counts of my inbox.
#[utoipa::path(get, path = "/api/v1/me", tag = "users", responses((status = 200, body = Me)))]
pub(super) async fn me(State(api): State<Arc<Api>>, User(identity): User) -> Result<Json<Me>, Problem> {
    // Somebody may come for the first time.
    let signed_in = api.call(sign_in(&identity)).await?.reply;
    Ok(Json(Me { user: signed_in.profile.into(), inbox: signed_in.inbox.into() }))
}
