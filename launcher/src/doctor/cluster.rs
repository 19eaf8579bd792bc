//! What machines of several hosts use: page walks that only read, and a way to start.

use std::path::Path;

use crate::doctor::Finding;
use crate::host::{on_path, paging};

/// Where KVM on Intel tells whether nested page tables have accessed and dirty bits.
const EPT_ACCESSED_DIRTY: &str = "/sys/module/kvm_intel/parameters/eptad";

/// The processor's walks of the guest's page tables do not count as writes.
pub(super) fn page_walks() -> Finding {
    if let Some(line) = paging::without_nested_paging() {
        return Finding::warn(line, "machines of one rank run all the same");
    }
    page_walks_of(
        std::fs::read_to_string(EPT_ACCESSED_DIRTY).ok().as_deref(),
        Path::new("/sys/module/kvm_amd").exists(),
    )
}

/// With EPT's accessed and dirty bits, as with AMD's nested paging always, a walk of the guest's page tables is a write of them (SDM
/// 30.3.3.2, APM volume 2 15.25.5).
fn page_walks_of(eptad: Option<&str>, is_amd: bool) -> Finding {
    match eptad.map(str::trim) {
        Some("Y" | "1") => Finding::warn(
            "walks of the guest's page tables count as writes (kvm_intel.eptad=Y)",
            "machines of several ranks are much faster without: modprobe -r kvm_intel; modprobe kvm_intel eptad=0",
        ),
        Some(_) => Finding::ok("walks of the guest's page tables are reads (kvm_intel.eptad=N)"),
        None if is_amd => Finding::warn(
            "walks of the guest's page tables count as writes (AMD's nested paging)",
            "for machines of several ranks: --hold-time and hosts of Intel's kind with kvm_intel.eptad=N help",
        ),
        None => Finding::ok("not known: KVM is neither kvm_intel nor kvm_amd"),
    }
}

/// A program that starts MPI ranks.
pub(super) fn mpi() -> Finding {
    match on_path("mpirun").or_else(|| on_path("mpiexec")) {
        Some(program) => Finding::ok(program.display()),
        None => Finding::warn("no mpirun on PATH", "for machines of several hosts: install openmpi-bin or mpich"),
    }
}

/// Slurm's client.
pub(super) fn slurm() -> Finding {
    match on_path("srun") {
        Some(program) => Finding::ok(program.display()),
        None => Finding::warn(
            "no srun on PATH",
            "to run as Slurm jobs: install slurm-client, or log in to a node that has it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn page_walks_that_count_as_writes_are_warned_of() {
        let level = |eptad, is_amd| page_walks_of(eptad, is_amd).level;
        assert_eq!((level(Some("Y\n"), false), level(Some("N\n"), false)), (Level::Warn, Level::Ok));
        assert_eq!((level(None, true), level(None, false)), (Level::Warn, Level::Ok));
    }
}
