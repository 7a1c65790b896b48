//! Reads the folder of pages, once: templates and static files. Serving from memory leaves no path
//! to traverse.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{CHAT, PagesError, files::StaticFile};

/// Templates are text that people write.
const TEMPLATE_BYTES: u64 = 1024 * 1024;
const FILE_BYTES: u64 = 16 * 1024 * 1024;
const ALL_BYTES: u64 = 64 * 1024 * 1024;
const FILES: usize = 10_000;
/// Beyond it, a link has led around in a circle.
const DEPTH: usize = 16;

/// What is in the folder.
pub(super) struct Contents {
    /// By path within the folder, with `/`.
    pub(super) templates: Vec<(String, String)>,
    /// By path within `static/`.
    pub(super) files: HashMap<String, StaticFile>,
}

/// Reads all of it.
pub(super) fn read(folder: &Path) -> Result<Contents, PagesError> {
    let root = fs::canonicalize(folder).map_err(|source| PagesError::Read { path: folder.to_owned(), source })?;
    let mut reader = Reader { root, bytes: 0, contents: Contents { templates: Vec::new(), files: HashMap::new() } };
    reader.walk(folder, "", 0)?;
    let contents = reader.contents;
    if contents.templates.iter().any(|(name, _)| name == CHAT) { Ok(contents) } else { Err(PagesError::NoChat(folder.join(CHAT))) }
}

struct Reader {
    root: PathBuf,
    bytes: u64,
    contents: Contents,
}

impl Reader {
    fn walk(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<(), PagesError> {
        let failed = |source| PagesError::Read { path: folder.to_owned(), source };
        if depth > DEPTH {
            return Err(too_large(folder, format!("folders lie more than {DEPTH} deep")));
        }
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            // Hidden files are editors' and version control's; a mounted ConfigMap has some, too.
            let Some(name) = entry.file_name().to_str().filter(|name| !name.starts_with('.')).map(str::to_owned) else { continue };
            let name = format!("{prefix}{name}");
            let failed = |source| PagesError::Read { path: path.clone(), source };
            if !fs::canonicalize(&path).map_err(failed)?.starts_with(&self.root) {
                return Err(PagesError::Outside(path));
            }
            let about = fs::metadata(&path).map_err(failed)?;
            if about.is_dir() {
                self.walk(&path, &format!("{name}/"), depth + 1)?;
            } else if about.is_file() {
                self.take(&path, name, about.len())?;
            }
        }
        Ok(())
    }

    fn take(&mut self, path: &Path, name: String, bytes: u64) -> Result<(), PagesError> {
        let failed = |source| PagesError::Read { path: path.to_owned(), source };
        let within_static = name.strip_prefix("static/");
        let is_template = Path::new(&name).extension().is_some_and(|end| end == "html");
        let limit = if within_static.is_some() { FILE_BYTES } else { TEMPLATE_BYTES };
        if within_static.is_none() && !is_template {
            return Ok(());
        }
        if bytes > limit {
            return Err(too_large(path, format!("has {bytes} bytes; {limit} are allowed")));
        }
        let content = fs::read(path).map_err(failed)?;
        self.bytes += content.len() as u64;
        if self.bytes > ALL_BYTES || self.contents.files.len() + self.contents.templates.len() >= FILES {
            return Err(too_large(&self.root, format!("has more than {ALL_BYTES} bytes or {FILES} files")));
        }
        match within_static {
            Some(within) => drop(self.contents.files.insert(within.to_owned(), StaticFile::new(within, content))),
            None => {
                let text = String::from_utf8(content).map_err(|_| failed(io::Error::other("a template is UTF-8")))?;
                self.contents.templates.push((name, text));
            }
        }
        Ok(())
    }
}

fn too_large(path: &Path, what: String) -> PagesError {
    PagesError::TooLarge { path: path.to_owned(), what }
}
