//! The key that tokens and cookies are signed with where none is configured: made once, kept in the
//! data folder, so that sessions survive a restart.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use data_encoding::HEXLOWER;
use natter_shared::config::Secret;
use thiserror::Error;

use crate::folder::DataFolder;

/// The file's name in the data folder.
pub(crate) const NAME: &str = "auth.key";
const BYTES: usize = 32;

/// Why there is no key.
#[derive(Debug, Error)]
pub(crate) enum KeyError {
    /// It could not be read or made.
    #[error("the sign-in key {} cannot be read or made", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// It is not what was written once.
    #[error(
        "the sign-in key {} is damaged. Restore it from a backup, or delete it: a new one is made, and everybody signs in again",
        .0.display()
    )]
    Damaged(PathBuf),
}

/// The key in the folder; a new one where there is none.
pub(crate) fn load_or_make(folder: &DataFolder) -> Result<Secret, KeyError> {
    let path = folder.join(NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return make(folder).map_err(|error| KeyError::File(path, error));
        }
        Err(error) => return Err(KeyError::File(path, error)),
    };
    let key = text.trim();
    if HEXLOWER.decode(key.as_bytes()).map_or(true, |bytes| bytes.len() < BYTES) {
        return Err(KeyError::Damaged(path));
    }
    match fs::metadata(&path) {
        Ok(file) if file.permissions().mode() & 0o077 != 0 => {
            tracing::warn!(path = %path.display(), "auth_key_readable_by_others");
        }
        Ok(_) | Err(_) => {}
    }
    Ok(Secret::new(key))
}

fn make(folder: &DataFolder) -> io::Result<Secret> {
    let key = HEXLOWER.encode(&rand::random::<[u8; BYTES]>());
    folder.write_whole(NAME, &key)?;
    Ok(Secret::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_for_its_user_alone() {
        let path = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(path.path()).unwrap();
        let key = load_or_make(&folder).unwrap();
        assert_eq!(key.expose().len(), 2 * BYTES);
        assert_eq!(fs::metadata(folder.join(NAME)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load_or_make(&folder).unwrap(), key);
    }

    #[test]
    fn a_damaged_one_is_not_replaced() {
        let path = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(path.path()).unwrap();
        for damaged in ["", "00", "not hexadecimal, but as long as a key would be, and even longer!!"] {
            fs::write(folder.join(NAME), damaged).unwrap();
            assert!(matches!(load_or_make(&folder).unwrap_err(), KeyError::Damaged(_)), "{damaged:?}");
        }
    }
}
