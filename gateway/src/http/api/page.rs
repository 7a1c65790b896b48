//! Pages of lists: how many, and where to go on. A cursor holds the key of the last one told, so a
//! list that grows or shrinks meanwhile is neither skipped nor told twice; to clients it is opaque.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::IntoParams;

use crate::http::Problem;

/// The largest page.
pub(super) const LARGEST: u32 = 200;

const DEFAULT: u32 = 50;

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// How many at most (50).
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// Where to go on: `next` of the page before.
    cursor: Option<String>,
}

impl Page {
    /// How many.
    pub(super) fn limit(&self) -> Result<u32, Problem> {
        limit(self.limit)
    }

    /// The key after which to go on in the list of this name.
    pub(super) fn after<K: DeserializeOwned>(&self, list: &str) -> Result<Option<K>, Problem> {
        self.cursor.as_deref().map(|cursor| parse(list, cursor)).transpose()
    }
}

/// A page's size, where it is asked for.
pub(super) fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    match asked {
        None => Ok(DEFAULT),
        Some(limit @ 1..=LARGEST) => Ok(limit),
        Some(_) => Err(Problem::bad_request(format!("`limit` is 1 to {LARGEST}"))),
    }
}

/// The cursor behind the last one `told`, where there is more.
pub(super) fn next<K: Serialize>(list: &str, more: bool, told: Option<K>) -> Option<String> {
    let key = told.filter(|_| more)?;
    // Plain data: writing it cannot fail.
    serde_json::to_vec(&(list, key)).ok().map(|key| BASE64URL_NOPAD.encode(&key))
}

fn parse<K: DeserializeOwned>(list: &str, cursor: &str) -> Result<K, Problem> {
    let wrong = || Problem::bad_request("`cursor` is the `next` of a page of this list");
    let key = BASE64URL_NOPAD.decode(cursor.as_bytes()).map_err(|_| wrong())?;
    let (of, key): (String, K) = serde_json::from_slice(&key).map_err(|_| wrong())?;
    if of == list { Ok(key) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_by_its_own_list_only() {
        let cursor = next("users", true, Some("zoë".to_owned())).expect("a cursor");
        assert_eq!(parse::<String>("users", &cursor).expect("the key"), "zoë");
        assert!(parse::<String>("groups", &cursor).is_err());
        assert!(parse::<u64>("users", &cursor).is_err());
        for bad in ["", "!", "e30", "bnVsbA", "WyJ1c2VycyJd"] {
            assert!(parse::<String>("users", bad).is_err(), "{bad}");
        }
        assert_eq!(next("users", false, Some("zoë")), None);
    }

    #[test]
    fn limits_hold_at_their_edges() {
        assert_eq!(limit(None).ok(), Some(50));
        assert_eq!((limit(Some(1)).ok(), limit(Some(200)).ok()), (Some(1), Some(200)));
        assert!(limit(Some(0)).is_err() && limit(Some(201)).is_err());
    }
}
