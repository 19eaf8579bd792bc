//! CMD's standard streams: vincs's own, handed to the console device.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use vincs_guest_protocol::Stdio;
use vincs_vmm::virtio::console::CutOff;

use crate::run::terminal;
use crate::stats::{Clock, Mark};

/// Bytes that are copied at once where stdout is timed: a pipe's capacity.
const COPY_SIZE: usize = 64 * 1024;

/// How CMD's streams are to be connected: a terminal if vincs's stdin and stdout are both one.
pub(crate) fn stdio() -> Stdio {
    if terminal::is_interactive() {
        Stdio::Terminal { stderr: terminal::stderr_is_terminal(), size: terminal::window_size() }
    } else {
        Stdio::Pipes
    }
}

/// Copies of vincs's streams for the console device. A stream that vincs was started without is /dev/null, from Rust's
/// runtime.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) losses: Losses,
}

/// Why vincs's streams have not taken all that CMD wrote, if they have not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Losses {
    pub(crate) stdout: CutOff,
    pub(crate) stderr: CutOff,
}

impl Losses {
    /// A line for each stream that has not.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        let line = |(name, cut_off): (&str, &CutOff)| {
            cut_off.error().map(|error| format!("{name}: {error}; what CMD wrote there from then on is lost"))
        };
        [("stdout", &self.stdout), ("stderr", &self.stderr)].into_iter().filter_map(line)
    }
}

impl Streams {
    /// vincs's own streams.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn own() -> io::Result<Self> {
        Ok(Self {
            stdin: io::stdin().as_fd().try_clone_to_owned()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
            losses: Losses::default(),
        })
    }

    /// Puts a copying thread between the device and stdout, to see its first byte. The thread ends when the device has
    /// closed its side; wait for it to have the last bytes written.
    ///
    /// # Errors
    /// When the pipe or the thread cannot be created.
    pub(crate) fn time_stdout(&mut self, clock: Arc<Clock>) -> io::Result<Copier> {
        let (from_device, device) = io::pipe()?;
        let stdout = std::mem::replace(&mut self.stdout, device.into());
        let (end, ended) = sync_channel(1);
        let (cut_off, copied) = (self.losses.stdout.clone(), self.losses.stdout.clone());
        let copying = move || {
            if let Err(error) = copy(from_device, std::fs::File::from(stdout), &clock) {
                copied.set(error);
            }
            // Nobody waits where CMD did not have its say.
            let _ = end.send(());
        };
        std::thread::Builder::new().name("stdout".into()).spawn(copying)?;
        Ok(Copier { ended, cut_off })
    }
}

/// The thread that copies a timed stdout.
#[derive(Debug)]
pub(crate) struct Copier {
    ended: Receiver<()>,
    /// What the thread itself says there is why stdout did not take all.
    cut_off: CutOff,
}

/// Stdout's reader has not taken CMD's last bytes yet.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Stuck;

impl Copier {
    /// Waits until the thread has written all that stdout takes, at most for `limit`.
    ///
    /// # Errors
    /// [`Stuck`] when it is not seen to.
    pub(crate) fn wait(&self, limit: Duration) -> Result<(), Stuck> {
        match self.ended.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => return Err(Stuck),
            Err(RecvTimeoutError::Disconnected) => {
                self.cut_off.set(io::Error::other("the thread that copies it panicked"))
            }
            Ok(()) => {}
        }
        Ok(())
    }
}

/// Copies until the device closes its side. A stdout that does not take bytes closes the pipe, and so becomes the device's and CMD's error.
///
/// # Errors
/// Those of both sides.
fn copy(mut from: impl Read, mut to: impl Write, clock: &Clock) -> io::Result<()> {
    let mut bytes = vec![0; COPY_SIZE];
    loop {
        let count = match from.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        clock.mark(Mark::FirstByte);
        to.write_all(bytes.get(..count).unwrap_or_default())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than a copy of some bytes takes.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_reader_that_stalls_is_not_waited_for_without_end() {
        let (out, stdout) = io::pipe().unwrap();
        let mut streams = Streams { stdout: stdout.into(), ..Streams::own().unwrap() };
        let copier = streams.time_stdout(Arc::new(Clock::start())).unwrap();
        let mut device = std::fs::File::from(streams.stdout);
        // One pipe's capacity more than the pipe to the reader holds.
        device.write_all(&[0; 2 * COPY_SIZE]).unwrap();
        drop(device);
        assert_eq!(copier.wait(Duration::from_millis(50)), Err(Stuck));
        drop(out);
    }

    #[test]
    fn a_copier_that_is_gone_without_a_word_panicked() {
        let (end, ended) = sync_channel(1);
        drop(end);
        let copier = Copier { ended, cut_off: CutOff::default() };
        assert_eq!(copier.wait(LONG), Ok(()));
        assert!(copier.cut_off.error().unwrap().to_string().contains("panicked"));
    }

    #[test]
    fn a_timed_stdout_is_unchanged_and_marked() {
        let clock = Arc::new(Clock::start());
        clock.mark(Mark::KernelEntry);
        let (mut out, stdout) = io::pipe().unwrap();
        let mut streams = Streams { stdout: stdout.into(), ..Streams::own().unwrap() };
        let copier = streams.time_stdout(clock.clone()).unwrap();
        assert!(clock.times().kernel_entry_to_first_byte.is_none());
        let mut device = std::fs::File::from(streams.stdout);
        device.write_all(b"one\r\n\0two").unwrap();
        drop(device);
        copier.wait(LONG).unwrap();
        let mut seen = Vec::new();
        out.read_to_end(&mut seen).unwrap();
        assert_eq!(seen, b"one\r\n\0two");
        assert!(clock.times().kernel_entry_to_first_byte.is_some());
    }

    #[test]
    fn a_closed_stdout_closes_the_devices_side() {
        let (out, stdout) = io::pipe().unwrap();
        drop(out);
        let mut streams = Streams { stdout: stdout.into(), ..Streams::own().unwrap() };
        let copier = streams.time_stdout(Arc::new(Clock::start())).unwrap();
        let mut device = std::fs::File::from(streams.stdout);
        device.write_all(b"x").unwrap();
        copier.wait(LONG).unwrap();
        assert_eq!(device.write_all(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        // Nobody wants the rest.
        assert_eq!(streams.losses.lines().count(), 0);
    }

    #[test]
    fn a_stdout_that_is_full_is_told() {
        let stdout = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut streams = Streams { stdout: stdout.into(), ..Streams::own().unwrap() };
        let copier = streams.time_stdout(Arc::new(Clock::start())).unwrap();
        let mut device = std::fs::File::from(streams.stdout);
        device.write_all(b"x").unwrap();
        copier.wait(LONG).unwrap();
        let lines = streams.losses.lines().collect::<Vec<_>>();
        assert!(lines.len() == 1 && lines[0].starts_with("stdout: No space left on device"), "{lines:?}");
    }
}
