//! The data folder: made for its user alone, used by one process at a time. Foreign files in it are
//! let be.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why the folder cannot be used.
#[derive(Debug, Error)]
pub(crate) enum FolderError {
    /// It could not be made, or is none.
    #[error("the data folder {} cannot be made; NATTER_DATA_DIR chooses another one", .0.display())]
    Make(PathBuf, #[source] io::Error),
    /// Its lock could not be opened.
    #[error("the data folder {} cannot be written to; NATTER_DATA_DIR chooses another one", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// Another process has it.
    #[error(
        "the data folder {} is in use by {owner}; two processes would ruin it. \
         Stop that one, or choose another folder: NATTER_DATA_DIR",
        path.display()
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Whoever has it.
        owner: String,
    },
}

/// The folder, locked until dropped or until the process ends in whatever way.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    // The lock is the kernel's, on this open file; the file itself may stay behind.
    _lock: File,
}

impl DataFolder {
    /// Makes the folder if it is absent, and takes its lock.
    pub(crate) fn open(path: &Path) -> Result<Self, FolderError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| FolderError::Make(path.to_owned(), error))?;
        // What is said of it later is to be found from anywhere.
        let path = fs::canonicalize(path).map_err(|error| FolderError::Make(path.to_owned(), error))?;
        let refused = |error| FolderError::Write(path.clone(), error);
        let mut options = OpenOptions::new();
        let mut lock =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path.join("natter.lock")).map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::Locked { owner: owner(&mut lock), path }),
            Err(TryLockError::Error(error)) => return Err(refused(error)),
        }
        let written = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(refused)?;
        Ok(Self { path, _lock: lock })
    }

    /// A file in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file in it that only its user reads, empty if it is new: the folder may be older than
    /// Natter, and open to others.
    pub(crate) fn private_file(&self, name: &str) -> Result<PathBuf, FolderError> {
        let path = self.join(name);
        let made = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        made.map_err(|error| FolderError::Write(self.path.clone(), error))?;
        Ok(path)
    }

    /// Writes a file that only its user reads: aside, synced, renamed, so that after a crash there is all of it or none.
    pub(crate) fn write_whole(&self, name: &str, text: &str) -> io::Result<()> {
        let aside = self.join(&format!("{name}.new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&aside, self.join(name))?;
        File::open(&self.path)?.sync_all()
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn owner(lock: &mut File) -> String {
    let mut pid = String::new();
    match lock.read_to_string(&mut pid) {
        Ok(_) if !pid.trim().is_empty() => format!("process {}", pid.trim()),
        Ok(_) | Err(_) => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn is_made_for_its_user_alone_and_locked() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let folder = DataFolder::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);

        let error = DataFolder::open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        assert!(error.contains("a/b") && error.contains("NATTER_DATA_DIR"), "{error}");
        drop(folder);
        DataFolder::open(&path).unwrap();
    }

    #[test]
    fn foreign_files_are_let_be() {
        let path = tempfile::tempdir().unwrap();
        fs::write(path.path().join(".gitkeep"), "mine").unwrap();
        let folder = DataFolder::open(path.path()).unwrap();
        let file = folder.private_file("events.db").unwrap();
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(path.path().join(".gitkeep")).unwrap(), "mine");
    }

    #[test]
    fn a_file_in_its_place_is_said_so() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        fs::write(&path, "").unwrap();
        assert!(matches!(DataFolder::open(&path).unwrap_err(), FolderError::Make(..)));
    }
}
