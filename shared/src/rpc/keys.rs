//! Keys of the server API.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::rpc;

/// Which key has this hash, if it is not revoked. The key itself is never sent or stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckApiKey {
    /// SHA-256 of the key's text, in lower-case hex.
    pub sha256: String,
}

/// A key of the server API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// By which it is listed and revoked.
    pub id: Uuid,
    /// What its maker called it.
    pub name: String,
}
rpc!("check_api_key", CheckApiKey => Option<ApiKey>, repeatable);
