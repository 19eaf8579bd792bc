//! The guest's serial console: where its bytes go, and the keys that leave it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use crate::run::supervision::Event;
use crate::run::tail::Tail;

/// Starts a command to vincs on the console's terminal.
const PREFIX_KEY: u8 = 0x01;
/// After [`PREFIX_KEY`]: leave the console and end the machine.
const QUIT_KEY: u8 = b'x';

/// The console's tail, shared by the serial port that writes it and vincs that shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedTail(Arc<Mutex<Tail>>);

impl SharedTail {
    /// Looks at, or changes, the tail.
    pub(crate) fn with<T>(&self, use_it: impl FnOnce(&mut Tail) -> T) -> T {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the serial port writes to: the tail, and a file if the user wants one.
#[derive(Debug)]
pub(crate) struct ConsoleOutput {
    tail: SharedTail,
    file: Option<File>,
}

impl ConsoleOutput {
    /// Output to `tail`, and to `file`.
    pub(crate) fn new(tail: SharedTail, file: Option<File>) -> Self {
        Self { tail, file }
    }
}

impl Write for ConsoleOutput {
    /// Never fails: a file that does not take the bytes (full, or a closed pipe) gets no more of them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tail.with(|tail| tail.push(bytes));
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(bytes)
        {
            tracing::warn!(%error, "console output is lost from here on");
            self.file = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a key on the console's terminal means.
#[derive(Debug, Eq, PartialEq)]
enum Key {
    ForGuest(u8),
    Quit,
    Nothing,
}

/// Tells keys for the guest from those for vincs.
#[derive(Debug, Default)]
struct Keys {
    after_prefix: bool,
}

impl Keys {
    /// After Ctrl-a: `x` quits, Ctrl-a is a Ctrl-a for the guest, other keys are lost.
    fn key(&mut self, byte: u8) -> Key {
        match (std::mem::take(&mut self.after_prefix), byte) {
            (false, PREFIX_KEY) => {
                self.after_prefix = true;
                Key::Nothing
            }
            (false, _) | (true, PREFIX_KEY) => Key::ForGuest(byte),
            (true, QUIT_KEY) => Key::Quit,
            (true, _) => Key::Nothing,
        }
    }
}

/// Feeds stdin to the serial port through the pipe returned; from a terminal, Ctrl-a x is [`Event::Quit`].
///
/// # Errors
/// When the pipe or the thread cannot be created.
pub(crate) fn input(events: SyncSender<Event>, terminal: bool) -> io::Result<OwnedFd> {
    let (serial, mut pipe) = io::pipe()?;
    let feed = move || {
        let mut keys = Keys::default();
        for byte in io::stdin().lock().bytes().map_while(Result::ok) {
            let key = if terminal { keys.key(byte) } else { Key::ForGuest(byte) };
            let over = match key {
                Key::ForGuest(byte) => pipe.write_all(&[byte]).is_err(),
                Key::Quit => events.send(Event::Quit).is_err(),
                Key::Nothing => false,
            };
            if over {
                return;
            }
        }
    };
    std::thread::Builder::new().name("console-input".into()).spawn(feed)?;
    Ok(serial.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_key_reaches_vincs_and_twice_the_guest() {
        let mut keys = Keys::default();
        let seen: Vec<_> =
            b"a\x01\x01b\x01zx\x01x".iter().map(|byte| keys.key(*byte)).filter(|key| *key != Key::Nothing).collect();
        assert_eq!(seen, [Key::ForGuest(b'a'), Key::ForGuest(1), Key::ForGuest(b'b'), Key::ForGuest(b'x'), Key::Quit]);
    }

    #[test]
    fn output_goes_to_the_tail_and_the_file() {
        let tail = SharedTail::default();
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut output = ConsoleOutput::new(tail.clone(), Some(file.reopen().unwrap()));
        output.write_all(b"one\ntwo").unwrap();
        assert_eq!(tail.with(|tail| tail.lines()), ["one", "two"]);
        assert_eq!(std::fs::read(file.path()).unwrap(), b"one\ntwo");
    }

    #[test]
    fn a_full_file_does_not_fail_the_serial_port() {
        let tail = SharedTail::default();
        let mut output = ConsoleOutput::new(tail.clone(), Some(File::create("/dev/full").unwrap()));
        assert_eq!((output.write(b"a\n").unwrap(), output.write(b"b\n").unwrap()), (2, 2));
        assert_eq!(tail.with(|tail| tail.lines()), ["a", "b"]);
    }
}
