//! Ports, of the host's device for the most part, straight from ring 3 (the task state's port bitmap permits them).

use core::arch::asm;

/// Writes 32 bits.
pub(crate) fn write(port: u16, value: u32) {
    // SAFETY: the ports belong to the host's device, which does not touch our memory.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) }
}

/// Writes a byte.
pub(crate) fn write_byte(port: u16, value: u8) {
    // SAFETY: no port that is used does anything to our memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads a byte.
pub(crate) fn read_byte(port: u16) -> u8 {
    let value;
    // SAFETY: as for `write_byte`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Reads 32 bits.
pub(crate) fn read(port: u16) -> u32 {
    let value;
    // SAFETY: as for `write`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) }
    value
}
