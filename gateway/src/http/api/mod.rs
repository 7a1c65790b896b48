//! The HTTP API under `/api/v1` (docs/http.md): the user API, and under `server/` the one for the
//! application's back end. A request passes CORS, then [`access`] (who calls, how often) and
//! [`extract`] (path, query, body, idempotency key), then the handler of its theme, which asks the
//! persister or stores a draft; what is answered is in [`words`]. [`openapi`] describes all of it,
//! from the handlers themselves.

mod access;
mod cors;
mod extract;
mod groups;
mod keys;
mod me;
mod members;
mod messages;
mod notifications;
mod openapi;
mod page;
mod server;
mod users;
mod words;

use std::{sync::Arc, time::Duration};

use axum::Router;
use moka::sync::Cache;
use natter_shared::{
    broker::Broker,
    config::Limits,
    id::{GroupId, UserKey},
    position::Position,
    rpc::{self, Answer, Rpc, ShardPosition},
    subject::Topic,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::keys::Keys;
use super::Problem;
use crate::{app::App, publish::Intake};
pub(super) use cors::cors;

/// How long a call tries to get something stored, or waits until SQL shows it. Shorter than the
/// deadline of a request: what is not known by then is answered, and may be tried again.
const PATIENCE: Duration = Duration::from_secs(6);

/// Users and groups that a gateway remembers something of.
const REMEMBERED: u64 = 100_000;

/// What all calls share.
struct Api {
    app: Arc<App>,
    keys: Keys,
    /// Users whom the persister was told of lately, by a hash of what their token says.
    introduced: Cache<u64, ()>,
    /// The last message that a user sent to a group over this gateway: the history shows it.
    sent: Cache<(UserKey, GroupId), Position>,
}

impl Api {
    fn new(app: Arc<App>) -> Self {
        let cache = |lifetime| Cache::builder().max_capacity(REMEMBERED).time_to_live(lifetime).build();
        let sent = Cache::builder().max_capacity(REMEMBERED).time_to_live(Duration::from_mins(1)).build();
        Self { app, keys: Keys::new(), introduced: cache(Duration::from_mins(5)), sent }
    }

    fn broker(&self) -> &dyn Broker {
        &*self.app.broker
    }

    fn intake(&self) -> &Intake {
        &self.app.intake
    }

    fn limits(&self) -> &Limits {
        &self.app.config.limits
    }

    async fn call<T: Rpc>(&self, call: T) -> Result<Answer<T::Reply>, Problem> {
        self.call_behind(call, None).await
    }

    async fn call_behind<T: Rpc>(&self, call: T, at: Option<ShardPosition>) -> Result<Answer<T::Reply>, Problem> {
        rpc::call(self.broker(), call, at).await.map_err(Problem::from)
    }

    /// A call whose answer depends on who is a member: SQL must know what was stored in the group's
    /// shard until a few seconds ago, and where it is behind, the call fails and may be repeated.
    async fn call_of_member<T: Rpc>(&self, call: T, group: GroupId, at: Option<Position>) -> Result<Answer<T::Reply>, Problem> {
        let shard = self.broker().shards().of(Topic::Group(group));
        let floor = match self.app.knowledge.recent(shard) {
            Some((_, position)) => position,
            None => {
                let log = self.broker().log_state(shard).await.map_err(rpc::RpcError::from)?;
                Position::new(log.epoch, log.last)
            }
        };
        let position = floor.max(at.unwrap_or_default());
        self.call_behind(call, Some(ShardPosition { shard: shard.0, position })).await
    }
}

/// All calls, with their own description.
fn described() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(me::me))
        .routes(routes!(users::list_users))
        .routes(routes!(users::get_user))
        .routes(routes!(groups::list_groups, groups::create_group))
        .routes(routes!(groups::create_single))
        .routes(routes!(groups::join_open))
        .routes(routes!(groups::get_group, groups::rename_group))
        .routes(routes!(groups::leave_group))
        .routes(routes!(members::list_members))
        .routes(routes!(members::put_member, members::delete_member))
        .routes(routes!(messages::list_messages, messages::post_message))
        .routes(routes!(messages::put_read))
        .routes(routes!(notifications::list_notifications, notifications::post_notification))
        .routes(routes!(notifications::count_notifications))
        .routes(routes!(notifications::mark_seen))
        .routes(routes!(notifications::mark_read))
        .routes(routes!(notifications::mark_archived))
        .merge(server::described())
        .routes(routes!(openapi::document))
}

/// The routes over whatever stands behind them.
pub(super) fn routes(app: Arc<App>) -> Router<Arc<App>> {
    let (router, _) = described().split_for_parts();
    router.with_state(Arc::new(Api::new(app)))
}

/// No such group, or not for this user to know of.
fn no_such_group() -> Problem {
    Problem::not_found("no such group")
}
