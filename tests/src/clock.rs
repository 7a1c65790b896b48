//! A clock that processes believe instead of the machine's (libfaketime), and that can be set while they run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The library, where Debian's `libfaketime` puts it.
pub fn library() -> Option<PathBuf> {
    let places = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok).map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    places.into_iter().find(|path| path.exists())
}

/// What a process is told that is to believe the clock in `file`.
///
/// # Errors
/// Where there is no library.
pub fn env(file: &Path) -> Result<[(&'static str, String); 4]> {
    let preload = library().context("no libfaketime: tests/setup.sh installs it")?;
    Ok([
        ("LD_PRELOAD", preload.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ])
}

/// Sets the clock in `file`: so far from the machine's, as `+20m` or `-600`.
///
/// # Errors
/// Where the file cannot be written.
pub fn set(file: &Path, offset: &str) -> Result<()> {
    // In one piece: the process reads it for every look at its clock.
    let next = file.with_extension("next");
    fs::write(&next, format!("{offset}\n"))?;
    Ok(fs::rename(next, file)?)
}
