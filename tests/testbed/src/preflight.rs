//! What a node needs on this machine, looked for before anything is started.

use std::path::{Path, PathBuf};

use crate::TestbedError;
use crate::hosts::MAX_HOSTS;
use crate::qemu::{MAX_CPUS, MIN_MEMORY};

/// Something on this machine that a node needs and that is not there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MissingError {
    /// A program is not on PATH.
    #[error("{program} not found: install the package {package} (make setup does)")]
    Program {
        /// The program's name.
        program: &'static str,
        /// Debian's and Ubuntu's package that holds it.
        package: &'static str,
    },
    /// The node's first program is not in the cache.
    #[error("no {}: run `make kernel`, which fetches it with the kernel", .0.display())]
    NoBusybox(PathBuf),
    /// QEMU's software CPU is too old for SVM.
    #[error("this QEMU cannot emulate AMD's SVM: install qemu-system-x86 of Debian 12, Ubuntu 24.04 or later ({0})")]
    NoSvm(String),
    /// QEMU was built for hardware virtualization only.
    #[error("this QEMU has no software CPU: install the package qemu-system-x86 ({0})")]
    NoSoftwareCpu(String),
}

/// The programs a node needs, found.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) qemu: PathBuf,
    pub(crate) busybox: PathBuf,
}

impl Programs {
    /// Looks for each program in the folders of `path`, a list as in `$PATH`, and for busybox in the cache's `tools`.
    pub(crate) fn find(path: &str, tools: &Path) -> Result<Self, TestbedError> {
        let look = |program, package| {
            path.split(':')
                .filter(|dir| !dir.is_empty())
                .map(|dir| Path::new(dir).join(program))
                .find(|file| file.is_file())
                .ok_or(MissingError::Program { program, package })
        };
        let qemu = look("qemu-system-x86_64", "qemu-system-x86")?;
        let busybox = tools.join("busybox");
        if !busybox.is_file() {
            return Err(MissingError::NoBusybox(busybox).into());
        }
        // The node puts rdma_rxe on its interface with it.
        look("rdma", "iproute2")?;
        Ok(Self { qemu, busybox })
    }
}

/// Refuses nodes that QEMU cannot emulate or this machine cannot hold all of. `meminfo` is the text of /proc/meminfo.
pub(crate) fn check_shape(hosts: u32, cpus: u32, memory: u64, meminfo: &str) -> Result<(), TestbedError> {
    if hosts == 0 || hosts > MAX_HOSTS {
        return Err(TestbedError::Hosts(hosts));
    }
    if cpus == 0 || cpus > MAX_CPUS {
        return Err(TestbedError::Cpus(cpus));
    }
    if memory < MIN_MEMORY {
        return Err(TestbedError::SmallMemory(memory));
    }
    // A kernel without the line is older than any that runs this; it then decides itself.
    let asked = memory.saturating_mul(hosts.into());
    match available(meminfo) {
        Some(available) if asked > available => Err(TestbedError::LargeMemory { asked, available }),
        _ => Ok(()),
    }
}

/// Bytes of MemAvailable (proc(5)).
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24000000 kB\nMemFree:  1 kB\nMemAvailable:    4194304 kB\n";

    #[test]
    fn shapes_are_checked_at_their_edges() {
        let check = |cpus, memory| check_shape(1, cpus, memory, MEMINFO);
        assert!(check(1, MIN_MEMORY).is_ok());
        assert!(check(MAX_CPUS, 4 << 30).is_ok());
        assert!(matches!(check(0, 1 << 30), Err(TestbedError::Cpus(0))));
        assert!(matches!(check(MAX_CPUS + 1, 1 << 30), Err(TestbedError::Cpus(_))));
        assert!(matches!(check(1, MIN_MEMORY - 1), Err(TestbedError::SmallMemory(_))));
        assert!(matches!(check(1, (4 << 30) + 1), Err(TestbedError::LargeMemory { available: 0x1_0000_0000, .. })));
    }

    #[test]
    fn the_memory_of_all_nodes_counts() {
        let check = |hosts, memory| check_shape(hosts, 1, memory, MEMINFO);
        assert!(check(MAX_HOSTS, (4 << 30) / u64::from(MAX_HOSTS)).is_ok());
        assert!(matches!(check(2, (2 << 30) + 1), Err(TestbedError::LargeMemory { asked: 0x1_0000_0002, .. })));
        assert!(matches!(check(2, u64::MAX), Err(TestbedError::LargeMemory { .. })));
        assert!(matches!(check(0, 1 << 30), Err(TestbedError::Hosts(0))));
        assert!(matches!(check(MAX_HOSTS + 1, MIN_MEMORY), Err(TestbedError::Hosts(_))));
    }

    #[test]
    fn memory_messages_name_numbers_and_fix() {
        let message = check_shape(2, 1, 4 << 30, MEMINFO).unwrap_err().to_string();
        assert_eq!(
            message,
            "8192 MiB of memory asked for, 4096 MiB available: give a smaller --mem or end other programs"
        );
        let message = check_shape(1, 1, 1 << 20, MEMINFO).unwrap_err().to_string();
        assert_eq!(message, "1 MiB of memory asked for: give --mem of at least 512 MiB");
    }

    #[test]
    fn each_missing_program_is_named_with_its_package() {
        let dir = tempfile::tempdir().unwrap();
        let path = format!(":{}", dir.path().display());
        let message = || Programs::find(&path, dir.path()).unwrap_err().to_string();
        let missing = |program: &str, package: &str| {
            format!("{program} not found: install the package {package} (make setup does)")
        };
        assert_eq!(message(), missing("qemu-system-x86_64", "qemu-system-x86"));
        std::fs::write(dir.path().join("qemu-system-x86_64"), "").unwrap();
        assert!(message().ends_with("busybox: run `make kernel`, which fetches it with the kernel"), "{}", message());
        std::fs::write(dir.path().join("busybox"), "").unwrap();
        assert_eq!(message(), missing("rdma", "iproute2"));
        std::fs::write(dir.path().join("rdma"), "").unwrap();
        assert!(Programs::find(&path, dir.path()).is_ok());
    }
}
