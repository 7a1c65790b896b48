//! Asking for a user's erasure, and waiting for it. The persister carries it out
//! ([`crate::erasure`]): a command knows no broker.

use std::time::Duration;

use natter_shared::{id::UserId, timestamp::Timestamp};
use sea_orm::{ConnectionTrait, EntityTrait};
use tokio::time::{Instant, sleep};

use super::AdminError;
use crate::{
    database::Store,
    entity::{erasures, users},
    erasure::Stage,
};

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(300);

/// Asks for it, and waits for as long as `patience` says.
pub(super) async fn erase(store: &Store, user: &UserId, patience: Option<Duration>) -> Result<(), AdminError> {
    let before = erasures::Entity::find_by_id(user.as_str()).one(store.database()).await?;
    if before.is_none() && users::Entity::find_by_id(user.as_str()).one(store.database()).await?.is_none() {
        return Err(AdminError::NoUser(user.to_string()));
    }
    // One that is under way goes on where it is; one that is done begins anew: the user may be back.
    let sql = "INSERT INTO erasures (user_id, requested_at, stage) VALUES (?, ?, ?) ON CONFLICT (user_id) DO UPDATE SET \
               requested_at = excluded.requested_at, stage = excluded.stage, after_id = NULL, finished_at = NULL, messages = 0, \
               notifications = 0 WHERE erasures.finished_at IS NOT NULL";
    let now = Timestamp::now().0 as i64;
    store.execute(sql, [user.as_str().into(), now.into(), Stage::Memberships.as_str().into()]).await?;
    store.sync().await?;
    let Some(patience) = patience else {
        eprintln!("Asked for. A running persister erases {user:?} within minutes.");
        return Ok(());
    };
    let deadline = Instant::now() + patience;
    let mut told = String::new();
    while Instant::now() < deadline {
        // A fresh look each time: PostgreSQL's connections begin at REPEATABLE READ.
        let statement = store.statement("SELECT * FROM erasures WHERE user_id = ?", [user.as_str().into()]);
        let row = store.database().query_one_raw(statement).await?;
        if let Some(row) = row {
            let finished: Option<i64> = row.try_get("", "finished_at")?;
            let (messages, notifications): (i64, i64) = (row.try_get("", "messages")?, row.try_get("", "notifications")?);
            if finished.is_some() {
                eprintln!("Erased: {messages} messages and {notifications} notifications emptied or deleted.");
                return Ok(());
            }
            let stage: String = row.try_get("", "stage")?;
            let now = format!("{stage}: {messages} messages, {notifications} notifications so far");
            if now != told {
                eprintln!("{now}");
                told = now;
            }
        }
        sleep(LOOK).await;
    }
    Err(AdminError::NotErased(patience))
}
