//! `--share DIR[:ro]`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use vincs_guest_protocol::ShareMode;

/// A shared directory as the user names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ShareArg {
    pub(crate) dir: PathBuf,
    pub(crate) read_only: bool,
}

/// Why a text does not name a directory to share.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("no directory name: write --share DIR or --share DIR:ro")]
pub(crate) struct ShareArgError;

impl FromStr for ShareArg {
    type Err = ShareArgError;

    /// A colon belongs to the name unless it starts a final `:ro`.
    fn from_str(text: &str) -> Result<Self, ShareArgError> {
        let (dir, read_only) = match text.strip_suffix(":ro") {
            Some(dir) => (dir, true),
            None => (text, false),
        };
        if dir.is_empty() {
            return Err(ShareArgError);
        }
        Ok(Self { dir: PathBuf::from(dir), read_only })
    }
}

/// Why a directory cannot be shared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShareError {
    #[error("share {0}: there is no such directory: create it, or correct --share")]
    Missing(PathBuf),
    #[error("share {0} is not a directory: share the directory that holds it")]
    NotADirectory(PathBuf),
    #[error("share {0} cannot be read: {1}")]
    Unreadable(PathBuf, std::io::Error),
    #[error("share / is always there, with changes kept to the guest: share the directories to change instead")]
    Root,
    #[error("share {0} lies below {1}, which is the guest's own: share another directory")]
    GuestOwn(PathBuf, &'static str),
}

/// Directories whose content the guest's kernel makes up: nothing of the host can be mounted there.
pub(crate) const KERNEL_DIRS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A share with its real path (no symbolic links) and its mode.
///
/// # Errors
/// [`ShareError`] when it cannot be shared.
pub(crate) fn resolve(share: &ShareArg) -> Result<(PathBuf, ShareMode), ShareError> {
    let path = || share.dir.clone();
    let real = match share.dir.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(ShareError::Missing(path())),
        Err(error) => return Err(ShareError::Unreadable(path(), error)),
    };
    if !real.is_dir() {
        return Err(ShareError::NotADirectory(path()));
    }
    std::fs::read_dir(&real).map_err(|error| ShareError::Unreadable(path(), error))?;
    if real == Path::new("/") {
        return Err(ShareError::Root);
    }
    if let Some(owner) = KERNEL_DIRS.into_iter().find(|owner| real.starts_with(owner)) {
        return Err(ShareError::GuestOwn(real, owner));
    }
    Ok((real, if share.read_only { ShareMode::ReadOnly } else { ShareMode::ReadWrite }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arg(dir: &Path) -> ShareArg {
        ShareArg { dir: dir.into(), read_only: false }
    }

    #[test]
    fn only_a_final_ro_is_an_option() {
        for (text, dir, read_only) in
            [("/a", "/a", false), ("/a:ro", "/a", true), ("/a:b", "/a:b", false), ("a:ro:ro", "a:ro", true)]
        {
            assert_eq!(text.parse(), Ok(ShareArg { dir: dir.into(), read_only }));
        }
        assert_eq!(":ro".parse::<ShareArg>(), Err(ShareArgError));
    }

    #[test]
    fn a_share_is_resolved_to_its_real_path() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(resolve(&arg(&real.join("link"))).unwrap(), (real.clone(), ShareMode::ReadWrite));
        let read_only = ShareArg { dir: real.clone(), read_only: true };
        assert_eq!(resolve(&read_only).unwrap(), (real, ShareMode::ReadOnly));
    }

    #[test]
    fn what_cannot_be_shared_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(resolve(&arg(file.path())), Err(ShareError::NotADirectory(_))));
        assert!(matches!(resolve(&arg(Path::new("/does/not/exist"))), Err(ShareError::Missing(_))));
        assert!(matches!(resolve(&arg(Path::new("/"))), Err(ShareError::Root)));
        assert!(matches!(resolve(&arg(Path::new("/proc/self"))), Err(ShareError::GuestOwn(_, "/proc"))));
    }
}
