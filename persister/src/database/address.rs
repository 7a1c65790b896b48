//! Where the database is, and that no error tells its password.

use natter_shared::config::database_url;
use sea_orm::{DbErr, RuntimeErr};

/// What cannot be a database's URL is not shown to the driver: it would say all of it.
pub(super) fn check(url: &str) -> Result<(), DbErr> {
    database_url::problem(url).map_or(Ok(()), |problem| Err(refused(format!("database.url: {problem}"))))
}

/// The error, with neither the URL nor its password in it.
pub(super) fn without_secrets(error: DbErr, url: &str) -> DbErr {
    let text = error.to_string();
    let told = database_url::hide(url, &text);
    if told == text { error } else { refused(told) }
}

fn refused(text: String) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{connect, options::DatabaseOptions};

    #[tokio::test]
    async fn no_error_of_connecting_tells_the_password() {
        for url in ["postgres://natter:hid/den@db/natter", "postgres://natter:hidden@/natter?host=/run/postgresql", "mysql://n:hidden@db/n"]
        {
            let error = connect(&DatabaseOptions { url: url.to_owned(), ..DatabaseOptions::default() }).await.unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(told.contains("database.url") && !told.contains("hid") && !told.contains("den@"), "{told}");
        }
        let url = "postgres://natter:hidden@db/natter";
        let error = without_secrets(DbErr::Custom(format!("no {url}, hidden")), url);
        assert!(!format!("{error} {error:?}").contains("hidden"), "{error}");
    }
}
