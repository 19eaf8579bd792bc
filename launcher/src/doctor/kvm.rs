//! KVM: usable, native, complete.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kvm_ioctls::Kvm;
use vincs_vmm::kvm::{Hypervisor, KvmError};

use crate::doctor::{Finding, ring0};

/// Instructions a second below which KVM emulates ring-0 code. Native code makes over 10^8 even under a software
/// processor's nested virtualisation, an emulator about 2 * 10^6.
const NATIVE_RATE: f64 = 2e7;

const SEE_KVM: &str = "see what `vincs doctor --check kvm` says";
const USE_ANOTHER: &str = "use a host with hardware virtualisation (VMX or SVM), or make testbed CMD='vincs …'";

/// The device is there, permitted, and of the known version.
pub(super) fn usable(path: &Path) -> Finding {
    match Hypervisor::open(path) {
        Ok(kvm) => {
            Finding::ok(format_args!("{} is usable, up to {} virtual processors", path.display(), kvm.max_vcpus()))
        }
        Err(KvmError::Missing(_)) => Finding::ok(format_args!("{} is usable", path.display())),
        Err(error) => Finding::fail(error, "vincs runs no guest without it"),
    }
}

/// Ring-0 code runs on the processor itself.
pub(super) fn native(path: &Path) -> Finding {
    let Some(kvm) =
        std::ffi::CString::new(path.as_os_str().as_bytes()).ok().and_then(|path| Kvm::new_with_path(path).ok())
    else {
        return Finding::fail("not known without KVM", SEE_KVM);
    };
    match ring0::instructions_per_second(&kvm) {
        Ok(rate) if rate >= NATIVE_RATE => {
            Finding::ok(format_args!("ring-0 code runs natively, {:.0} million instructions/s", rate / 1e6))
        }
        Ok(rate) => Finding::fail(
            format_args!("ring-0 code is only emulated, {:.1} million instructions/s: Linux does not boot", rate / 1e6),
            USE_ANOTHER,
        ),
        Err(error) => Finding::fail(format_args!("ring-0 code does not run: {error}"), USE_ANOTHER),
    }
}

/// KVM can do all that vincs asks of it.
pub(super) fn capabilities(path: &Path) -> Finding {
    match Hypervisor::open(path) {
        Ok(_) => Finding::ok("KVM can do all that vincs needs"),
        Err(error @ KvmError::Missing(_)) => Finding::fail(error, "update the host's kernel"),
        Err(_) => Finding::fail("not known without KVM", SEE_KVM),
    }
}
