//! File access whose errors name the file.

use std::io;
use std::path::{Path, PathBuf};

/// A file or folder that could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}: {source}", path.display())]
pub struct FileError {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// For use in `map_err`: what was tried, on which path.
    pub(crate) fn from(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        move |source| FileError { verb, path: path.to_owned(), source }
    }
}

/// All of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(FileError::from("read", path))
}

/// The entries of a folder, ordered by path.
pub(crate) fn entries(dir: &Path) -> Result<Vec<std::fs::DirEntry>, FileError> {
    let list = std::fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = list.map_err(FileError::from("list", dir))?;
    entries.sort_by_key(std::fs::DirEntry::path);
    Ok(entries)
}
