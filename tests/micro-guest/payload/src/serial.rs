//! The way to the host where there is no device of its own: text on the first serial port, and ACPI's power-off. Any vincs has both.

use core::fmt::{self, Write};

use crate::port;

/// COM1: data, a byte at a time.
const DATA: u16 = 0x3f8;
/// COM1's line status.
const LINE_STATUS: u16 = DATA + 5;
/// A byte has come.
const DATA_READY: u8 = 1;
/// vincs's sleep-control port (docs/boot.md, "The end").
const SLEEP_CONTROL: u16 = 0x600;
/// SLP_TYP 5 with SLP_EN: power off.
const POWER_OFF: u8 = 0x34;

/// Writes text.
pub(crate) struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| port::write_byte(DATA, byte));
        Ok(())
    }
}

/// Whether something has been typed.
pub(crate) fn has_input() -> bool {
    port::read_byte(LINE_STATUS) & DATA_READY != 0
}

/// Ends the machine.
pub(crate) fn power_off() {
    port::write_byte(SLEEP_CONTROL, POWER_OFF);
}
