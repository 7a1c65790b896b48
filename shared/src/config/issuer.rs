//! An entry of `[[auth.issuers]]`.

use config::{Value, ValueKind};

use super::{
    schema::Issuer,
    source::read_secret,
    value::{Codec, Plain},
};

/// Reads one entry; what is wrong with it is said of the whole list.
pub(super) fn parse(value: &Value) -> Result<Issuer, String> {
    let ValueKind::Table(table) = &value.kind else { return Err("has an entry that is not a table".to_owned()) };
    if let Some(unknown) = table.keys().find(|key| !["issuer", "audience", "secret", "secret_file", "jwks_url"].contains(&key.as_str())) {
        return Err(format!("has an entry with the unknown key {unknown:?}"));
    }
    let field = |key: &str| match table.get(key) {
        Some(value) => <Plain as Codec<String>>::parse(value).map(Some).map_err(|problem| format!("has an entry whose {key} {problem}")),
        None => Ok(None),
    };
    let issuer = field("issuer")?.ok_or("has an entry without issuer")?;
    let audience = field("audience")?.ok_or_else(|| format!("has the issuer {issuer:?} without audience"))?;
    let secret = match (table.get("secret"), field("secret_file")?) {
        (Some(_), Some(_)) => return Err(format!("has the issuer {issuer:?} with both secret and secret_file")),
        (Some(value), None) => Some(Plain::parse(value).map_err(|problem| format!("has the issuer {issuer:?} whose secret {problem}"))?),
        (None, Some(path)) => {
            Some(read_secret(path.as_ref()).map_err(|problem| format!("has the issuer {issuer:?} whose secret_file {problem}"))?)
        }
        (None, None) => None,
    };
    Ok(Issuer { jwks_url: field("jwks_url")?, issuer, audience, secret })
}
