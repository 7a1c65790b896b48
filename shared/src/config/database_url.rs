//! The database's URL. It may hold a password: nothing here shows any of it.

use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use url::{ParseError, Url};

/// What stands for something else in a URL's path, or may.
const SPECIAL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The URL of an SQLite file, whatever is in its path.
pub fn of_sqlite_file(path: &Path) -> String {
    // In a relative one the first folder would be a host, and few names are.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    format!("sqlite://{}", percent_encode(path.as_os_str().as_encoded_bytes(), SPECIAL))
}

/// The file of an SQLite URL; `None` of others.
pub fn sqlite_file(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = path.split('?').next().unwrap_or(path);
    Some(percent_decode_str(path).decode_utf8_lossy().into_owned().into())
}

/// What is wrong with `url`, to be put after its key.
///
/// Drivers say the whole URL where they cannot read it, and take it apart elsewhere than its writer meant where a password
/// is not percent-encoded.
pub fn problem(url: &str) -> Option<&'static str> {
    if url.starts_with("sqlite:") {
        let problem = "the value is not a URL: percent-encode the path (a space is %20), and begin an absolute one with sqlite:///";
        if Url::parse(url).is_err() {
            return Some(problem);
        }
        let is_in_memory = sqlite_file(url).is_some_and(|path| path.as_os_str() == ":memory:")
            || url.split_once('?').is_some_and(|(_, query)| query.contains("mode=memory"));
        let problem = "the value names no file: in memory each connection would have a database of its own. Say where the file is, as in \
                       sqlite:///var/lib/natter/natter.db";
        return is_in_memory.then_some(problem);
    }
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Some("the value does not begin with postgres:// or sqlite://");
    }
    let cut_short =
        |url: &Url| url.path().contains('@') || url.query().is_some_and(|query| query.contains('@')) || url.fragment().is_some();
    match Url::parse(url) {
        Ok(url) if !cut_short(&url) => None,
        Err(ParseError::EmptyHost) => {
            Some("the value has a user and no host: a socket's folder goes there, as in postgres://user:password@%2Frun%2Fpostgresql/name")
        }
        Ok(_) | Err(_) => {
            Some("the value is not a URL: percent-encode / # ? @ : and % in the user and the password (%2F %23 %3F %40 %3A %25)")
        }
    }
}

/// `text`, such as an error of the driver's, without the URL and its password.
pub fn hide(url: &str, text: &str) -> String {
    let mut text = text.replace(url, super::secret::MASK);
    let Ok(url) = Url::parse(url) else { return text };
    let written = url.password().unwrap_or_default();
    let mut passwords = vec![written.to_owned(), percent_decode_str(written).decode_utf8_lossy().into_owned()];
    passwords.extend(url.query_pairs().filter(|(key, _)| key == "password").map(|(_, value)| value.into_owned()));
    // Where it says no more than a name that may be said, errors are told as they are.
    let names = [url.username(), url.host_str().unwrap_or_default(), url.path().trim_start_matches('/')];
    for password in passwords.iter().filter(|password| !password.is_empty() && !names.contains(&password.as_str())) {
        text = text.replace(password, super::secret::MASK);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_percent_encoded_or_refused_and_never_shown() {
        for good in [
            "postgres://natter:pa%2Fss@db/natter",
            "postgresql://natter@db:5432/natter?sslmode=require",
            "postgres://natter:pa:s@s@db/natter",
            "postgres://natter:secret@%2Frun%2Fpostgresql/natter",
            "postgres:///natter?host=/run/postgresql&user=natter&password=secret",
            "sqlite://./data/natter.db",
            "sqlite:natter.db",
        ] {
            assert_eq!(problem(good), None, "{good}");
        }
        for (bad, part) in [
            ("postgres://natter:pa/ss@db/natter", "percent-encode"),
            ("postgres://natter:pa#ss@db/natter", "percent-encode"),
            ("postgres://natter:pa?ss@db/natter", "percent-encode"),
            // Each of them a host `natter` with a port, by the letter.
            ("postgres://natter:12/34@db/natter", "percent-encode"),
            ("postgres://natter:12#34@db/natter", "percent-encode"),
            ("postgres://natter:12?34@db/natter", "percent-encode"),
            ("postgres://natter:secret@/natter?host=/run/postgresql", "%2Frun%2Fpostgresql"),
            ("sqlite://chat data/natter.db", "%20"),
            ("sqlite::memory:", "names no file"),
            ("sqlite://natter?mode=memory&cache=shared", "names no file"),
            ("mysql://natter:secret@db/natter", "does not begin with"),
        ] {
            assert!(problem(bad).is_some_and(|problem| problem.contains(part)), "{bad}: {:?}", problem(bad));
        }
    }

    #[test]
    fn the_file_is_found_in_the_url() {
        assert_eq!(sqlite_file("sqlite:///srv/natter.db?mode=rw"), Some("/srv/natter.db".into()));
        assert_eq!(sqlite_file("sqlite://./data/natter.db"), Some("./data/natter.db".into()));
        assert_eq!(sqlite_file("sqlite:natter.db"), Some("natter.db".into()));
        assert_eq!(sqlite_file("sqlite:chat%20data/natter.db"), Some("chat data/natter.db".into()));
        assert_eq!(sqlite_file("postgres://natter@localhost/natter"), None);
    }

    #[test]
    fn any_path_goes_into_a_url_and_comes_out_of_it() {
        for path in ["/srv/natter.db", "/chat data/2026-11-24T10:00:00/natter.db", "/a?b/100%/c#d/%41/é.db", "/back\\slash/[x]/n.db"] {
            let url = of_sqlite_file(Path::new(path));
            assert_eq!(problem(&url), None, "{url}");
            assert_eq!(sqlite_file(&url), Some(path.into()), "{url}");
        }
        let url = of_sqlite_file(Path::new("chat data/natter.db"));
        assert!(problem(&url).is_none() && sqlite_file(&url).is_some_and(|path| path.is_absolute()), "{url}");
    }

    #[test]
    fn errors_are_told_without_the_url_and_the_password() {
        let url = "postgres://natter:se%2Fcret@db/natter";
        assert_eq!(hide(url, &format!("'{url}' is none, se%2Fcret se/cret db")), "'********' is none, ******** ******** db");
        assert_eq!(hide("postgres:///natter?user=me&password=secret", "secret of me"), "******** of me");
        assert_eq!(hide("not a url", "[not a url]"), "[********]");
        let same = "password authentication failed for user \"natter\"";
        assert_eq!(hide("postgres://natter:natter@db/natter", same), same);
    }
}
