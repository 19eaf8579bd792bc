//! The words and the text that the host gets to see.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use vincs_micro_guest_payload::protocol::{
    END_DONE, END_FAILED, LINE_DONE, LINE_FAILED, PORT_END, PORT_ROUND, PORT_STOP, PORT_TEXT, PORT_WORD,
};

use crate::serial::{self, Serial};
use crate::{cpu, port};

/// Set by the processor that reports a failure first; it alone talks.
static FAILED: AtomicBool = AtomicBool::new(false);

/// The report goes to the serial port, as the host has no device for it.
static IS_SERIAL: AtomicBool = AtomicBool::new(false);

/// From now on the report goes to the serial port.
pub(crate) fn to_serial() {
    IS_SERIAL.store(true, Ordering::SeqCst);
}

/// The host wants the program to stop.
pub(crate) fn is_asked_to_stop() -> bool {
    if IS_SERIAL.load(Ordering::SeqCst) { serial::has_input() } else { port::read(PORT_STOP) != 0 }
}

/// A processor has done one more round of its work. The serial port is not for that.
pub(crate) fn round(id: usize) {
    if !IS_SERIAL.load(Ordering::SeqCst) {
        port::write(PORT_ROUND, u32::try_from(id).unwrap_or(u32::MAX));
    }
}

/// The last line on the serial port, and the end of the machine.
fn end_on_serial(line: &str) {
    // Writing to a port cannot fail.
    let _ = writeln!(Serial, "{line}");
    serial::power_off();
}

/// Text on its way, four bytes at a time.
#[derive(Default)]
struct Text {
    bytes: [u8; 4],
    used: usize,
}

impl Text {
    fn flush(&mut self) {
        if self.used > 0 {
            port::write(PORT_TEXT, u32::from_le_bytes(self.bytes));
            *self = Self::default();
        }
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            self.bytes[self.used] = byte;
            self.used += 1;
            if self.used == self.bytes.len() {
                self.flush();
            }
        }
        Ok(())
    }
}

/// Appends words to the report.
pub(crate) fn words(words: &[u64]) {
    for &word in words {
        if IS_SERIAL.load(Ordering::SeqCst) {
            // Writing to a port cannot fail.
            let _ = writeln!(Serial, "word {word:#x}");
            continue;
        }
        port::write(PORT_WORD, (word & 0xffff_ffff) as u32);
        port::write(PORT_WORD, (word >> 32) as u32);
    }
}

/// The report is whole.
pub(crate) fn done() -> ! {
    if !FAILED.load(Ordering::SeqCst) {
        if IS_SERIAL.load(Ordering::SeqCst) {
            end_on_serial(LINE_DONE);
        } else {
            port::write(PORT_END, END_DONE);
        }
    }
    cpu::park()
}

/// Ends the run with a reason. If another processor does so already, only its reason is told.
pub(crate) fn fail(reason: fmt::Arguments<'_>) -> ! {
    if !FAILED.swap(true, Ordering::SeqCst) {
        if IS_SERIAL.load(Ordering::SeqCst) {
            let _ = writeln!(Serial, "{reason}");
            end_on_serial(LINE_FAILED);
            cpu::park()
        }
        let mut text = Text::default();
        // Writing to a port cannot fail, so neither can this.
        let _ = text.write_fmt(reason);
        text.flush();
        port::write(PORT_END, END_FAILED);
    }
    cpu::park()
}
