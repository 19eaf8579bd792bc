//! Answering the exits that ask for a device or a register.

use kvm_ioctls::{MsrExitReason, ReadMsrExit, WriteMsrExit};
use tracing::debug;

use super::run::Platform;
use super::stats::{VcpuStats, count};
use crate::apic::{ApicWrite, LocalApic};
use crate::clock::GuestClock;

/// A non-zero answer makes KVM raise a general-protection exception in the guest.
const FAULT: u8 = 1;

/// The guest reads an MSR that KVM does not answer itself.
pub(super) fn read_msr(exit: ReadMsrExit<'_>, apic: &LocalApic, clock: &GuestClock, stats: &VcpuStats) {
    if !LocalApic::owns_msr(exit.index) {
        return refuse(exit.error, exit.index, exit.reason, "read", stats);
    }
    count(&stats.apic_registers);
    match apic.read_msr(exit.index, clock.now()) {
        Ok(value) => *exit.data = value,
        Err(_) => *exit.error = FAULT,
    }
}

/// The guest writes an MSR that KVM does not take itself.
pub(super) fn write_msr(
    exit: WriteMsrExit<'_>,
    apic: &mut LocalApic,
    clock: &GuestClock,
    platform: &Platform,
    stats: &VcpuStats,
) {
    if !LocalApic::owns_msr(exit.index) {
        return refuse(exit.error, exit.index, exit.reason, "write", stats);
    }
    count(&stats.apic_registers);
    match apic.write_msr(exit.index, exit.data, clock.now()) {
        Ok(ApicWrite::Done) => {}
        Ok(ApicWrite::Send(icr)) => {
            count(&stats.interprocessor_interrupts);
            platform.router.send(icr, apic.id());
        }
        Ok(ApicWrite::EndOfLevel(vector)) => platform.io_apic.end_of_interrupt(vector),
        Err(_) => *exit.error = FAULT,
    }
}

fn refuse(error: &mut u8, index: u32, reason: MsrExitReason, access: &str, stats: &VcpuStats) {
    debug!(msr = format_args!("{index:#x}"), ?reason, "guest cannot {access} this MSR");
    count(&stats.unknown_msrs);
    *error = FAULT;
}
