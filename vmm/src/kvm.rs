//! Opening KVM: what vincs needs of it, and the few ioctls that kvm-ioctls does not wrap.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, KVMIO, kvm_enable_cap, kvm_interrupt};
use kvm_ioctls::{Cap, Kvm, MsrExitReason, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};
use vmm_sys_util::ioctl::ioctl_with_ref;

use crate::apic::{MSR_APIC_BASE, MSR_TSC_DEADLINE};

/// Where KVM's device node is.
pub const DEFAULT_KVM_PATH: &str = "/dev/kvm";

const API_VERSION: i32 = 12;
/// Three pages that Intel processors without unrestricted guest mode need below 4 GiB, away from RAM and devices.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// The CPUID leaf whose EAX begins with the bits of a physical address (SDM volume 2A, CPUID; APM volume 3, appendix E.4.7).
const ADDRESS_SIZES: u32 = 0x8000_0008;
/// What processors without that leaf have (SDM volume 3A, section 4.1.4).
const LEAST_PHYSICAL_BITS: u32 = 36;

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The device node cannot be opened.
    #[error("cannot open {path}: {source}; {fix}", path = .path.display(), fix = open_fix(.source))]
    Open {
        /// The device node.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel speaks another version of the interface.
    #[error("KVM interface version {0} is not {API_VERSION}; a kernel of 2.6.22 or later is needed")]
    Version(i32),
    /// The kernel's KVM lacks something.
    #[error("this kernel's KVM lacks {0}; Linux 5.16 or later has it")]
    Missing(&'static str),
    /// An ioctl failed.
    #[error("KVM cannot {action}: {source}")]
    Ioctl {
        /// What was asked of it.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn open_fix(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOENT) => "load the module kvm-intel or kvm-amd, and enable virtualization in the firmware",
        Some(libc::EACCES | libc::EPERM) => "add yourself to the group kvm, or run as root",
        _ => "check the module kvm-intel or kvm-amd in the kernel log",
    }
}

impl KvmError {
    pub(crate) fn ioctl(action: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::Ioctl { action, source: io::Error::from_raw_os_error(error.errno()) }
    }

    /// The guest's instruction cannot be brought to its end.
    pub(crate) fn unfinished(why: String) -> Self {
        Self::Ioctl { action: "finish an instruction", source: io::Error::other(why) }
    }

    pub(crate) fn last(action: &'static str) -> Self {
        Self::Ioctl { action, source: io::Error::last_os_error() }
    }
}

/// KVM, open and found fit.
#[derive(Debug)]
pub struct Hypervisor {
    kvm: Kvm,
}

/// Extensions vincs needs, with the names that errors give them.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR"),
    (Cap::X86MsrFilter, "KVM_CAP_X86_MSR_FILTER"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
];

impl Hypervisor {
    /// Opens KVM and checks that it has what vincs needs.
    ///
    /// # Errors
    /// [`KvmError`] naming what is missing.
    pub fn open(path: &Path) -> Result<Self, KvmError> {
        let open_error = |source| KvmError::Open { path: path.to_owned(), source };
        let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|error| open_error(error.into()))?;
        let kvm =
            Kvm::new_with_path(c_path).map_err(|error| open_error(io::Error::from_raw_os_error(error.errno())))?;
        match kvm.get_api_version() {
            API_VERSION => {}
            version => return Err(KvmError::Version(version)),
        }
        if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(KvmError::Missing(name));
        }
        Ok(Self { kvm })
    }

    /// The largest number of vCPUs of one machine.
    #[must_use]
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// Bits of guest-physical addresses: memory beyond is nobody's.
    ///
    /// # Errors
    /// [`KvmError`] when KVM does not tell.
    pub fn physical_bits(&self) -> Result<u32, KvmError> {
        let cpuid = self.supported_cpuid()?;
        let leaf = cpuid.as_slice().iter().find(|leaf| leaf.function == ADDRESS_SIZES);
        Ok(leaf.map_or(LEAST_PHYSICAL_BITS, |leaf| leaf.eax & 0xff))
    }

    pub(crate) fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(KvmError::ioctl("list CPU features"))
    }

    /// MSRs that belong to a vCPU's state.
    pub(crate) fn state_msrs(&self) -> Result<Vec<u32>, KvmError> {
        let list = self.kvm.get_msr_index_list().map_err(KvmError::ioctl("list MSRs"))?;
        Ok(list.as_slice().to_vec())
    }

    /// Bytes of a vCPU's extended register state.
    pub(crate) fn xsave_size(&self) -> usize {
        usize::try_from(self.kvm.check_extension_int(Cap::Xsave2))
            .unwrap_or(0)
            .max(size_of::<kvm_bindings::kvm_xsave>())
    }

    /// A virtual machine without interrupt controllers, whose accesses to local APIC registers come to user space.
    pub(crate) fn create_vm(&self) -> Result<VmFd, KvmError> {
        let vm = self.kvm.create_vm().map_err(KvmError::ioctl("create a machine"))?;
        vm.set_tss_address(TSS_ADDRESS).map_err(KvmError::ioctl("place its task state segment"))?;
        // x2APIC registers cannot be filtered, but without an in-kernel controller they are invalid; the other two can.
        let reasons = MsrExitReason::Inval | MsrExitReason::Unknown | MsrExitReason::Filter;
        let mut cap = kvm_enable_cap { cap: Cap::X86UserSpaceMsr as u32, ..Default::default() };
        cap.args[0] = reasons.bits().into();
        vm.enable_cap(&cap).map_err(KvmError::ioctl("hand MSR accesses to user space"))?;
        let denied = [0u8];
        let ranges = [MSR_APIC_BASE, MSR_TSC_DEADLINE].map(|base| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base,
            msr_count: 1,
            bitmap: &denied,
        });
        vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges).map_err(KvmError::ioctl("filter MSRs"))?;
        Ok(vm)
    }
}

mod numbers {
    use super::{KVMIO, SignalMaskHeader, kvm_interrupt};
    use kvm_bindings::kvm_device_attr;
    use vmm_sys_util::ioctl_iow_nr;

    ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);
    ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, KVMIO, 0x8b, SignalMaskHeader);
    ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
    ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);
}
use numbers::{KVM_GET_DEVICE_ATTR, KVM_INTERRUPT, KVM_SET_DEVICE_ATTR, KVM_SET_SIGNAL_MASK};

/// The part of `struct kvm_signal_mask` that its ioctl number is made of.
#[repr(C)]
pub(crate) struct SignalMaskHeader {
    len: u32,
}

/// `struct kvm_signal_mask` with the kernel's signal set of 64 signals.
#[repr(C, packed)]
struct SignalMask {
    header: SignalMaskHeader,
    set: u64,
}
const _: () = assert!(size_of::<SignalMask>() == 12);

/// Injects an external interrupt; the vCPU must be ready for it.
pub(crate) fn interrupt(vcpu: &VcpuFd, vector: u8) -> Result<(), KvmError> {
    let interrupt = kvm_interrupt { irq: vector.into() };
    // SAFETY: the fd is a vCPU and the kernel only reads the structure.
    match unsafe { ioctl_with_ref(vcpu, KVM_INTERRUPT(), &interrupt) } {
        0 => Ok(()),
        _ => Err(KvmError::last("inject an interrupt")),
    }
}

/// Lets only `signal` interrupt KVM_RUN.
pub(crate) fn set_run_signal(vcpu: &VcpuFd, signal: i32) -> Result<(), KvmError> {
    let mask = SignalMask { header: SignalMaskHeader { len: 8 }, set: !(1 << (signal - 1)) };
    // SAFETY: the fd is a vCPU; the kernel reads the header and as many bytes after it as `len` says.
    match unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &mask) } {
        0 => Ok(()),
        _ => Err(KvmError::last("set a signal mask")),
    }
}

/// Makes the vCPU's time-stamp counter the host's plus `offset`, if this KVM can; returns what is added in fact. A KVM
/// that emulates ring 0 and runs ring 3 on the host's own counter accepts the offset and adds nothing.
pub(crate) fn set_tsc_offset(vcpu: &VcpuFd, offset: u64) -> Result<u64, KvmError> {
    let mut value = offset;
    let attribute = kvm_bindings::kvm_device_attr {
        group: kvm_bindings::KVM_VCPU_TSC_CTRL,
        attr: kvm_bindings::KVM_VCPU_TSC_OFFSET.into(),
        addr: (&raw mut value).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: the fd is a vCPU; the kernel reads the structure and the 8 bytes it points to, both alive here.
    if unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) } != 0 {
        return Err(KvmError::last("set the time-stamp counter's offset"));
    }
    // SAFETY: as above, but the kernel writes the 8 bytes.
    match unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attribute) } {
        0 => Ok(value),
        _ => Err(KvmError::last("tell the time-stamp counter's offset")),
    }
}
