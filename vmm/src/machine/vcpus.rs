//! Making a rank's vCPUs.

use std::sync::Arc;

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};

use super::config::MachineError;
use crate::clock::GuestClock;
use crate::cpuid;
use crate::kvm::{self, Hypervisor, KvmError};
use crate::topology::{Topology, VcpuId};
use crate::vcpu::{Activity, ResetState, Samples, StateShape, Vcpu, VcpuHandle, VcpuShared, write_msr};

/// IA32_MISC_ENABLE and its bit for fast string operations, which firmware sets (SDM volume 4, table 2-2).
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;

/// A vCPU of KVM's, before it has a clock.
pub(super) struct Raw {
    pub(super) id: VcpuId,
    pub(super) fd: VcpuFd,
    shared: VcpuShared,
}

/// KVM's vCPUs for these of the machine's, which are here at first or `elsewhere`.
pub(super) fn create(
    vm: &VmFd,
    ids: &[VcpuId],
    samples: &Arc<Samples>,
    elsewhere: bool,
) -> Result<(Vec<Raw>, Vec<VcpuHandle>), MachineError> {
    let create = |&id: &VcpuId| {
        let fd = vm.create_vcpu(id.0.into()).map_err(KvmError::ioctl("create a vCPU"))?;
        let (handle, shared) = VcpuHandle::new(id, Arc::clone(samples), elsewhere);
        Ok((Raw { id, fd, shared }, handle))
    };
    let created: Result<Vec<_>, MachineError> = ids.iter().map(create).collect();
    Ok(created?.into_iter().unzip())
}

/// A new clock that starts near zero, as this host's KVM makes it in fact.
pub(super) fn new_clock(vcpus: &[Raw]) -> Result<GuestClock, MachineError> {
    let vcpu = vcpus.first().ok_or(KvmError::Missing("a vCPU"))?;
    let wanted = GuestClock::start(counter_khz(&vcpu.fd)?);
    let offset = kvm::set_tsc_offset(&vcpu.fd, wanted.offset())?;
    Ok(wanted.with_offset(offset))
}

/// Rate of this host's time-stamp counter in kHz.
pub(super) fn counter_khz(vcpu: &VcpuFd) -> Result<u32, KvmError> {
    vcpu.get_tsc_khz().map_err(KvmError::ioctl("tell the time-stamp counter's rate"))
}

/// Gives vCPUs their features and the clock; they are ready to run then, or if another rank has them at first, to go on with the states
/// that come from there.
pub(super) fn equip(
    hypervisor: &Hypervisor,
    topology: &Topology,
    vcpus: Vec<Raw>,
    clock: GuestClock,
) -> Result<Vec<(Vcpu, ResetState)>, MachineError> {
    let supported = hypervisor.supported_cpuid()?;
    let (candidates, xsave_size) = (hypervisor.state_msrs()?, hypervisor.xsave_size());
    let mut shape = None;
    let mut equipped = Vec::new();
    for Raw { id, fd, shared } in vcpus {
        let leaves = CpuId::from_entries(&cpuid::for_vcpu(&supported, topology, id, clock.khz()))
            .map_err(|_| KvmError::Missing("room for this machine's CPUID leaves"))?;
        fd.set_cpuid2(&leaves).map_err(KvmError::ioctl("set CPUID"))?;
        kvm::set_tsc_offset(&fd, clock.offset())?;
        // Hosts without this Intel register need not have it set.
        let _ = write_msr(&fd, MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING);
        let shape = shape.get_or_insert_with(|| StateShape::probe(&fd, &candidates, xsave_size)).clone();
        let reset = ResetState {
            registers: fd.get_regs().map_err(KvmError::ioctl("read registers"))?,
            special: fd.get_sregs().map_err(KvmError::ioctl("read special registers"))?,
            debug: fd.get_debug_regs().map_err(KvmError::ioctl("read debug registers"))?,
        };
        let activity = if id.0 == 0 { Activity::Running } else { Activity::WaitForStartUp };
        let apic_id = topology.apic_id(id);
        equipped.push((Vcpu { id, apic_id, fd, shape, clock, activity, shared }, reset));
    }
    Ok(equipped)
}
