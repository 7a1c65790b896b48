//! Lists of users: all, or those whose handle begins so and behind them those whose display name does.
//!
//! Either part is walked in the order of its index, so that a page costs what it shows. Where names go like
//! handles, most whom the second part comes to were in the first: it looks at so many of them for one
//! page, and says where it stopped.

use std::collections::BTreeMap;

use natter_shared::{
    id::UserId,
    rpc::{AfterUser, Answer, ListUsers, Profile, RpcError, UsersPage},
};
use sea_orm::{DbBackend, QueryResult, Value};

use super::{
    context::{Context, Snapshot, column},
    users,
};

/// Users in a page at most.
const MAX_USERS: u32 = 200;

/// Users that are looked at for a page, about.
const WALKED: usize = 10_000;

/// Users that one statement looks at, at most.
const SLICE: usize = 2000;

/// How the handles of erased users begin, and no others; and what comes behind them.
const ERASED: [&str; 2] = ["erased~", "erased\u{7f}"];

/// Spellings of a prefix that are looked for at most.
const MAX_SPELLINGS: usize = 16;

/// Where a user stands in a list: handles and names without regard to case, then handles by their bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    ByHandle { folded: String, handle: String },
    ByName { name: String, folded: String, handle: String },
}

impl Place {
    fn by_handle(handle: &str) -> Self {
        Self::ByHandle { folded: handle.to_ascii_lowercase(), handle: handle.to_owned() }
    }

    fn by_name(name: &str, handle: &str) -> Self {
        Self::ByName { name: name.to_ascii_lowercase(), folded: handle.to_ascii_lowercase(), handle: handle.to_owned() }
    }
}

impl From<Place> for AfterUser {
    fn from(place: Place) -> Self {
        match place {
            Place::ByHandle { handle, .. } => Self { handle, name: None },
            Place::ByName { name, handle, .. } => Self { handle, name: Some(name) },
        }
    }
}

/// What begins so is from the first on and before the second.
struct Range(String, String);

struct Search<'a> {
    snapshot: &'a Snapshot<'a>,
    /// A prefix in each of its spellings.
    ranges: Vec<Range>,
    /// Who asks, and is left out.
    user: &'a str,
}

pub(super) async fn list(context: &Context, call: ListUsers) -> Result<Answer<UsersPage>, RpcError> {
    let snapshot = context.snapshot().await?;
    // PostgreSQL's text cannot hold it, so nobody is called so.
    if [Some(&call.prefix), call.after.as_ref(), call.after_name.as_ref()].into_iter().flatten().any(|text| text.contains('\0')) {
        return snapshot.answer(UsersPage { users: Vec::new(), more: false, next: None }).await;
    }
    let limit = call.limit.clamp(1, MAX_USERS) as usize;
    let ranges = spellings(&call.prefix).into_iter().map(|spelling| Range(spelling.clone(), format!("{spelling}\u{10ffff}")));
    let user = call.user.as_ref().map_or("", UserId::as_str);
    let search = Search { snapshot: &snapshot, ranges: ranges.collect(), user };
    let mut at = search.start(&call).await?;
    // One more says that there is more, and one may be left out.
    let (mut found, mut is_over, mut walked, mut size) = (Vec::new(), false, 0, limit + 2);
    while found.len() <= limit && !is_over && walked < WALKED {
        let slice = search.slice(&at, size).await?;
        let is_last = slice.len() < size;
        walked += slice.len();
        for (place, shown) in slice {
            at = place.clone();
            found.extend(shown.map(|profile| (place, profile)));
        }
        if is_last {
            match at {
                Place::ByHandle { .. } if !call.prefix.is_empty() => at = Place::by_name("", ""),
                Place::ByHandle { .. } | Place::ByName { .. } => is_over = true,
            }
        }
        size = (size * 4).min(SLICE);
    }
    let next = if found.len() > limit {
        found.truncate(limit);
        found.last().map(|(place, _)| place.clone())
    } else {
        (!is_over).then_some(at)
    };
    let users = found.into_iter().map(|(_, profile)| profile).collect();
    snapshot.answer(UsersPage { users, more: next.is_some(), next: next.map(AfterUser::from) }).await
}

impl Search<'_> {
    /// Whether text that is folded begins as is looked for.
    fn begins(&self, folded: &str) -> bool {
        self.ranges.iter().any(|Range(from, end)| folded >= from.as_str() && folded < end.as_str())
    }

    async fn start(&self, call: &ListUsers) -> Result<Place, RpcError> {
        let after = call.after.as_deref().unwrap_or_default();
        if let Some(name) = &call.after_name {
            return Ok(Place::by_name(name, after));
        }
        if after.is_empty() || self.begins(&after.to_ascii_lowercase()) {
            return Ok(Place::by_handle(after));
        }
        // A gateway of the release before tells no name.
        let named = self.snapshot.one("SELECT display_name FROM users WHERE handle = ?", [after.into()]).await?;
        let name: Option<String> = named.as_ref().map(|row| column(row, "display_name")).transpose()?;
        Ok(name.map_or_else(|| Place::by_name("", ""), |name| Place::by_name(&name, after)))
    }

    /// The next `count` users behind `at` in the part of the list that it is in; none in place of one who is not shown.
    async fn slice(&self, at: &Place, count: usize) -> Result<Vec<(Place, Option<Profile>)>, RpcError> {
        let mut slice = BTreeMap::new();
        for range in &self.ranges {
            let rows = match at {
                Place::ByHandle { folded, handle } => self.by_handle(range, behind_erased(folded), handle, count).await?,
                Place::ByName { name, .. } if *name >= range.1 => continue,
                Place::ByName { name, .. } if *name < range.0 => self.by_name(range, [&range.0, "", ""], count).await?,
                Place::ByName { name, folded, handle } => self.by_name(range, [name, behind_erased(folded), handle], count).await?,
            };
            for row in rows {
                let profile = users::profile(&row)?;
                let (place, is_told) = match at {
                    Place::ByHandle { .. } => (Place::by_handle(&profile.handle), false),
                    Place::ByName { .. } => {
                        (Place::by_name(&profile.display_name, &profile.handle), self.begins(&profile.handle.to_ascii_lowercase()))
                    }
                };
                let is_shown = !is_told && !column::<bool>(&row, "erased")? && profile.id.as_str() != self.user;
                slice.insert(place, is_shown.then_some(profile));
            }
        }
        Ok(slice.into_iter().take(count).collect())
    }

    async fn by_handle(&self, range: &Range, folded: &str, handle: &str, count: usize) -> Result<Vec<QueryResult>, RpcError> {
        let sql = "SELECT id, handle, display_name, erased_at IS NOT NULL AS erased FROM users \
                   WHERE lower(handle) >= ? AND lower(handle) < ? AND (lower(handle) > ? OR handle > ?) \
                   ORDER BY lower(handle), handle LIMIT ?";
        let from = folded.max(&range.0);
        let values = [from.into(), range.1.clone().into(), folded.into(), handle.into(), (count as i64).into()];
        self.snapshot.all(sql, values).await
    }

    /// From a name, and among those who have it from a handle, on. They are looked for apart: by one comparison of all three SQLite
    /// would read everybody of that name for each page.
    async fn by_name(&self, range: &Range, [name, folded, handle]: [&str; 3], count: usize) -> Result<Vec<QueryResult>, RpcError> {
        let key = match self.snapshot.backend() {
            DbBackend::Sqlite => "lower(display_name)",
            _ => "lower(display_name COLLATE \"C\")",
        };
        let columns = "id, handle, display_name, erased_at IS NOT NULL AS erased";
        let sql = format!(
            "SELECT * FROM (SELECT {columns} FROM users WHERE {key} = ? AND lower(handle) >= ? AND (lower(handle) > ? OR handle > ?) \
             ORDER BY {key}, lower(handle), handle LIMIT ?) AS of_it UNION ALL \
             SELECT * FROM (SELECT {columns} FROM users WHERE {key} > ? AND {key} < ? ORDER BY {key}, lower(handle), handle LIMIT ?) AS behind"
        );
        let count = || Value::from(count as i64);
        let of_it = [name.into(), folded.into(), folded.into(), handle.into(), count()];
        self.snapshot.all(&sql, of_it.into_iter().chain([name.into(), range.1.clone().into(), count()])).await
    }
}

/// Where to go on behind a handle: of erased users, who lie beside each other, all the others are passed over.
fn behind_erased(folded: &str) -> &str {
    let [erased, behind] = ERASED;
    if folded.starts_with(erased) { behind } else { folded }
}

/// The ways in which `prefix` may be written where a-z is folded: SQL folds only these, so of any
/// other letter both cases are looked for.
fn spellings(prefix: &str) -> Vec<String> {
    let mut spellings = vec![String::new()];
    for c in prefix.chars() {
        let mut cases = vec![c.to_ascii_lowercase().to_string()];
        if !c.is_ascii() {
            // Some letter's other case is of a-z: it is looked for as SQL folds it.
            cases.extend([c.to_lowercase().collect::<String>(), c.to_uppercase().collect()].map(|case| case.to_ascii_lowercase()));
            cases.sort();
            cases.dedup();
            if cases.len() * spellings.len() > MAX_SPELLINGS {
                cases = vec![c.to_string()];
            }
        }
        spellings = spellings.iter().flat_map(|before| cases.iter().map(move |case| format!("{before}{case}"))).collect();
    }
    spellings
}

#[cfg(test)]
mod tests {
    use super::spellings;

    #[test]
    fn every_spelling_is_folded_as_sql_does_it() {
        assert_eq!(spellings("ısp"), ["isp", "ısp"]);
        assert_eq!(spellings("Ör"), ["Ör", "ör"]);
        assert_eq!(spellings("\u{212a}"), ["k", "\u{212a}"]);
    }
}
