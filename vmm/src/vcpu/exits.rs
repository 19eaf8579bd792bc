//! Answering the exits that ask for a device or a register.

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuExit;
use tracing::debug;

use super::run::Platform;
use super::stats::{VcpuStats, count};
use crate::apic::{ApicWrite, LocalApic};
use crate::bus::Bus;
use crate::clock::GuestClock;
use crate::kvm::KvmError;

/// What an exit leaves to do once the bus has answered it.
#[derive(Debug)]
pub(super) enum Exit {
    /// Nothing.
    Served,
    /// A signal ended the entry.
    Kicked,
    /// The guest reads this MSR, which KVM does not answer itself.
    ReadMsr(u32),
    /// The guest writes this MSR, which KVM does not take itself.
    WriteMsr(u32, u64),
    /// HLT.
    Halt,
    /// The processor shut down.
    Shutdown,
    /// KVM cannot go on with the guest's instruction.
    InternalError,
    /// KVM cannot go on at all.
    Failed(String),
}

/// Takes a device access to the bus; says what any other exit asks for.
pub(super) fn serve(
    exit: Result<VcpuExit<'_>, kvm_ioctls::Error>,
    bus: &Bus,
    stats: &VcpuStats,
) -> Result<Exit, KvmError> {
    Ok(match exit {
        Ok(VcpuExit::IoIn(port, data)) => {
            count(&stats.port_io);
            bus.pio_read(port, data);
            Exit::Served
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            count(&stats.port_io);
            bus.pio_write(port, data);
            Exit::Served
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            count(&stats.mmio);
            bus.mmio_read(address, data);
            Exit::Served
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            count(&stats.mmio);
            bus.mmio_write(address, data);
            Exit::Served
        }
        Ok(VcpuExit::X86Rdmsr(exit)) => Exit::ReadMsr(exit.index),
        Ok(VcpuExit::X86Wrmsr(exit)) => Exit::WriteMsr(exit.index, exit.data),
        Ok(VcpuExit::Hlt) => {
            count(&stats.halts);
            Exit::Halt
        }
        Ok(VcpuExit::IrqWindowOpen) => {
            count(&stats.interrupt_windows);
            Exit::Served
        }
        Ok(VcpuExit::SetTpr) => Exit::Served,
        Ok(VcpuExit::Shutdown) => Exit::Shutdown,
        Ok(VcpuExit::Intr) => Exit::Kicked,
        Ok(VcpuExit::FailEntry(reason, cpu)) => {
            Exit::Failed(format!("the processor refused to enter the guest: reason {reason:#x} on CPU {cpu}"))
        }
        Ok(VcpuExit::InternalError) => Exit::InternalError,
        Ok(other) => Exit::Failed(format!("KVM stopped it for a reason vincs does not expect: {other:?}")),
        Err(error) if error.errno() == libc::EINTR => Exit::Kicked,
        Err(error) if error.errno() == libc::EAGAIN => Exit::Served,
        Err(error) => return Err(KvmError::ioctl("run it")(error)),
    })
}

/// The value of an MSR that the guest reads; nothing stands for a general-protection exception.
pub(super) fn read_msr(index: u32, apic: &LocalApic, clock: &GuestClock, stats: &VcpuStats) -> Option<u64> {
    if !LocalApic::owns_msr(index) {
        return refuse(index, "read", stats);
    }
    count(&stats.apic_registers);
    apic.read_msr(index, clock.now()).ok()
}

/// Does what the guest's write of an MSR (index and value) asks for; nothing stands for a general-protection exception.
pub(super) fn write_msr(
    (index, value): (u32, u64),
    apic: &mut LocalApic,
    clock: &GuestClock,
    platform: &Platform,
    stats: &VcpuStats,
) -> Option<()> {
    if !LocalApic::owns_msr(index) {
        return refuse(index, "write", stats);
    }
    count(&stats.apic_registers);
    match apic.write_msr(index, value, clock.now()).ok()? {
        ApicWrite::Done => {}
        ApicWrite::Send(icr) => {
            count(&stats.interprocessor_interrupts);
            platform.router.send(icr, apic.id());
        }
        ApicWrite::EndOfLevel(vector) => platform.io_apic.end_of_interrupt(vector),
    }
    Some(())
}

fn refuse<T>(index: u32, access: &str, stats: &VcpuStats) -> Option<T> {
    debug!(msr = format_args!("{index:#x}"), "guest cannot {access} this MSR");
    count(&stats.unknown_msrs);
    None
}

/// Answers an exit for an MSR; without a value KVM raises a general-protection exception in the guest.
pub(super) fn answer_msr(run: &mut kvm_run, value: Option<u64>) {
    run.__bindgen_anon_1.msr.error = value.is_none().into();
    run.__bindgen_anon_1.msr.data = value.unwrap_or(0);
}
