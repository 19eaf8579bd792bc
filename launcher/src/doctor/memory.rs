//! What the coherence of guest memory needs of the host: page faults in user space, and memory that stays.

use rustix::process::{Resource, getrlimit};
use userfaultfd::{FeatureFlags, UffdBuilder};

use crate::doctor::Finding;
use crate::input::size::Bytes;

/// Missing and write-protect faults of shared memory (linux/userfaultfd.h). The last has no name in the crate.
const FEATURES: [(u64, &str); 3] =
    [(1 << 5, "MISSING_SHMEM"), (1 << 0, "PAGEFAULT_FLAG_WP"), (1 << 12, "WP_HUGETLBFS_SHMEM")];

/// Memory may be locked without a limit by who has this capability (linux/capability.h).
const CAP_IPC_LOCK: u32 = 14;

fn create(features: u64, user_mode_only: bool) -> Result<(), userfaultfd::Error> {
    let mut builder = UffdBuilder::new();
    builder.close_on_exec(true).user_mode_only(user_mode_only);
    builder.require_features(FeatureFlags::from_bits_retain(features)).create().map(drop)
}

/// Faults of shared memory, from user and kernel mode, can be handled here.
pub(super) fn userfaultfd() -> Finding {
    if let Err(error) = create(0, false) {
        return match create(0, true) {
            Ok(()) => Finding::warn(
                "faults in kernel mode (KVM's own) may not be handled by this user",
                "for machines of several hosts: allow /dev/userfaultfd, or sysctl vm.unprivileged_userfaultfd=1",
            ),
            Err(_) => Finding::warn(
                format_args!("not usable: {error}"),
                "for machines of several hosts: allow /dev/userfaultfd, or use a host kernel with CONFIG_USERFAULTFD",
            ),
        };
    }
    let missing: Vec<_> =
        FEATURES.iter().filter(|(bit, _)| create(*bit, false).is_err()).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Finding::ok("missing and write-protect faults of shared memory can be handled");
    }
    Finding::warn(
        format_args!("the host's kernel lacks {}", missing.join(", ")),
        "for machines of several hosts: use a host kernel of 5.19 or later",
    )
}

/// Memory for the network's direct access can be locked.
pub(super) fn locked_memory() -> Finding {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match getrlimit(Resource::Memlock).current {
        None => Finding::ok("no limit"),
        Some(limit) if has_capability(&status, CAP_IPC_LOCK) => {
            Finding::ok(format_args!("{} for others, no limit for this user (CAP_IPC_LOCK)", Bytes(limit)))
        }
        Some(limit) => Finding::warn(
            format_args!("limited to {}", Bytes(limit)),
            "for RDMA: raise memlock to unlimited in /etc/security/limits.conf (or the batch system), and log in again",
        ),
    }
}

/// Whether /proc/self/status (proc_pid_status(5)) has this effective capability.
fn has_capability(status: &str, capability: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & (1 << capability) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = "CapPrm:\tffffffffffffffff\nCapEff:\t0000000000004000\n";
        assert!(has_capability(status, CAP_IPC_LOCK) && !has_capability(status, 13) && !has_capability(status, 15));
        assert!(!has_capability("", CAP_IPC_LOCK));
    }

    #[test]
    fn missing_things_are_only_warned_of() {
        assert_ne!(userfaultfd().level, Level::Fail);
        assert_ne!(locked_memory().level, Level::Fail);
    }
}
