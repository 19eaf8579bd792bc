//! The start of the other processors and the way all of them work together.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::{self, Cpu, Line};
use crate::parameters::Parameters;

/// Where the other processors begin, in real mode: a page boundary below 1 MiB. What the boot loader had there is dead by then.
const TRAMPOLINE: usize = 0x8000;
/// The interrupt command register in x2APIC mode (SDM Vol. 3A section 12.12.9).
const MSR_ICR: u32 = 0x830;
/// ICR: level assert, which every message but an INIT de-assert carries.
const ICR_ASSERT: u64 = 1 << 14;
/// ICR: delivery mode INIT.
const ICR_INIT: u64 = 5 << 8;
/// ICR: delivery mode start-up.
const ICR_STARTUP: u64 = 6 << 8;
/// ICR: to all but the sender.
const ICR_OTHERS: u64 = 3 << 18;

/// Processors that have arrived in ring 3, other than the first.
static ONLINE: AtomicU64 = AtomicU64::new(0);
/// Not zero once all have arrived.
static GO: AtomicU64 = AtomicU64::new(0);
/// Processors that have done their part of the program, other than the first.
static FINISHED: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn trampoline_start();
    fn trampoline_end();
}

/// Sends an interrupt to one processor.
pub(crate) fn send(to: usize, line: Line) {
    cpu::write_msr(MSR_ICR, (to as u64) << 32 | ICR_ASSERT | line.vector());
}

/// Starts all other processors and lets them go together. Called by the first.
pub(crate) fn start_others(cpu: Cpu, parameters: &Parameters) {
    if parameters.vcpus == 1 {
        return;
    }
    let start = trampoline_start as *const u8;
    let length = trampoline_end as *const () as usize - start.addr();
    // SAFETY: the trampoline's code, copied over memory below 1 MiB that nothing uses any more.
    unsafe { ptr::copy_nonoverlapping(start, ptr::with_exposed_provenance_mut(TRAMPOLINE), length) };
    for other in (0..parameters.vcpus).filter(|id| *id != cpu.id()) {
        let destination = (other as u64) << 32;
        cpu::write_msr(MSR_ICR, destination | ICR_ASSERT | ICR_INIT);
        cpu::write_msr(MSR_ICR, destination | ICR_ASSERT | ICR_STARTUP | (TRAMPOLINE >> 12) as u64);
    }
    cpu::wait_until(&ONLINE, |online| online == parameters.vcpus as u64 - 1);
    GO.store(1, Ordering::Release);
    cpu::write_msr(MSR_ICR, ICR_OTHERS | ICR_ASSERT | Line::Wake.vector());
}

/// Says that this processor is there, and waits until all are.
pub(crate) fn arrive() {
    ONLINE.fetch_add(1, Ordering::AcqRel);
    send(0, Line::Wake);
    cpu::wait_until(&GO, |go| go != 0);
}

/// Says that this processor has done its part. On the first it returns once all have; the others need not wait.
pub(crate) fn finish(cpu: Cpu, parameters: &Parameters) {
    if cpu.id() == 0 {
        cpu::wait_until(&FINISHED, |finished| finished == parameters.vcpus as u64 - 1);
    } else {
        FINISHED.fetch_add(1, Ordering::AcqRel);
        send(0, Line::Wake);
    }
}
