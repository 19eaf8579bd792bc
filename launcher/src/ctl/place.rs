//! Where machines have their sockets: `PID.sock` in a directory that is the user's alone.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Ending of a socket's name.
const SUFFIX: &str = ".sock";

/// Why a machine has no socket.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The directory is somebody else's, or others may write to it.
    #[error("{0} is not this user's alone; remove it, or set XDG_RUNTIME_DIR to a directory that is")]
    NotOurs(PathBuf),
    /// Another machine uses the socket.
    #[error("{0} belongs to a machine that runs; give another name")]
    InUse(PathBuf),
    /// The file system refuses something.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// The directories in which machines of this user may have their sockets; a new one goes to the first.
pub(super) fn directories() -> Vec<PathBuf> {
    let user = rustix::process::geteuid();
    let runtime =
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute() && dir.is_dir());
    let mut all: Vec<PathBuf> = runtime.into_iter().map(|dir| dir.join("vincs")).collect();
    if user.is_root() {
        all.push("/run/vincs".into());
    }
    all.push(PathBuf::from(format!("/tmp/vincs-{}", user.as_raw())));
    all
}

/// Where this process's machine has its socket, unless it is told otherwise.
pub(super) fn own() -> PathBuf {
    let name = format!("{}{SUFFIX}", std::process::id());
    directories().into_iter().next().unwrap_or_default().join(name)
}

/// Opens a socket with mode 0600, in a directory that is this user's alone. One that a dead machine left is replaced.
///
/// # Errors
/// [`PlaceError`] when that cannot be.
pub(super) fn bind(path: &Path) -> Result<UnixListener, PlaceError> {
    let io = |error| PlaceError::Io(path.to_owned(), error);
    let directory = path.parent().unwrap_or(Path::new("."));
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(error)),
        _ => {}
    }
    if !is_ours(directory).map_err(io)? {
        return Err(PlaceError::NotOurs(directory.to_owned()));
    }
    clean(directory);
    if is_alive(path) {
        return Err(PlaceError::InUse(path.to_owned()));
    }
    // It gets its name when it listens: before that another machine would take it for a dead one's and remove it.
    let unnamed = path.with_extension("new");
    match fs::remove_file(&unnamed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&unnamed).map_err(io)?;
    // Nobody else gets into the directory meanwhile.
    fs::set_permissions(&unnamed, Permissions::from_mode(0o600)).map_err(io)?;
    fs::rename(&unnamed, path).map_err(io)?;
    Ok(listener)
}

/// Whether a directory is this user's alone: what is in others may be anybody's.
fn is_ours(directory: &Path) -> io::Result<bool> {
    // Not followed: a link would lead to wherever its owner likes.
    let found = fs::symlink_metadata(directory)?;
    Ok(found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0)
}

/// Whether somebody listens at a socket.
fn is_alive(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Removes the sockets that dead machines have left in a directory; those of the ones that live.
fn clean(directory: &Path) -> Vec<PathBuf> {
    let mut alive = Vec::new();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    for path in paths.filter(|path| path.extension().is_some_and(|suffix| suffix == &SUFFIX[1..])) {
        match UnixStream::connect(&path) {
            Ok(_) => alive.push(path),
            // Only this tells that nobody will ever answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => _ = fs::remove_file(&path),
            Err(_) => {}
        }
    }
    alive.sort();
    alive
}

/// The sockets of all machines of this user that run. What dead ones have left is removed.
pub(super) fn alive() -> Vec<PathBuf> {
    let own = directories().into_iter().filter(|directory| is_ours(directory).unwrap_or(false));
    own.flat_map(|directory| clean(&directory)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_the_users_alone_and_what_the_dead_leave_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own").join("7.sock");
        let listener = bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(matches!(bind(&path), Err(PlaceError::InUse(at)) if at == path));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing but the socket");
        drop(listener);
        assert!(path.exists() && !is_alive(&path));
        let other = dir.path().join("own").join("8.sock");
        let listener = bind(&other).unwrap();
        assert!(!path.exists(), "it was removed with the next machine");
        assert_eq!(clean(path.parent().unwrap()), std::slice::from_ref(&other));
        drop(listener);
        assert!(bind(&other).is_ok());
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(bind(&open.join("1.sock")), Err(PlaceError::NotOurs(at)) if at == open));
        let link = dir.path().join("link");
        let own = dir.path().join("own");
        DirBuilder::new().mode(0o700).create(&own).unwrap();
        std::os::unix::fs::symlink(&own, &link).unwrap();
        assert!(matches!(bind(&link.join("1.sock")), Err(PlaceError::NotOurs(at)) if at == link));
        assert!(matches!(bind(&dir.path().join("no/such/1.sock")), Err(PlaceError::Io(..))));
    }
}
