//! How many processors, NUMA nodes and bytes of memory the machine has, within what is possible.

use vincs_vmm::layout::{MAX_MEMORY, MAX_RELAXED, RELAXED_ALIGNMENT, RELAXED_CONTROL, machine_end};

use crate::input::size::Bytes;

/// Guest memory when the user asks for none, in bytes: enough for a compiler, little enough to boot quickly.
pub(crate) const DEFAULT_MEMORY: u64 = 1 << 30;

/// Guest memory comes in pages of this many bytes.
const PAGE: u64 = 4096;

/// The limits that a machine's size is checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Most virtual processors.
    pub(crate) max_vcpus: u32,
    /// Least guest memory in bytes.
    pub(crate) min_memory: u64,
    /// The host's memory in bytes.
    pub(crate) host_memory: u64,
    /// Host processors that vincs may run on.
    pub(crate) host_cpus: u32,
    /// Ranks that the machine is spread over; the memory of several hosts is checked when all are known.
    pub(crate) ranks: u32,
}

/// What the user asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) vcpus: Option<u32>,
    pub(crate) numa: Option<u32>,
    pub(crate) memory: Option<u64>,
    pub(crate) relaxed: Option<u64>,
}

/// A machine's size, checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub(crate) struct MachineSize {
    /// Virtual processors.
    pub(crate) vcpus: u32,
    /// Virtual NUMA nodes.
    pub(crate) numa_nodes: u32,
    /// Bytes of guest memory, whole pages.
    pub(crate) memory: u64,
    /// Bytes of relaxed memory, apart from guest memory; 0 for none.
    pub(crate) relaxed: u64,
}

/// Why a machine cannot have the size asked for.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum MachineSizeError {
    #[error("--vcpus {asked}: the machine has at least 1 and at most {max} virtual processors")]
    Vcpus { asked: u32, max: u32 },
    #[error("--vcpus {asked}: a machine of {ranks} ranks has at least {ranks} virtual processors, one on each")]
    FewerThanRanks { asked: u32, ranks: u32 },
    #[error("--numa {asked}: a machine of {ranks} ranks has {ranks} NUMA nodes, one on each: leave it away")]
    NotRanks { asked: u32, ranks: u32 },
    #[error("--numa {asked}: with {vcpus} virtual processors there can be 1 to {vcpus} NUMA nodes")]
    Numa { asked: u32, vcpus: u32 },
    #[error("--mem {} is too small: the guest needs at least {}", Bytes(*.asked), Bytes(*.min))]
    TooSmall { asked: u64, min: u64 },
    #[error("--mem {} is more than this host's memory of {}: ask for less", Bytes(*.asked), Bytes(*.host))]
    TooLarge { asked: u64, host: u64 },
    #[error("--mem {} is more than {}, the most that KVM takes: ask for less", Bytes(*.asked), Bytes(MAX_MEMORY))]
    TooMuch { asked: u64 },
    #[error(
        "--mem {}{} is more than the processors of this host reach, {bits} bits of address or {}, of which devices take 1G: ask for less",
        Bytes(*.memory), with_relaxed(*.relaxed), Bytes(1 << *.bits)
    )]
    Unreached { memory: u64, relaxed: u64, bits: u32 },
    #[error("--mem {asked} is not a multiple of the page size of {PAGE} bytes: round it, or use a suffix K, M, G, T")]
    NotWholePages { asked: u64 },
    #[error(
        "--relaxed {}: relaxed memory comes in multiples of {}, up to {}: round it, or leave it away for none",
        Bytes(*.asked), Bytes(RELAXED_ALIGNMENT), Bytes(MAX_RELAXED)
    )]
    Relaxed { asked: u64 },
    #[error(
        "--relaxed {} on top of {} of guest memory is more than this host's memory of {}: ask for less, here or with --mem",
        Bytes(*.asked), Bytes(*.memory), Bytes(*.host)
    )]
    RelaxedTooLarge { asked: u64, memory: u64, host: u64 },
    #[error(
        "--relaxed {}: on {ranks} ranks it has at least {}, of which the first {} are vincs's own: ask for more",
        Bytes(*.asked), Bytes(2 * RELAXED_CONTROL), Bytes(RELAXED_CONTROL)
    )]
    RelaxedRanks { asked: u64, ranks: u32 },
}

/// Words for relaxed memory beside guest memory.
pub(crate) fn with_relaxed(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(" with --relaxed {}", Bytes(bytes)) }
}

/// Whether processors with so many bits of physical address, fewer than 64, reach all of the machine's memory.
///
/// # Errors
/// [`MachineSizeError::Unreached`].
pub(crate) fn check_reach(size: MachineSize, bits: u32) -> Result<(), MachineSizeError> {
    let MachineSize { memory, relaxed, .. } = size;
    let reached = 1_u64.checked_shl(bits).is_none_or(|reach| machine_end(memory, relaxed) <= reach);
    if reached { Ok(()) } else { Err(MachineSizeError::Unreached { memory, relaxed, bits }) }
}

/// The machine's size: what was asked for, or the default.
///
/// # Errors
/// [`MachineSizeError`] when it is beyond a limit.
pub(crate) fn machine_size(asked: Asked, limits: Limits) -> Result<MachineSize, MachineSizeError> {
    let ranks = limits.ranks;
    let default = if ranks > 1 { ranks } else { limits.host_cpus.clamp(1, limits.max_vcpus) };
    let vcpus = asked.vcpus.unwrap_or(default);
    if vcpus == 0 || vcpus > limits.max_vcpus {
        return Err(MachineSizeError::Vcpus { asked: vcpus, max: limits.max_vcpus });
    }
    if vcpus < ranks {
        return Err(MachineSizeError::FewerThanRanks { asked: vcpus, ranks });
    }
    let numa_nodes = asked.numa.unwrap_or(ranks);
    if ranks > 1 && numa_nodes != ranks {
        return Err(MachineSizeError::NotRanks { asked: numa_nodes, ranks });
    }
    if numa_nodes == 0 || numa_nodes > vcpus {
        return Err(MachineSizeError::Numa { asked: numa_nodes, vcpus });
    }
    let default = DEFAULT_MEMORY.min(limits.host_memory / 2 / PAGE * PAGE);
    let memory = asked.memory.unwrap_or(default);
    if memory < limits.min_memory {
        return Err(MachineSizeError::TooSmall { asked: memory, min: limits.min_memory });
    }
    if ranks == 1 && memory > limits.host_memory {
        return Err(MachineSizeError::TooLarge { asked: memory, host: limits.host_memory });
    }
    if memory > MAX_MEMORY {
        return Err(MachineSizeError::TooMuch { asked: memory });
    }
    if !memory.is_multiple_of(PAGE) {
        return Err(MachineSizeError::NotWholePages { asked: memory });
    }
    let relaxed = asked.relaxed.map_or(Ok(0), |asked| relaxed_size(asked, memory, limits))?;
    Ok(MachineSize { vcpus, numa_nodes, memory, relaxed })
}

/// Relaxed memory that was asked for, beside so much guest memory.
fn relaxed_size(asked: u64, memory: u64, limits: Limits) -> Result<u64, MachineSizeError> {
    let (host, ranks) = (limits.host_memory, limits.ranks);
    if asked == 0 || asked > MAX_RELAXED || !asked.is_multiple_of(RELAXED_ALIGNMENT) {
        return Err(MachineSizeError::Relaxed { asked });
    }
    if ranks > 1 && asked < 2 * RELAXED_CONTROL {
        return Err(MachineSizeError::RelaxedRanks { asked, ranks });
    }
    // Of several hosts that is checked when all are known.
    if ranks == 1 && asked > host.saturating_sub(memory) {
        return Err(MachineSizeError::RelaxedTooLarge { asked, memory, host });
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { max_vcpus: 64, min_memory: 64 << 20, host_memory: 16 << 30, host_cpus: 8, ranks: 1 };
    const NOTHING: Asked = Asked { vcpus: None, numa: None, memory: None, relaxed: None };

    #[test]
    fn the_default_is_the_hosts_processors_and_a_gigabyte() {
        assert_eq!(
            machine_size(NOTHING, LIMITS),
            Ok(MachineSize { vcpus: 8, numa_nodes: 1, memory: 1 << 30, relaxed: 0 })
        );
        let small = Limits { host_memory: (1 << 30) + 4096, host_cpus: 500, ..LIMITS };
        assert_eq!(
            machine_size(NOTHING, small),
            Ok(MachineSize { vcpus: 64, numa_nodes: 1, memory: 512 << 20, relaxed: 0 })
        );
    }

    #[test]
    fn processors_are_limited_at_both_edges() {
        let ask = |vcpus| machine_size(Asked { vcpus: Some(vcpus), ..NOTHING }, LIMITS).map(|size| size.vcpus);
        assert_eq!((ask(1), ask(64)), (Ok(1), Ok(64)));
        assert_eq!(ask(0), Err(MachineSizeError::Vcpus { asked: 0, max: 64 }));
        assert_eq!(ask(65), Err(MachineSizeError::Vcpus { asked: 65, max: 64 }));
    }

    #[test]
    fn every_node_has_a_processor() {
        let ask = |numa| {
            machine_size(Asked { vcpus: Some(4), numa: Some(numa), ..NOTHING }, LIMITS).map(|size| size.numa_nodes)
        };
        assert_eq!((ask(1), ask(4)), (Ok(1), Ok(4)));
        assert_eq!(ask(0), Err(MachineSizeError::Numa { asked: 0, vcpus: 4 }));
        assert_eq!(ask(5), Err(MachineSizeError::Numa { asked: 5, vcpus: 4 }));
    }

    #[test]
    fn every_rank_has_a_processor_and_is_a_node() {
        let limits = Limits { ranks: 4, ..LIMITS };
        let ask = |vcpus, numa| {
            machine_size(Asked { vcpus, numa, ..NOTHING }, limits).map(|size| (size.vcpus, size.numa_nodes))
        };
        assert_eq!((ask(None, None), ask(Some(4), Some(4)), ask(Some(9), None)), (Ok((4, 4)), Ok((4, 4)), Ok((9, 4))));
        assert_eq!(ask(Some(3), None), Err(MachineSizeError::FewerThanRanks { asked: 3, ranks: 4 }));
        assert_eq!(ask(Some(0), None), Err(MachineSizeError::Vcpus { asked: 0, max: 64 }));
        for numa in [0, 1, 3, 5] {
            assert_eq!(ask(Some(8), Some(numa)), Err(MachineSizeError::NotRanks { asked: numa, ranks: 4 }));
        }
        let more = Asked { memory: Some(32 << 30), ..NOTHING };
        assert_eq!(machine_size(more, limits).map(|size| size.memory), Ok(32 << 30), "other hosts have memory too");
    }

    #[test]
    fn memory_is_limited_at_both_edges() {
        let ask = |bytes| machine_size(Asked { memory: Some(bytes), ..NOTHING }, LIMITS).map(|size| size.memory);
        assert_eq!((ask(64 << 20), ask(16 << 30)), (Ok(64 << 20), Ok(16 << 30)));
        assert_eq!(ask((64 << 20) - 1), Err(MachineSizeError::TooSmall { asked: (64 << 20) - 1, min: 64 << 20 }));
        assert_eq!(ask((16 << 30) + 1), Err(MachineSizeError::TooLarge { asked: (16 << 30) + 1, host: 16 << 30 }));
        assert_eq!(ask((1 << 30) + 1), Err(MachineSizeError::NotWholePages { asked: (1 << 30) + 1 }));
    }

    #[test]
    fn memory_is_no_more_than_kvm_takes() {
        let limits = Limits { ranks: 2, ..LIMITS };
        let ask = |bytes| machine_size(Asked { memory: Some(bytes), ..NOTHING }, limits).map(|size| size.memory);
        assert_eq!(ask(8 << 40), Ok(8 << 40));
        let error = ask((8 << 40) + PAGE).unwrap_err();
        assert_eq!(error, MachineSizeError::TooMuch { asked: (8 << 40) + PAGE });
        assert_eq!(
            ask(9 << 40).unwrap_err().to_string(),
            "--mem 9T is more than 8T, the most that KVM takes: ask for less"
        );
    }

    #[test]
    fn memory_is_within_the_reach_of_the_processors() {
        const GIB: u64 = 1 << 30;
        let size = |memory, relaxed| MachineSize { vcpus: 1, numa_nodes: 1, memory, relaxed };
        assert_eq!(check_reach(size(1023 * GIB, 0), 40), Ok(()));
        let (memory, relaxed, bits) = (1023 * GIB + PAGE, 0, 40);
        assert_eq!(check_reach(size(memory, 0), 40), Err(MachineSizeError::Unreached { memory, relaxed, bits }));
        assert_eq!(check_reach(size(memory, 0), 41), Ok(()));
        assert_eq!(check_reach(size(507 * GIB, 4 * GIB - RELAXED_ALIGNMENT), 39), Ok(()));
        let error = check_reach(size(507 * GIB, 4 * GIB), 39).unwrap_err().to_string();
        let expected = "--mem 507G with --relaxed 4G is more than the processors of this host reach, 39 bits of address or 512G, of which devices \
                        take 1G: ask for less";
        assert_eq!(error, expected);
        assert_eq!(check_reach(size(8 << 40, 4 * GIB), 64), Ok(()));
    }

    #[test]
    fn relaxed_memory_is_whole_pieces_and_fits_beside_the_rest() {
        let ask = |bytes| machine_size(Asked { relaxed: Some(bytes), ..NOTHING }, LIMITS).map(|size| size.relaxed);
        assert_eq!((ask(2 << 20), ask(15 << 30)), (Ok(2 << 20), Ok(15 << 30)));
        for asked in [0, 4096, (2 << 20) - 1, (2 << 20) + 1, MAX_RELAXED + RELAXED_ALIGNMENT, u64::MAX] {
            assert_eq!(ask(asked), Err(MachineSizeError::Relaxed { asked }));
        }
        let (asked, memory, host) = ((15 << 30) + (2 << 20), 1 << 30, 16 << 30);
        let error = ask(asked).unwrap_err();
        assert_eq!(error, MachineSizeError::RelaxedTooLarge { asked, memory, host });
        assert!(error.to_string().starts_with("--relaxed 15362M on top of 1G of guest memory is more than"), "{error}");
        let ranks = |asked| machine_size(Asked { relaxed: Some(asked), ..NOTHING }, Limits { ranks: 2, ..LIMITS });
        assert_eq!(ranks(2 << 20), Err(MachineSizeError::RelaxedRanks { asked: 2 << 20, ranks: 2 }));
        assert_eq!(ranks(4 << 20).unwrap().relaxed, 4 << 20);
        assert_eq!(ranks(3 << 20), Err(MachineSizeError::Relaxed { asked: 3 << 20 }));
        assert!(ranks(1 << 40).is_ok(), "whether the hosts have that is seen when all are known");
    }

    #[test]
    fn both_numbers_are_in_the_message() {
        let message = machine_size(Asked { memory: Some(100 << 40), ..NOTHING }, LIMITS).unwrap_err().to_string();
        assert_eq!(message, "--mem 100T is more than this host's memory of 16G: ask for less");
    }
}
