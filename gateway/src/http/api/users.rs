//! Other users.

use std::sync::Arc;

use axum::{Json, extract::State};
use natter_shared::{
    id::UserId,
    rpc::{AfterUser, FindUser, ListUsers},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    access::User,
    extract::{Asked, At},
    page::{self, Page},
    words::UserWord,
};
use crate::http::Problem;

const LIST: &str = "users";

/// The longest prefix or handle that is looked for, in bytes.
const LONGEST: usize = 256;

/// Which users.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// How the handle or display name begins, whatever the case.
    #[param(max_length = 256)]
    prefix: Option<String>,
    /// The handle, exactly; instead of `prefix`.
    #[param(max_length = 256)]
    handle: Option<String>,
}

/// A cursor's key.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum After {
    /// As the release before has it.
    Handle(String),
    HandleAndName(String, String),
}

impl From<AfterUser> for After {
    fn from(AfterUser { handle, name }: AfterUser) -> Self {
        match name {
            None => Self::Handle(handle),
            Some(name) => Self::HandleAndName(handle, name),
        }
    }
}

/// A page of users.
#[derive(Serialize, ToSchema)]
pub(super) struct Users {
    users: Vec<UserWord>,
    /// Where the next page begins; null at the end. A page may have fewer users than asked for, or none, and not be the last.
    #[schema(required = true)]
    next: Option<String>,
}

/// Other users: all in the order of their handles; or those whose handle begins so and behind them, in the
/// order of names, those whose display name does; or the one with this handle.
#[utoipa::path(get, path = "/api/v1/users", tag = "users", params(Which, Page), responses((status = 200, body = Users)))]
pub(super) async fn list_users(
    State(api): State<Arc<Api>>,
    User(identity): User,
    Asked(which): Asked<Which>,
    Asked(page): Asked<Page>,
) -> Result<Json<Users>, Problem> {
    let limit = page.limit()?;
    let after = page.after::<After>(LIST)?;
    let prefix = match (which.prefix, which.handle) {
        (Some(_), Some(_)) => return Err(Problem::bad_request("users are listed by `prefix` or found by `handle`")),
        (None, Some(handle)) => {
            let found = api.call(FindUser::Handle(plain("handle", handle)?)).await?.reply;
            return Ok(Json(Users { users: found.into_iter().map(UserWord::from).collect(), next: None }));
        }
        (prefix, None) => plain("prefix", prefix.unwrap_or_default())?,
    };
    let (after, after_name) = match after {
        None => (None, None),
        Some(After::Handle(handle)) => (Some(handle), None),
        Some(After::HandleAndName(handle, name)) => (Some(handle), Some(name)),
    };
    let [after, after_name] = [after, after_name].map(|text| text.map(|text| plain("cursor", text)).transpose());
    let call = ListUsers { user: Some(identity.user), prefix, after: after?, after_name: after_name?, limit };
    let found = api.call(call).await?.reply;
    // A persister of the release before tells no `next`.
    let last = || found.users.last().map(|user| After::Handle(user.handle.clone()));
    let next = page::next(LIST, found.more, found.next.clone().map(After::from).or_else(last));
    Ok(Json(Users { users: found.users.into_iter().map(UserWord::from).collect(), next }))
}

/// Text that SQL can look for.
fn plain(name: &str, text: String) -> Result<String, Problem> {
    if text.len() <= LONGEST && !text.chars().any(char::is_control) {
        Ok(text)
    } else {
        Err(Problem::bad_request(format!("`{name}` has at most {LONGEST} bytes and no control characters")))
    }
}

/// A user.
#[utoipa::path(
    get, path = "/api/v1/users/{user}", tag = "users",
    params(("user" = String, Path, description = "A user's id")),
    responses((status = 200, body = UserWord)),
)]
pub(super) async fn get_user(State(api): State<Arc<Api>>, _: User, At(user): At<UserId>) -> Result<Json<UserWord>, Problem> {
    find(&api, user).await.map(Json)
}

/// A user who must be known.
pub(super) async fn find(api: &Api, user: UserId) -> Result<UserWord, Problem> {
    let found = api.call(FindUser::Id(user)).await?.reply;
    found.map(UserWord::from).ok_or_else(|| Problem::not_found("there is no such user"))
}
