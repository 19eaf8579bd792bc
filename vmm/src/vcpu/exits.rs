//! Answering the exits that ask for a device or a register.

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuExit;
use tracing::debug;

use super::run::{Io, Platform};
use super::stats::{VcpuStats, count};
use crate::apic::{ApicWrite, LocalApic};
use crate::clock::GuestClock;
use crate::cluster::{Closed, Place};
use crate::kvm::KvmError;
use crate::topology::VcpuId;

/// What an exit leaves to do once the bus has answered it.
#[derive(Debug)]
pub(super) enum Exit {
    /// Nothing.
    Served,
    /// Nothing; KVM finishes the instruction at the next entry, with the device's answer.
    Answered,
    /// A guest program has rung the doorbell of relaxed memory with this; KVM finishes the instruction at the next entry.
    Rung(u32),
    /// The machine ends: the access will have no answer.
    Abandoned,
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

/// Takes a device access to the device; says what any other exit asks for.
pub(super) fn serve(
    exit: Result<VcpuExit<'_>, kvm_ioctls::Error>,
    vcpu: VcpuId,
    platform: &Platform,
    stats: &VcpuStats,
) -> Result<Exit, KvmError> {
    let io = &platform.io;
    Ok(match exit {
        Ok(VcpuExit::IoIn(port, data)) => {
            count(&stats.port_io);
            read(io, vcpu, Place::Port(port), data, stats)
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            count(&stats.port_io);
            write(io, vcpu, Place::Port(port), data, stats)
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            count(&stats.mmio);
            if let Some(doorbell) = platform.doorbell_at(address) {
                let answer = doorbell.read().to_le_bytes();
                data.iter_mut().zip(answer).for_each(|(to, byte)| *to = byte);
                return Ok(Exit::Answered);
            }
            read(io, vcpu, Place::Memory(address), data, stats)
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            count(&stats.mmio);
            if platform.doorbell_at(address).is_some() {
                // What is not a number is no slot's.
                return Ok(Exit::Rung(data.first_chunk().map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes))));
            }
            write(io, vcpu, Place::Memory(address), data, stats)
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

fn read(io: &Io, vcpu: VcpuId, place: Place, data: &mut [u8], stats: &VcpuStats) -> Exit {
    match (io, place) {
        (Io::Here(devices), Place::Port(port)) => devices.bus.pio_read(port, data),
        (Io::Here(devices), Place::Memory(address)) => devices.bus.mmio_read(address, data),
        (Io::There(forwarder), place) => {
            count(&stats.forwarded);
            if forwarder.read(vcpu, place, data) == Err(Closed) {
                return Exit::Abandoned;
            }
        }
    }
    Exit::Answered
}

fn write(io: &Io, vcpu: VcpuId, place: Place, data: &[u8], stats: &VcpuStats) -> Exit {
    match (io, place) {
        (Io::Here(devices), Place::Port(port)) => devices.bus.pio_write(port, data),
        (Io::Here(devices), Place::Memory(address)) => devices.bus.mmio_write(address, data),
        (Io::There(forwarder), place) => match forwarder.write(vcpu, place, data) {
            Ok(true) => count(&stats.posted),
            Ok(false) => count(&stats.forwarded),
            Err(Closed) => return Exit::Abandoned,
        },
    }
    Exit::Answered
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
        ApicWrite::EndOfLevel(vector) => match &platform.io {
            Io::Here(devices) => devices.io_apic.end_of_interrupt(vector),
            Io::There(forwarder) => forwarder.end_of_interrupt(vector),
        },
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
