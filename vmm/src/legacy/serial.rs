//! The serial console: a 16550 whose output goes to a writer and whose input comes from a descriptor.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::warn;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::bus::PioDevice;
use crate::interrupt::InterruptLine;
use crate::layout::SERIAL_PORT;

type Output = Box<dyn Write + Send>;
type Uart = Serial<Line, NoEvents, Output>;

/// How long to wait before offering input again that the guest has not taken.
const RETRY_MS: u64 = 10;

struct Line(Arc<dyn InterruptLine>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.pulse();
        Ok(())
    }
}

/// The serial console, COM1.
pub struct SerialConsole {
    uart: Mutex<Uart>,
}

impl fmt::Debug for SerialConsole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialConsole").finish_non_exhaustive()
    }
}

impl SerialConsole {
    /// How many ports it takes.
    pub const COUNT: u16 = 8;

    /// A console that writes what the guest sends to `output`.
    #[must_use]
    pub fn new(line: Arc<dyn InterruptLine>, output: Output) -> Arc<Self> {
        Arc::new(Self { uart: Mutex::new(Serial::new(Line(line), output)) })
    }

    /// Feeds what arrives at `input` to the guest, on a thread that ends at the end of input or of the console.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn feed_from(self: &Arc<Self>, input: OwnedFd) -> io::Result<()> {
        let console = Arc::downgrade(self);
        thread::Builder::new().name("serial-input".into()).spawn(move || {
            let mut buffer = [0; 64];
            while let Ok(count @ 1..) = rustix::io::retry_on_intr(|| rustix::io::read(&input, &mut buffer)) {
                let mut rest = &buffer[..count];
                while !rest.is_empty() {
                    let Some(console) = console.upgrade() else { return };
                    // The guest may be slow to take it, or may never do so: then it waits here, not in the guest.
                    let taken = console.uart().enqueue_raw_bytes(rest).unwrap_or(0);
                    rest = &rest[taken..];
                    drop(console);
                    if taken == 0 {
                        thread::sleep(Duration::from_millis(RETRY_MS));
                    }
                }
            }
        })?;
        Ok(())
    }

    fn uart(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PioDevice for SerialConsole {
    fn read(&self, port: u16, data: &mut [u8]) {
        if let ([value], Some(offset)) = (data, offset(port)) {
            *value = self.uart().read(offset);
        }
    }

    fn write(&self, port: u16, data: &[u8]) {
        if let ([value], Some(offset)) = (data, offset(port))
            && let Err(error) = self.uart().write(offset, *value)
        {
            warn!(%error, "serial console output lost");
        }
    }
}

fn offset(port: u16) -> Option<u8> {
    u8::try_from(port.checked_sub(SERIAL_PORT)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    #[derive(Debug)]
    struct Recorder(Sender<()>);
    impl InterruptLine for Recorder {
        fn pulse(&self) {
            self.0.send(()).unwrap();
        }
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn output_arrives_and_input_interrupts() {
        let (pulses, pulsed) = channel();
        let output = Shared::default();
        let console = SerialConsole::new(Arc::new(Recorder(pulses)), Box::new(output.clone()));
        for byte in b"hello" {
            console.write(SERIAL_PORT, &[*byte]);
        }
        assert_eq!(*output.0.lock().unwrap(), b"hello");

        const RECEIVE_INTERRUPT: u8 = 1;
        console.write(SERIAL_PORT + 1, &[RECEIVE_INTERRUPT]);
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        console.feed_from(reader).unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        pulsed.recv().unwrap();
        let mut data = [0];
        console.read(SERIAL_PORT, &mut data);
        assert_eq!(data, *b"x");
    }
}
