//! What CPUID tells the guest: the host's features less those that would tie the guest to one host, plus a clock.
//!
//! Leaf numbers are those of the Intel SDM volume 2 (CPUID) and of the AMD APM volume 3, appendix E.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use crate::topology::{Topology, VcpuId};

const KVM_SIGNATURE: u32 = 0x4000_0000;
const KVM_FEATURES: u32 = 0x4000_0001;
const HYPERVISOR_TIMING: u32 = 0x4000_0010;
/// KVM_FEATURE_NOP_IO_DELAY: the guest need not wait by writing to port 80H, an exit each time.
const FEATURE_NOP_IO_DELAY: u32 = 1 << 1;
/// Level types of leaf 0BH, bits 15:8 of ECX.
const SMT_LEVEL: u32 = 1;
const CORE_LEVEL: u32 = 2;

mod bit {
    pub(super) const LEAF1_ECX_MONITOR: u32 = 1 << 3;
    pub(super) const LEAF1_ECX_VMX: u32 = 1 << 5;
    pub(super) const LEAF1_ECX_PDCM: u32 = 1 << 15;
    pub(super) const LEAF1_ECX_X2APIC: u32 = 1 << 21;
    pub(super) const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
    pub(super) const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
    pub(super) const LEAF1_EDX_APIC: u32 = 1 << 9;
    pub(super) const LEAF1_EDX_HTT: u32 = 1 << 28;
    pub(super) const LEAF6_EAX_ARAT: u32 = 1 << 2;
    pub(super) const EXT1_ECX_CMP_LEGACY: u32 = 1 << 1;
    pub(super) const EXT1_ECX_SVM: u32 = 1 << 2;
    pub(super) const EXT1_ECX_EXT_APIC_SPACE: u32 = 1 << 3;
    pub(super) const EXT1_ECX_TOPOEXT: u32 = 1 << 22;
    pub(super) const EXT1_ECX_PERFCTR_CORE: u32 = 1 << 23;
    pub(super) const EXT7_EDX_INVARIANT_TSC: u32 = 1 << 8;
}

/// The CPUID leaves of one vCPU, from those that KVM supports on this host. `tsc_khz` is the guest's counter rate.
#[must_use]
pub fn for_vcpu(supported: &CpuId, topology: &Topology, vcpu: VcpuId, tsc_khz: u32) -> Vec<kvm_cpuid_entry2> {
    let apic_id = topology.apic_id(vcpu);
    // Leaves that are rewritten whole below, or that must be absent.
    let dropped = |function: u32| {
        matches!(function, 0xa | 0xb | 0x15 | 0x1f | 0x8000_001d | 0x8000_001e | KVM_SIGNATURE..=0x4fff_ffff)
    };
    let kept = supported.as_slice().iter().filter(|entry| !dropped(entry.function));
    let mut leaves: Vec<kvm_cpuid_entry2> = kept.copied().collect();
    for leaf in &mut leaves {
        adjust(leaf, topology, apic_id);
    }
    leaves.extend(topology_leaves(topology, apic_id));
    leaves.extend(clock_leaves(tsc_khz));
    let highest = leaves.iter().filter(|leaf| leaf.function < KVM_SIGNATURE).map(|leaf| leaf.function).max();
    if let (Some(first), Some(highest)) = (leaves.iter_mut().find(|leaf| leaf.function == 0), highest) {
        first.eax = first.eax.max(highest);
    }
    leaves
}

fn adjust(leaf: &mut kvm_cpuid_entry2, topology: &Topology, apic_id: u32) {
    use bit::*;
    let per_package = topology.per_node();
    match leaf.function {
        1 => {
            leaf.ebx = (leaf.ebx & 0x0000_ffff) | per_package.min(0xff) << 16 | (apic_id & 0xff) << 24;
            // No MONITOR/MWAIT: an idle vCPU must be seen to be idle. No nested machines, no performance counters.
            leaf.ecx &= !(LEAF1_ECX_MONITOR | LEAF1_ECX_VMX | LEAF1_ECX_PDCM);
            leaf.ecx |= LEAF1_ECX_X2APIC | LEAF1_ECX_TSC_DEADLINE | LEAF1_ECX_HYPERVISOR;
            leaf.edx |= LEAF1_EDX_APIC;
            leaf.edx = if per_package > 1 { leaf.edx | LEAF1_EDX_HTT } else { leaf.edx & !LEAF1_EDX_HTT };
        }
        4 => {
            // Cores of a package in bits 31:26; the first two levels belong to one processor, the third to the package.
            let sharing = if (leaf.eax >> 5) & 7 >= 3 { per_package - 1 } else { 0 };
            leaf.eax = (leaf.eax & 0x3fff) | (sharing & 0xfff) << 14 | ((per_package - 1) & 0x3f) << 26;
        }
        5 => *leaf = kvm_cpuid_entry2 { function: 5, ..Default::default() },
        6 => {
            // The timer keeps its pace in idle; no power and thermal features.
            leaf.eax = LEAF6_EAX_ARAT;
            (leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0);
        }
        0x8000_0001 => {
            leaf.ecx &= !(EXT1_ECX_SVM | EXT1_ECX_EXT_APIC_SPACE | EXT1_ECX_TOPOEXT | EXT1_ECX_PERFCTR_CORE);
            leaf.ecx = if per_package > 1 { leaf.ecx | EXT1_ECX_CMP_LEGACY } else { leaf.ecx & !EXT1_ECX_CMP_LEGACY };
        }
        0x8000_0007 => leaf.edx |= EXT7_EDX_INVARIANT_TSC,
        0x8000_0008 => leaf.ecx = (leaf.ecx & !0xf0ff) | topology.core_bits() << 12 | ((per_package - 1) & 0xff),
        _ => {}
    }
}

/// Extended topology (leaf 0BH): one thread a core, the cores of a package.
fn topology_leaves(topology: &Topology, apic_id: u32) -> [kvm_cpuid_entry2; 2] {
    const SIGNIFICANT_INDEX: u32 = 1;
    let level = |index, bits, count, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: SIGNIFICANT_INDEX,
        eax: bits,
        ebx: count,
        ecx: index | kind << 8,
        edx: apic_id,
        ..Default::default()
    };
    [level(0, 0, 1, SMT_LEVEL), level(1, topology.core_bits(), topology.per_node(), CORE_LEVEL)]
}

/// The counter's rate in the two ways guests look for it, and the hypervisor's signature, which Linux wants to see
/// before it uses x2APIC mode without interrupt remapping. None of KVM's shared-page features is offered.
fn clock_leaves(tsc_khz: u32) -> [kvm_cpuid_entry2; 4] {
    let leaf = |function, [eax, ebx, ecx, edx]: [u32; 4]| kvm_cpuid_entry2 {
        function,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    };
    // Leaf 15H in Hz does not fit for counters over 4.29 GHz: then the crystal is a tenth of the counter's rate.
    let crystal = match tsc_khz.checked_mul(1000) {
        Some(hz) => [1, 1, hz, 0],
        None => [1, 10, tsc_khz * 100, 0],
    };
    let word = u32::from_le_bytes;
    [
        leaf(0x15, crystal),
        leaf(KVM_SIGNATURE, [HYPERVISOR_TIMING, word(*b"KVMK"), word(*b"VMKV"), word(*b"M\0\0\0")]),
        leaf(KVM_FEATURES, [FEATURE_NOP_IO_DELAY, 0, 0, 0]),
        leaf(HYPERVISOR_TIMING, [tsc_khz, tsc_khz, 0, 0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported() -> CpuId {
        let leaf = |function, eax, ecx, edx| kvm_cpuid_entry2 { function, eax, ecx, edx, ..Default::default() };
        CpuId::from_entries(&[
            leaf(0, 0xd, 0, 0),
            leaf(1, 0, !bit::LEAF1_ECX_HYPERVISOR, 0),
            leaf(0xa, 7, 7, 7),
            leaf(KVM_SIGNATURE, 1, 1, 1),
            leaf(KVM_FEATURES, u32::MAX, 0, 0),
            leaf(0x8000_0001, 0, u32::MAX, 0),
            leaf(0x8000_0008, 0, 0, 0),
        ])
        .unwrap()
    }

    fn get(leaves: &[kvm_cpuid_entry2], function: u32) -> kvm_cpuid_entry2 {
        let found: Vec<_> = leaves.iter().filter(|leaf| leaf.function == function).collect();
        assert_eq!(found.len(), 1, "leaf {function:#x}");
        *found[0]
    }

    #[test]
    fn shared_page_features_are_not_offered() {
        let leaves = for_vcpu(&supported(), &Topology::new(4, 1).unwrap(), VcpuId(3), 2_500_000);
        assert_eq!(get(&leaves, KVM_FEATURES).eax, FEATURE_NOP_IO_DELAY);
        assert_eq!(get(&leaves, KVM_SIGNATURE).ebx.to_le_bytes(), *b"KVMK");
        assert!(!leaves.iter().any(|leaf| leaf.function == 0xa), "performance counters");
    }

    #[test]
    fn the_processor_sees_its_own_id_and_package() {
        let topology = Topology::new(6, 2).unwrap();
        let leaves = for_vcpu(&supported(), &topology, VcpuId(3), 2_500_000);
        assert_eq!(get(&leaves, 1).ebx >> 16, 0x0403);
        assert_eq!(get(&leaves, 0x8000_0008).ecx, 2 << 12 | 2);
        let levels: Vec<_> = leaves.iter().filter(|leaf| leaf.function == 0xb).collect();
        assert_eq!((levels[1].eax, levels[1].ebx, levels[1].edx), (2, 3, 4));
        assert!(get(&leaves, 0).eax >= 0x15, "the clock's leaf is within the range announced");
    }

    #[test]
    fn the_clock_is_told_at_every_rate() {
        let clock = |khz| get(&for_vcpu(&supported(), &Topology::new(1, 1).unwrap(), VcpuId(0), khz), 0x15);
        let rate = |leaf: kvm_cpuid_entry2| u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax);
        assert_eq!(rate(clock(2_595_000)), 2_595_000_000);
        assert_eq!(rate(clock(5_100_000)), 5_100_000_000);
    }
}
