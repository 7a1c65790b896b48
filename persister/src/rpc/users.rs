//! Users: finding them, and the claiming of handles.
//!
//! A handle is first come, first served, for good. Whose claim is taken, or is another user's id,
//! or is none, goes by the id; and where somebody claimed that before, by the id with a suffix no
//! claim may have. So no claim takes the handle or id of a user who is known already, and none has
//! characters that cannot be seen; letters that look alike are the issuer's to prevent. Claims and
//! [`FindUser::Handle`] compare exactly; only lists of users ignore case.

use std::collections::HashMap;

use natter_shared::{
    id::UserId,
    rpc::{Answer, FindUser, Profile, RpcError, SignIn, is_display_name, is_handle},
    timestamp::Timestamp,
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use uuid::Uuid;

use super::context::{Context, Snapshot, column};
use crate::{
    database::{
        Store,
        rows::{Kind, Rows},
    },
    error::is_taken,
};

pub(super) async fn find(context: &Context, call: FindUser) -> Result<Answer<Option<Profile>>, RpcError> {
    let snapshot = context.snapshot().await?;
    let (by, value) = match &call {
        FindUser::Id(id) => ("id", id.as_str()),
        FindUser::Handle(handle) => ("handle", handle.as_str()),
    };
    // PostgreSQL's text cannot hold it, so nobody is called so.
    if value.contains('\0') {
        return snapshot.answer(None).await;
    }
    let sql = format!("SELECT id, handle, display_name FROM users WHERE {by} = ? AND erased_at IS NULL");
    let found = snapshot.one(&sql, [value.into()]).await?.as_ref().map(profile).transpose()?;
    snapshot.answer(found).await
}

/// The profile in a row with `id`, `handle` and `display_name`.
pub(super) fn profile(row: &QueryResult) -> Result<Profile, RpcError> {
    let id: String = column(row, "id")?;
    let id = UserId::new(&id).map_err(|_| crate::error::not_found())?;
    Ok(Profile { id, handle: column(row, "handle")?, display_name: column(row, "display_name")? })
}

/// What a token says of its user, cleaned.
#[derive(PartialEq, Eq)]
pub(super) struct Claims {
    handle: Option<String>,
    name: Option<String>,
}

impl Claims {
    pub(super) fn of(call: &SignIn) -> Self {
        let clean = |text: &Option<String>, fits: fn(&str) -> bool| {
            let text = text.as_deref()?.trim();
            fits(text).then(|| text.to_owned())
        };
        // The tilde marks the suffix of ids whose handle was taken.
        let handle = clean(&call.handle, is_handle).filter(|handle| !handle.contains('~'));
        Self { handle, name: clean(&call.display_name, is_display_name) }
    }
}

const CLAIMED: &str = "SELECT id, handle, display_name, claimed_handle, claimed_name, placeholder FROM users WHERE";

/// The profile of `user` as `snapshot` has it, unless `claims` are news.
pub(super) async fn unchanged(snapshot: &Snapshot<'_>, user: &UserId, claims: &Claims) -> Result<Option<Profile>, RpcError> {
    let row = snapshot.one(&format!("{CLAIMED} id = ?"), [user.as_str().into()]).await?;
    let Some((profile, before)) = row.as_ref().map(claimed).transpose()?.flatten() else { return Ok(None) };
    Ok((before == *claims).then_some(profile))
}

/// Those of `users` whom there are; of those who have signed in before, the profiles and what they claimed then.
pub(super) async fn claimed_by(snapshot: &Snapshot<'_>, users: &[&UserId]) -> Result<HashMap<String, Option<(Profile, Claims)>>, RpcError> {
    let rows = snapshot.all_of(users, &format!("{CLAIMED} id IN (SELECT i FROM v)")).await?;
    rows.iter().map(|row| Ok((column(row, "id")?, claimed(row)?))).collect()
}

/// Nothing where the row only stands for somebody who was mentioned.
fn claimed(row: &QueryResult) -> Result<Option<(Profile, Claims)>, RpcError> {
    if column::<bool>(row, "placeholder")? {
        return Ok(None);
    }
    let before = Claims { handle: column(row, "claimed_handle")?, name: column(row, "claimed_name")? };
    Ok(Some((profile(row)?, before)))
}

/// Writes what `claims` say of `user`.
pub(super) async fn claim(store: &Store, user: &UserId, claims: &Claims) -> Result<(), DbErr> {
    let key = Uuid::from_u128(user.key().0);
    let fallbacks = [
        user.as_str().to_owned(),
        format!("{user}~{}", &key.simple().to_string().get(..8).unwrap_or_default()),
        format!("{user}~{}", key.simple()),
    ];
    for handle in claims.handle.iter().chain(&fallbacks) {
        match try_claim(store, user, key, handle, claims).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // Somebody took it this moment.
            Err(error) if is_taken(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(DbErr::RecordNotInserted)
}

/// Writes what is claimed of users whom nobody has heard of, by one statement. Whose handle is not free is left out.
pub(super) async fn claim_new(store: &Store, users: &HashMap<&UserId, Claims>) -> Result<(), DbErr> {
    let mut rows = Rows::new([
        ("id", Kind::Text),
        ("key", Kind::Uuid),
        ("handle", Kind::Text),
        ("display_name", Kind::Text),
        ("claimed_handle", Kind::MaybeText),
        ("claimed_name", Kind::MaybeText),
        ("created_at", Kind::Int),
    ]);
    let now = Timestamp::now().0 as i64;
    let mut users: Vec<_> = users.iter().collect();
    // In the order of ids: two calls that make the same must not wait for each other.
    users.sort_unstable_by_key(|(user, _)| user.as_str());
    for (user, claims) in users {
        let handle = claims.handle.as_deref().unwrap_or(user.as_str());
        let shown = claims.name.as_deref().unwrap_or(handle);
        let key = Uuid::from_u128(user.key().0);
        rows.push([
            user.as_str().into(),
            key.into(),
            handle.into(),
            shown.into(),
            claims.handle.clone().into(),
            claims.name.clone().into(),
            now.into(),
        ]);
    }
    let sql = "INSERT INTO users (id, key, handle, display_name, claimed_handle, claimed_name, placeholder, created_at) \
               SELECT v.id, v.key, v.handle, v.display_name, v.claimed_handle, v.claimed_name, FALSE, v.created_at FROM v \
               WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.id = v.handle AND u.id <> v.id) ON CONFLICT DO NOTHING";
    let write = store.write().await?;
    rows.execute(&write.transaction, sql).await?;
    write.commit().await
}

/// Claims `handle` for `user`, who keeps an earlier handle if this one is no claim of a token.
async fn try_claim(store: &Store, user: &UserId, key: Uuid, handle: &str, claims: &Claims) -> Result<bool, DbErr> {
    let write = store.write().await?;
    let taken = store.statement(
        "SELECT 1 AS one FROM users WHERE (handle = ? OR id = ?) AND id <> ? LIMIT 1",
        [handle.into(), handle.into(), user.as_str().into()],
    );
    if write.transaction.query_one_raw(taken).await?.is_some() {
        write.rollback().await?;
        return Ok(false);
    }
    let shown = claims.name.clone().unwrap_or_else(|| handle.to_owned());
    let is_claim = claims.handle.as_deref() == Some(handle);
    let now = Timestamp::now().0 as i64;
    // A fallback replaces no handle that was won before; the display name follows the handle kept.
    let sql = "INSERT INTO users (id, key, handle, display_name, claimed_handle, claimed_name, placeholder, created_at) \
               VALUES (?, ?, ?, ?, ?, ?, FALSE, ?) ON CONFLICT (id) DO UPDATE SET \
               handle = CASE WHEN ? OR users.erased_at IS NOT NULL THEN excluded.handle ELSE users.handle END, \
               display_name = CASE WHEN ? OR excluded.claimed_name IS NOT NULL OR users.erased_at IS NOT NULL \
               THEN excluded.display_name ELSE users.handle END, \
               claimed_handle = excluded.claimed_handle, claimed_name = excluded.claimed_name, placeholder = FALSE, erased_at = NULL";
    let values = [
        user.as_str().into(),
        key.into(),
        handle.into(),
        shown.into(),
        claims.handle.clone().into(),
        claims.name.clone().into(),
        now.into(),
        is_claim.into(),
        is_claim.into(),
    ];
    write.transaction.execute_raw(store.statement(sql, values)).await?;
    write.commit().await?;
    Ok(true)
}
