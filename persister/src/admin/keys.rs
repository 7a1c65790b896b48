//! Keys of the server API: made, listed, revoked. The text of a key is told once; what is kept is
//! its SHA-256, which is enough to know it again: a key is 256 random bits, not a password.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use natter_shared::timestamp::Timestamp;
use sea_orm::{EntityTrait, QueryOrder};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::AdminError;
use crate::{database::Store, entity::api_keys};

/// What the text of every key begins with, so that people and scanners of secrets know it.
const PREFIX: &str = "ntr_";

pub(super) async fn create(store: &Store, name: &str, json: bool) -> Result<(), AdminError> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        return Err(AdminError::Name);
    }
    let key = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&rand::random::<[u8; 32]>()));
    let id = Uuid::now_v7();
    let sql = "INSERT INTO api_keys (id, name, sha256, created_at) VALUES (?, ?, ?, ?)";
    let sha256 = HEXLOWER.encode(&Sha256::digest(key.as_bytes()));
    let now = Timestamp::now().0 as i64;
    store.execute(sql, [id.into(), name.into(), sha256.into(), now.into()]).await?;
    store.sync().await?;
    if json {
        println!("{}", serde_json::json!({ "id": id, "name": name, "key": key }));
    } else {
        println!("{key}");
        eprintln!("Key {id} ({name}). It is not shown again: keep it where secrets are kept.");
    }
    Ok(())
}

pub(super) async fn list(store: &Store, json: bool) -> Result<(), AdminError> {
    let keys = api_keys::Entity::find().order_by_asc(api_keys::Column::CreatedAt).all(store.database()).await?;
    let time = |at: i64| Timestamp(at as u64);
    if json {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| {
                let revoked_at = key.revoked_at.map(time);
                serde_json::json!({ "id": key.id, "name": key.name, "created_at": time(key.created_at), "revoked_at": revoked_at })
            })
            .collect();
        println!("{}", serde_json::Value::from(keys));
        return Ok(());
    }
    println!("{:36}  {:24}  {:24}  NAME", "ID", "CREATED", "REVOKED");
    for key in keys {
        let revoked = key.revoked_at.map_or_else(|| "-".to_owned(), |at| time(at).to_string());
        println!("{}  {}  {revoked:24}  {}", key.id, time(key.created_at), key.name);
    }
    Ok(())
}

pub(super) async fn revoke(store: &Store, id: Uuid) -> Result<(), AdminError> {
    let sql = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?";
    if store.execute(sql, [(Timestamp::now().0 as i64).into(), id.into()]).await? == 0 {
        return Err(AdminError::NoKey(id));
    }
    store.sync().await?;
    eprintln!("Key {id} is revoked.");
    Ok(())
}
