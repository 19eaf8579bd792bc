//! The interrupt descriptor table; faults.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::{Fault, KERNEL_CODE, SERVICE_VECTOR};
use crate::report;

/// Bytes of the code that boot.s has for a vector.
const STUB_BYTES: u64 = 16;
/// Gate type: present, 64-bit interrupt gate (SDM Vol. 3A figure 7-8); only ring 0 and hardware may use it.
const GATE: u64 = 0x8e00 << 32;

/// Two words of a gate in the table.
#[repr(C, align(16))]
struct Gate([AtomicU64; 2]);

#[unsafe(no_mangle)]
static IDT: [Gate; 256] = [const { Gate([const { AtomicU64::new(0) }; 2]) }; 256];

unsafe extern "C" {
    fn interrupt_stubs();
    fn service();
}

/// Fills the table, which every processor loads.
pub(crate) fn install() {
    let stubs = interrupt_stubs as *const () as u64;
    for (vector, gate) in (0..).zip(&IDT) {
        let is_service = vector == SERVICE_VECTOR;
        let handler = if is_service { service as *const () as u64 } else { stubs + vector * STUB_BYTES };
        let low = (handler & 0xffff) | KERNEL_CODE << 16 | GATE | (handler >> 16 & 0xffff) << 48;
        gate.0[1].store(handler >> 32, Ordering::Relaxed);
        gate.0[0].store(low, Ordering::Release);
    }
}

/// Reports a fault in words and ends the run.
pub(crate) fn report_fault(fault: &Fault) -> ! {
    let name = match fault.vector {
        0 => "divide error",
        6 => "invalid opcode",
        8 => "double fault",
        13 => "general protection",
        14 => "page fault",
        _ => "unexpected interrupt",
    };
    let Fault { cpu, vector, error_code, rip, cs, address } = *fault;
    report::fail(format_args!(
        "{name} on processor {cpu}: vector {vector}, error code {error_code:#x}, rip {rip:#x} in ring {}, cr2 {address:#x}",
        cs & 3
    ))
}
