//! Keys of the server API: which one has a hash.

use natter_shared::rpc::{Answer, ApiKey, CheckApiKey, RpcError};

use super::context::{Context, column};

pub(super) async fn check(context: &Context, call: CheckApiKey) -> Result<Answer<Option<ApiKey>>, RpcError> {
    let snapshot = context.snapshot().await?;
    // PostgreSQL's text cannot hold U+0000; no hash has one.
    let sha256 = call.sha256.replace('\0', "");
    let row = snapshot.one("SELECT id, name FROM api_keys WHERE sha256 = ? AND revoked_at IS NULL", [sha256.into()]).await?;
    let key = row.as_ref().map(|row| Ok::<_, RpcError>(ApiKey { id: column(row, "id")?, name: column(row, "name")? })).transpose()?;
    snapshot.answer(key).await
}
