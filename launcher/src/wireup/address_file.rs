//! The address file: rank 0's card where all ranks can read it, and nobody else.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;
use vincs_transport_tcp::auth::{AUTH_TIME, Authenticated};
use vincs_transport_tcp::secret::MachineId;

use crate::wireup::card::{Card, CardError, MAX_CARD};

/// The file's mode bits of others than its owner: none, as it holds the machine's secret.
const OTHERS: u32 = 0o077;

/// How long a rank 0 that is alive may take to answer another that is about to replace its file.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Why rank 0 cannot publish its card.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error(
        "--address-file {0}: cannot be written: {1}: name a file in a directory that all ranks see and this user may write to"
    )]
    Unwritable(PathBuf, io::Error),
    #[error("--address-file {0}: not a regular file: name a new file")]
    NotAFile(PathBuf),
    #[error(
        "--address-file {}: in use by the machine that process {} on {} has started: name another file for a second machine",
        .file.display(), .card.pid, .card.host
    )]
    InUse { file: PathBuf, card: Box<Card> },
}

/// Why a rank cannot use what is in the file, now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("it is not there: does rank 0 use the same file, and is it on a file system of all hosts?")]
    Missing,
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("others than its owner may read or write it, so its secret is none: remove it")]
    Open,
    #[error("it belongs to user {0}, not to this one: remove it, or name another")]
    Owner(u32),
    #[error("{0}")]
    Card(#[from] CardError),
}

/// The file that rank 0 has written. Dropping it removes the file, unless another machine has replaced it.
#[derive(Debug)]
pub(crate) struct Published {
    path: PathBuf,
    machine: MachineId,
}

impl Published {
    /// Writes the card: a reader sees all of it or nothing. A file that is left of a machine that is gone is replaced.
    ///
    /// # Errors
    /// [`PublishError`] when it cannot be written, or belongs to a machine that still answers.
    pub(crate) fn write(path: &Path, card: &Card) -> Result<Self, PublishError> {
        if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
            return Err(PublishError::NotAFile(path.to_owned()));
        }
        if let Ok(other) = read(path)
            && answers(&other)
        {
            return Err(PublishError::InUse { file: path.to_owned(), card: Box::new(other) });
        }
        let failed = |error| PublishError::Unwritable(path.to_owned(), error);
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Such a file has mode 0600 from its first moment on.
        let mut file = NamedTempFile::with_prefix_in(".vincs-address-", dir).map_err(failed)?;
        file.write_all(card.to_json().as_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(Self { path: path.to_owned(), machine: card.machine })
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if read(&self.path).is_ok_and(|card| card.machine == self.machine)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the address file stays");
        }
    }
}

/// Whether the rank 0 of a card is there: it proves to know the card's secret.
fn answers(card: &Card) -> bool {
    let deadline = Instant::now() + ANSWER_TIME.min(AUTH_TIME);
    card.addresses.iter().any(|address| Authenticated::connect(*address, &card.secret, deadline).is_ok())
}

/// The card in the file.
///
/// # Errors
/// [`ReadError`]; it may be better later, when a rank 0 has written or replaced it.
pub(crate) fn read(path: &Path) -> Result<Card, ReadError> {
    let file = OpenOptions::new().read(true).custom_flags(nonblocking()).open(path);
    let file = file.map_err(|error| {
        let missing = error.kind() == io::ErrorKind::NotFound;
        if missing { ReadError::Missing } else { ReadError::Unreadable(error) }
    })?;
    let found = file.metadata().map_err(ReadError::Unreadable)?;
    if !found.is_file() {
        return Err(ReadError::Card(CardError::Malformed));
    }
    if found.mode() & OTHERS != 0 {
        return Err(ReadError::Open);
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(ReadError::Owner(found.uid()));
    }
    Ok(Card::from_json(&bounded(&file).map_err(ReadError::Unreadable)?)?)
}

/// So that a pipe of that name is no endless wait.
fn nonblocking() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}

/// One byte more than the longest card, so that a longer one is none.
fn bounded(file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(MAX_CARD as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::wireup::card::tests::card;

    #[test]
    fn the_file_is_the_owners_alone_and_goes_with_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("address");
        let card = card(&["127.0.0.1:1"]);
        let published = Published::write(&path, &card).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().machine, card.machine);
        drop(published);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_stale_file_is_replaced_and_its_machine_does_not_remove_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("address");
        // Nobody listens at port 1.
        let stale = Published::write(&path, &card(&["127.0.0.1:1"])).unwrap();
        let card = card(&["127.0.0.1:1"]);
        let _published = Published::write(&path, &card).unwrap();
        drop(stale);
        assert_eq!(read(&path).unwrap().machine, card.machine);
    }

    #[test]
    fn a_file_in_use_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("address");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let running = card(&[&listener.local_addr().unwrap().to_string()]);
        let secret = running.secret.clone();
        let answering = std::thread::spawn(move || {
            let (stream, peer) = listener.accept().unwrap();
            Authenticated::accept(stream, peer, &secret, Instant::now() + AUTH_TIME).is_ok()
        });
        let _published = Published::write(&path, &running).unwrap();
        let message = Published::write(&path, &card(&["127.0.0.1:1"])).unwrap_err().to_string();
        assert!(message.contains("in use") && message.contains("node1"), "{message}");
        assert!(answering.join().unwrap());
        assert_eq!(read(&path).unwrap().machine, running.machine);
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let message = Published::write(Path::new("/no/such/dir/a"), &card(&["127.0.0.1:1"])).unwrap_err().to_string();
        assert!(message.contains("--address-file /no/such/dir/a"), "{message}");
        assert!(matches!(
            Published::write(Path::new("/dev/null"), &card(&["127.0.0.1:1"])),
            Err(PublishError::NotAFile(_))
        ));
    }

    #[test]
    fn a_file_that_is_none_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("address");
        assert!(matches!(read(&path), Err(ReadError::Missing)));
        assert!(matches!(read(dir.path()), Err(ReadError::Card(CardError::Malformed))));
        let write = |text: &[u8], mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        };
        let text = card(&["127.0.0.1:1"]).to_json();
        write(text.as_bytes(), 0o640);
        assert!(matches!(read(&path), Err(ReadError::Open)));
        write(text.as_bytes(), 0o600);
        assert!(read(&path).is_ok());
        write(&vec![b' '; MAX_CARD + 1], 0o600);
        assert!(matches!(read(&path), Err(ReadError::Card(CardError::Malformed))));
    }
}
