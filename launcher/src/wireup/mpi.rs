//! Rank 0's card by MPI: vincs-mpi takes this rank's place in the MPI job for one exchange.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::rank::RankInfo;
use crate::wireup::card::MAX_CARD;

/// The helper's name: the only program that is linked to MPI.
const HELPER: &str = "vincs-mpi";

/// How long the exchange may take where there is another way. MPI starts in about a second; the rest is for ranks that start late.
pub(crate) const MPI_TIME: Duration = Duration::from_secs(30);

/// Most bytes of the helper's stderr that are looked at.
const MAX_STDERR: u64 = 64 * 1024;

/// How long its stderr may stay open after its end: something it started may hold it.
const STDERR_TIME: Duration = Duration::from_secs(1);

/// Bytes of a blob's length in the helper's output.
const LENGTH: usize = 4;

/// Why MPI has brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MpiError {
    #[error("{HELPER} is neither beside vincs nor on PATH")]
    NoHelper,
    #[error("{0} cannot be run: {1}")]
    Start(PathBuf, io::Error),
    #[error("{HELPER} failed ({status}): {said}")]
    Failed { status: ExitStatus, said: String },
    #[error("{HELPER} took longer than {} s: not all ranks started one; --wireup-timeout gives more time", .0.as_secs())]
    Deadline(Duration),
    #[error("{HELPER} brought nothing from rank 0")]
    Nothing,
}

/// Gives this rank's blob to all ranks; what rank 0 gave. All ranks have to call it.
///
/// # Errors
/// [`MpiError`]; no process is left of it.
pub(crate) fn exchange(info: RankInfo, blob: &[u8], limit: Duration) -> Result<Vec<u8>, MpiError> {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(HELPER)).filter(|file| file.is_file());
    let helper = beside.or_else(|| crate::host::on_path(HELPER)).ok_or(MpiError::NoHelper)?;
    let ranks = usize::try_from(info.ranks).unwrap_or_default();
    run(&helper, &[info.rank.to_string(), info.ranks.to_string()], blob, ranks * (LENGTH + MAX_CARD), limit)
}

fn run(helper: &Path, args: &[String], blob: &[u8], most: usize, limit: Duration) -> Result<Vec<u8>, MpiError> {
    let failed = |error| MpiError::Start(helper.to_owned(), error);
    let (streams, deadline) = ((Stdio::piped(), Stdio::piped(), Stdio::piped()), Instant::now() + limit);
    let mut command = Command::new(helper);
    command.args(args).stdin(streams.0).stdout(streams.1).stderr(streams.2);
    let own = rustix::process::getpid();
    let follow = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // vincs may have gone before the line above took effect.
        let orphaned = rustix::process::getppid() != Some(own);
        if orphaned { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec `follow` makes system calls only; it takes no lock and allocates nothing.
    unsafe { command.pre_exec(follow) };
    let child = command.spawn().map_err(failed)?;
    let mut child = Ended(child);
    let (sender, read) = channel();
    let stdout = child.0.stdout.take();
    let collect = move || {
        let mut blobs = Vec::new();
        let read = stdout.map_or(Ok(0), |stdout| stdout.take(most as u64).read_to_end(&mut blobs));
        // Nobody listens after the deadline.
        let _ = sender.send(read.map(|_| blobs));
    };
    std::thread::Builder::new().name("vincs-mpi".into()).spawn(collect).map_err(failed)?;
    let said = stderr_of(&mut child.0).map_err(failed)?;
    if let Some(mut stdin) = child.0.stdin.take() {
        // A helper that ended early says why by its status.
        let _ = stdin.write_all(blob);
    }
    let blobs = match read.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(blobs) => blobs.map_err(failed)?,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(MpiError::Deadline(limit)),
    };
    let status = child.wait(deadline).map_err(failed)?.ok_or(MpiError::Deadline(limit))?;
    if !status.success() {
        let said = said.recv_timeout(STDERR_TIME).unwrap_or_default();
        let said =
            said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing").to_owned();
        return Err(MpiError::Failed { status, said: said.trim_start_matches("vincs-mpi: ").to_owned() });
    }
    first_blob(&blobs).map(<[u8]>::to_vec).ok_or(MpiError::Nothing)
}

/// What the helper says on stderr, as soon as it has ended: MPI can be talkative, and would block on a full pipe.
fn stderr_of(child: &mut Child) -> io::Result<std::sync::mpsc::Receiver<String>> {
    let (sender, said) = channel();
    let stderr = child.stderr.take();
    let collect = move || {
        let mut bytes = Vec::new();
        if let Some(mut stderr) = stderr {
            // What is beyond the limit is read too, so that the helper does not block.
            let _ = stderr.by_ref().take(MAX_STDERR).read_to_end(&mut bytes);
            let _ = io::copy(&mut stderr, &mut io::sink());
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    };
    std::thread::Builder::new().name("vincs-mpi-err".into()).spawn(collect)?;
    Ok(said)
}

fn first_blob(blobs: &[u8]) -> Option<&[u8]> {
    let (length, rest) = blobs.split_first_chunk::<LENGTH>()?;
    rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?).filter(|blob| !blob.is_empty())
}

/// A child that is ended and waited for on every way out.
struct Ended(Child);

impl Ended {
    /// Its status, unless it is still there at the deadline.
    fn wait(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        const STEP: Duration = Duration::from_millis(5);
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(STEP);
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str, blob: &[u8], limit: Duration) -> Result<Vec<u8>, MpiError> {
        run(Path::new("/bin/sh"), &["-c".into(), script.into()], blob, 1 << 20, limit)
    }

    #[test]
    fn rank_0s_blob_is_taken_out_of_all() {
        let script = r"printf '\003\0\0\0'; cat; printf '\001\0\0\0x'";
        assert_eq!(shell(script, b"one", LONG).unwrap(), b"one");
    }

    #[test]
    fn a_helper_that_fails_has_its_last_word_quoted() {
        let error = shell("echo noise >&2; echo 'vincs-mpi: no MPI' >&2; echo >&2; exit 3", b"", LONG).unwrap_err();
        assert!(error.to_string().ends_with("no MPI") && error.to_string().contains('3'), "{error}");
        let error = shell("kill -9 $$", b"", LONG).unwrap_err().to_string();
        assert!(error.contains("signal") && error.contains("said nothing"), "{error}");
    }

    #[test]
    fn a_helper_that_brings_nothing_is_told() {
        for script in ["true", r"printf '\003\0\0'", r"printf '\003\0\0\0ab'", r"printf '\0\0\0\0'"] {
            assert!(matches!(shell(script, b"", LONG), Err(MpiError::Nothing)), "{script}");
        }
    }

    #[test]
    fn a_helper_that_hangs_is_ended_in_time() {
        let start = Instant::now();
        let hangs = shell("exec sleep 1000", b"", Duration::from_millis(100));
        assert!(matches!(hangs, Err(MpiError::Deadline(_))));
        let closes = shell("exec sleep 1000 >&-", b"", Duration::from_millis(100));
        assert!(matches!(closes, Err(MpiError::Deadline(_))));
        assert!(start.elapsed() < LONG);
    }

    #[test]
    fn a_talkative_helper_does_not_block() {
        let script = r"head -c 300000 /dev/zero >&2; printf '\001\0\0\0x'";
        assert_eq!(shell(script, b"", LONG).unwrap(), b"x");
    }

    #[test]
    fn a_helper_that_is_not_there_is_named() {
        let error = run(Path::new("/no/such/vincs-mpi"), &[], b"", 1, LONG).unwrap_err();
        assert!(error.to_string().contains("/no/such/vincs-mpi"), "{error}");
    }
}
