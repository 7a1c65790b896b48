//! An entry of `[[auth.issuers]]`.

use config::{Map, Value, ValueKind};

use super::{
    schema::{Algorithm, Issuer},
    source::read_secret,
    value::{Codec, Plain},
};

const KEYS: [&str; 8] = ["issuer", "audience", "algorithm", "secret", "secret_file", "public_key", "public_key_file", "jwks_url"];

/// Reads one entry; what is wrong with it is said of the whole list.
pub(super) fn parse(value: &Value) -> Result<Issuer, String> {
    let ValueKind::Table(table) = &value.kind else { return Err("has an entry that is not a table".to_owned()) };
    if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("has an entry with the unknown key {unknown:?}"));
    }
    let issuer: String = field(table, "issuer", "an entry")?.ok_or("has an entry without issuer")?;
    let of = format!("the issuer {issuer:?}");
    Ok(Issuer {
        audience: field(table, "audience", &of)?.ok_or_else(|| format!("has {of} without audience"))?,
        algorithm: field(table, "algorithm", &of)?.unwrap_or(Algorithm::HS256),
        secret: field_or_file(table, "secret", &of)?,
        public_key: field_or_file(table, "public_key", &of)?,
        jwks_url: field(table, "jwks_url", &of)?,
        issuer,
    })
}

fn field<T>(table: &Map<String, Value>, key: &str, of: &str) -> Result<Option<T>, String>
where
    Plain: Codec<T>,
{
    let parsed = table.get(key).map(<Plain as Codec<T>>::parse).transpose();
    parsed.map_err(|problem| format!("has {of} whose {key} {problem}"))
}

/// The field, or what is in the file that `<key>_file` names.
fn field_or_file<T>(table: &Map<String, Value>, key: &str, of: &str) -> Result<Option<T>, String>
where
    Plain: Codec<T>,
{
    let file_key = format!("{key}_file");
    let Some(file) = field::<String>(table, &file_key, of)? else { return field(table, key, of) };
    if table.contains_key(key) {
        return Err(format!("has {of} with both {key} and {file_key}"));
    }
    let read = read_secret(file.as_ref()).and_then(|text| Plain::parse(&Value::new(None, text.expose())));
    read.map(Some).map_err(|problem| format!("has {of} whose {file_key} {problem}"))
}
