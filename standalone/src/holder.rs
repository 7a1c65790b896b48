//! As whom the persister of a folder holds its leases. Over the built-in broker a folder has one persister at a time, its lock
//! sees to that: the next one is the same, and need not wait for the lease of one that was killed.

use std::fs;

use natter_shared::id::InstanceId;
use uuid::Uuid;

use crate::folder::{DataFolder, FolderError};

/// The file's name in the data folder. No backup has it: who starts with a copy is somebody else.
const NAME: &str = "holder";

/// The holder that the folder names; a new one where it names none. Its path would not do: containers have theirs at the same one.
pub(crate) fn load_or_make(folder: &DataFolder) -> Result<InstanceId, FolderError> {
    let named = fs::read_to_string(folder.join(NAME)).ok().and_then(|text| Uuid::parse_str(text.trim()).ok());
    if let Some(holder) = named {
        return Ok(InstanceId(holder));
    }
    let holder = InstanceId::random();
    let written = folder.write_whole(NAME, &holder.0.to_string());
    written.map_err(|error| FolderError::Write(folder.path().to_owned(), error))?;
    Ok(holder)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn holder(path: &Path) -> InstanceId {
        load_or_make(&DataFolder::open(path).unwrap()).unwrap()
    }

    #[test]
    fn a_folder_keeps_its_own_and_another_one_at_its_path_has_another() {
        let parent = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (parent.path().join("data"), parent.path().join("elsewhere"));
        let first = holder(&path);
        assert_eq!(holder(&path), first);
        fs::rename(&path, &elsewhere).unwrap();
        assert_ne!(holder(&path), first, "another volume");
        assert_eq!(holder(&elsewhere), first);
        fs::write(path.join(NAME), "").unwrap();
        assert_eq!(holder(&path), holder(&path), "a damaged one is made anew");
    }
}
