//! CMD's standard streams: vincs's own, handed to the console device.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use vincs_guest_protocol::Stdio;

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
        })
    }

    /// Puts a copying thread between the device and stdout, to see its first byte. The thread ends when the device has
    /// closed its side; join it for the last bytes.
    ///
    /// # Errors
    /// When the pipe or the thread cannot be created.
    pub(crate) fn time_stdout(&mut self, clock: Arc<Clock>) -> io::Result<JoinHandle<()>> {
        let (from_device, device) = io::pipe()?;
        let stdout = std::mem::replace(&mut self.stdout, device.into());
        let copying = move || copy(from_device, std::fs::File::from(stdout), &clock);
        std::thread::Builder::new().name("stdout".into()).spawn(copying)
    }
}

/// A stdout that does not take bytes closes the pipe, and so becomes the device's and CMD's error.
fn copy(mut from: impl Read, mut to: impl Write, clock: &Clock) {
    let mut bytes = vec![0; COPY_SIZE];
    loop {
        let count = match from.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        clock.mark(Mark::FirstByte);
        if to.write_all(bytes.get(..count).unwrap_or_default()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        copier.join().unwrap();
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
        copier.join().unwrap();
        assert_eq!(device.write_all(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
