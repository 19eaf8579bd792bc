//! The words and the text that the host gets to see.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use vincs_micro_guest_payload::protocol::{END_DONE, END_FAILED, PORT_END, PORT_TEXT, PORT_WORD};

use crate::{cpu, port};

/// Set by the processor that reports a failure first; it alone talks.
static FAILED: AtomicBool = AtomicBool::new(false);

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
        port::write(PORT_WORD, (word & 0xffff_ffff) as u32);
        port::write(PORT_WORD, (word >> 32) as u32);
    }
}

/// The report is whole.
pub(crate) fn done() -> ! {
    if !FAILED.load(Ordering::SeqCst) {
        port::write(PORT_END, END_DONE);
    }
    cpu::park()
}

/// Ends the run with a reason. If another processor does so already, only its reason is told.
pub(crate) fn fail(reason: fmt::Arguments<'_>) -> ! {
    if !FAILED.swap(true, Ordering::SeqCst) {
        let mut text = Text::default();
        // Writing to a port cannot fail, so neither can this.
        let _ = text.write_fmt(reason);
        text.flush();
        port::write(PORT_END, END_FAILED);
    }
    cpu::park()
}
