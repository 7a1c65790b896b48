//! Why a team's pages cannot be used: said at the start, with the file and the line.

use std::{
    io,
    path::{Path, PathBuf},
};

/// What is wrong with the folder of pages.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// A file or folder that cannot be read.
    #[error("http.pages_dir: {path} cannot be read: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The chat room's page is missing.
    #[error("http.pages_dir: {path} is not there; it is the chat room's page", path = .0.display())]
    NoChat(PathBuf),
    /// A link that leads out of the folder: what lies there is not the page's.
    #[error("http.pages_dir: {path} leads out of the folder", path = .0.display())]
    Outside(PathBuf),
    /// More than the process keeps in memory.
    #[error("http.pages_dir: {path}: {what}", path = path.display())]
    TooLarge {
        /// Where the limit was met.
        path: PathBuf,
        /// Which limit.
        what: String,
    },
    /// A template that is broken, or uses what is not supported.
    #[error("http.pages_dir: {file}:{line}: {message}", file = file.display())]
    Template {
        /// Which.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A policy that no header can hold.
    #[error("http.pages_csp: is not a Content-Security-Policy: visible characters only, on one line")]
    Policy,
}

impl PagesError {
    pub(super) fn template(folder: &Path, name: &str, line: usize, message: String) -> Self {
        Self::Template { file: folder.join(name), line, message }
    }

    /// The engine's error; it may be in another file than the one that was rendered.
    pub(super) fn rendering(folder: &Path, name: &str, error: &minijinja::Error) -> Self {
        let message = error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
        Self::template(folder, error.name().unwrap_or(name), error.line().unwrap_or(1), message)
    }
}
