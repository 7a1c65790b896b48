//! Where the database is, and that no error tells its password.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt};

use natter_shared::config::database_url;
use sea_orm::{DbErr, RuntimeErr};

/// What cannot be a database's URL is not shown to the driver: it would say all of it.
pub(super) fn check(url: &str) -> Result<(), DbErr> {
    database_url::problem(url).map_or(Ok(()), |problem| Err(refused(format!("database.url: {problem}"))))
}

/// Makes the file of an SQLite URL where there is none, for its user only: SQLite would make it for all to read, and gives
/// its mode to the files beside it.
pub(super) fn make_private(url: &str) {
    let Some(path) = database_url::sqlite_file(url) else { return };
    if path.as_os_str().is_empty() {
        return;
    }
    // One that is there is not opened: closing it would let go of the locks that this process has on it. Of one that cannot
    // be made SQLite says why.
    let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::{connect, migrate, options::DatabaseOptions};

    #[tokio::test]
    async fn a_new_database_file_is_for_its_user_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a new one.db");
        let url = database_url::of_sqlite_file(&file);
        let database = connect(&DatabaseOptions { url, ..DatabaseOptions::default() }).await.unwrap();
        migrate(&database).await.unwrap();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let (name, metadata) = entry.map(|entry| (entry.file_name(), entry.metadata().unwrap())).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{}", name.display());
        }
        assert!(file.exists());
    }

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
