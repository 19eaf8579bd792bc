//! All of a vCPU at an instruction boundary.

use kvm_bindings::{Msrs, kvm_debugregs, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use crate::apic::LocalApic;
use crate::kvm::KvmError;

/// IA32_TIME_STAMP_COUNTER. Not part of a vCPU's state: the counter belongs to the machine and runs on.
pub(super) const MSR_TSC: u32 = 0x10;
/// KVM's own MSRs, none of which this machine offers.
const KVM_MSRS: std::ops::RangeInclusive<u32> = 0x4b56_4d00..=0x4b56_4dff;

/// Most MSRs that KVM reads or sets at once (`MAX_IO_MSRS` in Linux's arch/x86/kvm/x86.c).
const MSRS_AT_ONCE: usize = 256;

/// Layout of [`VcpuState`]; a state with another number is refused.
pub const STATE_VERSION: u32 = 2;

/// What a vCPU is doing.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Activity {
    /// Executing instructions.
    Running,
    /// In HLT, until an interrupt comes.
    Halted,
    /// Reset, until a start-up message comes (SDM volume 3, section 11.4 "Multiple-Processor Initialization").
    WaitForStartUp,
}

/// The whole state of a vCPU at an instruction boundary: what another thread, process or host needs to go on with it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct VcpuState {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// General-purpose registers, instruction pointer and flags.
    pub registers: kvm_regs,
    /// Segment, control and descriptor-table registers.
    pub special: kvm_sregs,
    /// FPU, SSE, AVX and further extended state, in XSAVE's standard format.
    pub extended: Vec<u8>,
    /// Extended control registers (XCR0).
    pub control: kvm_xcrs,
    /// Debug registers.
    pub debug: kvm_debugregs,
    /// Exceptions, interrupts and NMIs on their way into the processor.
    pub events: kvm_vcpu_events,
    /// Model-specific registers, index and value.
    pub msrs: Vec<(u32, u64)>,
    /// The local APIC.
    pub apic: LocalApic,
    /// What it is doing.
    pub activity: Activity,
    /// When its last instruction had ended, by the machine's clock. How long a move took is told from it; it restores nothing.
    pub stopped: u64,
}

impl VcpuState {
    /// The state as bytes, for another process or host with the same vincs.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // A state holds nothing that cannot be encoded, and a vector takes any length; no bytes are no state.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// What [`Self::to_bytes`] made bytes of.
    ///
    /// # Errors
    /// [`StateError::Version`] for a state of another layout, [`StateError::Bytes`] for bytes that are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        // The version comes first in all layouts; what follows it may mean something else in another.
        match postcard::take_from_bytes::<u32>(bytes) {
            Ok((STATE_VERSION, _)) => {}
            Ok((version, _)) => return Err(StateError::Version(version)),
            Err(_) => return Err(StateError::Bytes),
        }
        match postcard::take_from_bytes(bytes) {
            Ok((state, [])) => Ok(state),
            Ok(_) | Err(_) => Err(StateError::Bytes),
        }
    }
}

/// Why a vCPU's state cannot be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The state has another layout.
    #[error(
        "vCPU state of version {0} cannot be restored: this is version {STATE_VERSION}; use the same vincs on both sides"
    )]
    Version(u32),
    /// These bytes are no state, or not all of one.
    #[error("bytes that are no vCPU's state, or not all of one")]
    Bytes,
    /// The state belongs to another vCPU.
    #[error(
        "state of the vCPU with APIC id {found} cannot be restored to the one with id {expected}; restore each to its own"
    )]
    Id {
        /// APIC id of this vCPU.
        expected: u32,
        /// APIC id in the state.
        found: u32,
    },
    /// The extended state does not have this host's size.
    #[error(
        "extended register state of {found} bytes does not fit this host's {expected}; its processor lacks features the state uses"
    )]
    ExtendedSize {
        /// This host's size in bytes.
        expected: usize,
        /// The state's size in bytes.
        found: usize,
    },
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// KVM refused one MSR.
    #[error("MSR {0:#x} cannot be {1}; this host's processor or KVM lacks it, use one like that of the state")]
    Msr(u32, &'static str),
}

/// Which parts of the state this host's KVM has, found once for each machine.
#[derive(Clone, Debug)]
pub(crate) struct StateShape {
    msrs: Vec<u32>,
    xsave_size: usize,
}

impl StateShape {
    /// `candidates` are the MSRs that KVM lists; those that cannot be read from this vCPU are left out.
    pub(crate) fn probe(vcpu: &VcpuFd, candidates: &[u32], xsave_size: usize) -> Self {
        let belongs = |index: &u32| *index != MSR_TSC && !KVM_MSRS.contains(index) && !LocalApic::owns_msr(*index);
        let readable = |index: &u32| read_msr(vcpu, *index).is_ok();
        Self { msrs: candidates.iter().copied().filter(belongs).filter(readable).collect(), xsave_size }
    }

    /// Reads the registers of a vCPU that is at an instruction boundary.
    pub(crate) fn save(
        &self,
        vcpu: &VcpuFd,
        apic: &LocalApic,
        activity: Activity,
        stopped: u64,
    ) -> Result<VcpuState, StateError> {
        let special = vcpu.get_sregs().map_err(KvmError::ioctl("read special registers"))?;
        Ok(VcpuState {
            version: STATE_VERSION,
            registers: vcpu.get_regs().map_err(KvmError::ioctl("read registers"))?,
            // Without a controller of its own KVM does not keep this register: the local APIC's is the one that counts.
            special: kvm_sregs { apic_base: apic.base(), ..special },
            extended: self.save_extended(vcpu)?,
            control: vcpu.get_xcrs().map_err(KvmError::ioctl("read extended control registers"))?,
            debug: vcpu.get_debug_regs().map_err(KvmError::ioctl("read debug registers"))?,
            events: vcpu.get_vcpu_events().map_err(KvmError::ioctl("read pending events"))?,
            msrs: read_msrs(vcpu, &self.msrs)?,
            apic: apic.clone(),
            activity,
            stopped,
        })
    }

    /// Puts a saved state into a vCPU. The order matters: control registers decide what the others may hold, and
    /// events come last because setting registers drops them.
    pub(crate) fn restore(&self, vcpu: &VcpuFd, state: &VcpuState, apic_id: u32) -> Result<(), StateError> {
        if state.version != STATE_VERSION {
            return Err(StateError::Version(state.version));
        }
        if state.apic.id() != apic_id {
            return Err(StateError::Id { expected: apic_id, found: state.apic.id() });
        }
        if state.extended.len() != self.xsave_size {
            return Err(StateError::ExtendedSize { expected: self.xsave_size, found: state.extended.len() });
        }
        // What is on its way in is in the events; the bitmap would inject it a second time.
        let special = kvm_sregs { interrupt_bitmap: [0; 4], apic_base: state.apic.base(), ..state.special };
        vcpu.set_sregs(&special).map_err(KvmError::ioctl("set special registers"))?;
        vcpu.set_regs(&state.registers).map_err(KvmError::ioctl("set registers"))?;
        vcpu.set_xcrs(&state.control).map_err(KvmError::ioctl("set extended control registers"))?;
        self.restore_extended(vcpu, &state.extended)?;
        write_msrs(vcpu, &state.msrs)?;
        vcpu.set_debug_regs(&state.debug).map_err(KvmError::ioctl("set debug registers"))?;
        vcpu.set_vcpu_events(&state.events).map_err(KvmError::ioctl("set pending events"))?;
        Ok(())
    }

    fn save_extended(&self, vcpu: &VcpuFd) -> Result<Vec<u8>, StateError> {
        let mut buffer = self.xsave_buffer()?;
        // SAFETY: the buffer has the size that KVM reported for this host.
        unsafe { vcpu.get_xsave2(&mut buffer) }.map_err(KvmError::ioctl("read extended state"))?;
        let base = buffer.as_fam_struct_ref().xsave.region.iter();
        let bytes = base.chain(buffer.as_slice()).flat_map(|word| word.to_le_bytes());
        Ok(bytes.take(self.xsave_size).collect())
    }

    fn restore_extended(&self, vcpu: &VcpuFd, bytes: &[u8]) -> Result<(), StateError> {
        let mut buffer = self.xsave_buffer()?;
        let (words, _) = bytes.as_chunks::<4>();
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        let mut base = kvm_xsave::default();
        base.region.iter_mut().zip(words.by_ref()).for_each(|(to, from)| *to = from);
        buffer.as_mut_slice().iter_mut().zip(words).for_each(|(to, from)| *to = from);
        // SAFETY: only the fixed part changes, not the length of what follows it.
        unsafe { buffer.as_mut_fam_struct() }.xsave.region = base.region;
        // SAFETY: the buffer has the size that KVM reported for this host.
        unsafe { vcpu.set_xsave2(&buffer) }.map_err(KvmError::ioctl("set extended state"))?;
        Ok(())
    }

    fn xsave_buffer(&self) -> Result<kvm_bindings::Xsave, StateError> {
        let words_after_base = self.xsave_size.saturating_sub(size_of::<kvm_xsave>()) / size_of::<u32>();
        kvm_bindings::Xsave::new(words_after_base)
            .map_err(|_| StateError::ExtendedSize { expected: size_of::<kvm_xsave>(), found: self.xsave_size })
    }
}

/// Reads MSRs together: a vCPU that moves stands still meanwhile.
fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, StateError> {
    let mut all = Vec::with_capacity(indices.len());
    for part in indices.chunks(MSRS_AT_ONCE) {
        let failed = |at: usize| StateError::Msr(part.get(at).copied().unwrap_or_default(), "read");
        let entries: Vec<_> = part.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| failed(0))?;
        // KVM stops at the first one that it does not have.
        let read = vcpu.get_msrs(&mut msrs).map_err(|_| failed(0))?;
        if read < part.len() {
            return Err(failed(read));
        }
        all.extend(msrs.as_slice().iter().map(|msr| (msr.index, msr.data)));
    }
    Ok(all)
}

/// Sets MSRs together, in their order.
fn write_msrs(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<(), StateError> {
    for part in values.chunks(MSRS_AT_ONCE) {
        let failed = |at: usize| StateError::Msr(part.get(at).map(|(index, _)| *index).unwrap_or_default(), "set");
        let entries: Vec<_> =
            part.iter().map(|&(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
        let msrs = Msrs::from_entries(&entries).map_err(|_| failed(0))?;
        let set = vcpu.set_msrs(&msrs).map_err(|_| failed(0))?;
        if set < part.len() {
            return Err(failed(set));
        }
    }
    Ok(())
}

pub(super) fn read_msr(vcpu: &VcpuFd, index: u32) -> Result<u64, StateError> {
    let failed = || StateError::Msr(index, "read");
    let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }]).map_err(|_| failed())?;
    match vcpu.get_msrs(&mut msrs) {
        Ok(1) => Ok(msrs.as_slice()[0].data),
        _ => Err(failed()),
    }
}

pub(crate) fn write_msr(vcpu: &VcpuFd, index: u32, data: u64) -> Result<(), StateError> {
    let failed = || StateError::Msr(index, "set");
    let msrs = Msrs::from_entries(&[kvm_msr_entry { index, data, ..Default::default() }]).map_err(|_| failed())?;
    match vcpu.set_msrs(&msrs) {
        Ok(1) => Ok(()),
        _ => Err(failed()),
    }
}
