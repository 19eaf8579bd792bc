//! Whether hosts are alike enough to be one machine: the guest sees one kind of processor, whatever rank it runs on.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::clock::same_rate;
use crate::cpuid;
use crate::kvm::{Hypervisor, KvmError};
use crate::topology::{Topology, VcpuId};

/// One CPUID leaf.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Leaf {
    /// Its number (EAX).
    pub function: u32,
    /// Its sub-leaf (ECX).
    pub index: u32,
    /// EAX, EBX, ECX and EDX as the guest would see them on a machine of one processor.
    pub registers: [u32; 4],
}

/// What a host gives a guest's processors. Ranks compare theirs before they become one machine.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Features {
    /// CPUID leaves, in the order of their numbers.
    pub cpuid: Vec<Leaf>,
    /// Model-specific registers that belong to a vCPU's state, in order.
    pub msrs: Vec<u32>,
    /// Bytes of a vCPU's extended register state.
    pub xsave_bytes: u32,
    /// Rate of the time-stamp counter in kHz.
    pub tsc_khz: u32,
}

impl Features {
    /// This host's.
    ///
    /// # Errors
    /// [`KvmError`] when KVM cannot be used.
    pub fn probe(kvm: &Path) -> Result<Self, KvmError> {
        let hypervisor = Hypervisor::open(kvm)?;
        let vm = hypervisor.create_vm()?;
        let vcpu = vm.create_vcpu(0).map_err(KvmError::ioctl("create a vCPU"))?;
        let tsc_khz = vcpu.get_tsc_khz().map_err(KvmError::ioctl("tell the time-stamp counter's rate"))?;
        let supported = hypervisor.supported_cpuid()?;
        // The rate is compared by itself, with tolerance; a rate of zero keeps it out of the leaves.
        let leaves = cpuid::for_vcpu(&supported, &Topology::single(), VcpuId(0), 0);
        let leaf = |leaf: &kvm_bindings::kvm_cpuid_entry2| Leaf {
            function: leaf.function,
            index: leaf.index,
            registers: [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx],
        };
        let mut cpuid: Vec<Leaf> = leaves.iter().map(leaf).collect();
        cpuid.sort_unstable_by_key(|leaf| (leaf.function, leaf.index));
        let mut msrs = hypervisor.state_msrs()?;
        msrs.sort_unstable();
        let xsave_bytes = u32::try_from(hypervisor.xsave_size()).unwrap_or(u32::MAX);
        Ok(Self { cpuid, msrs, xsave_bytes, tsc_khz })
    }

    /// The first thing in which another host's differ from these so that both cannot be one machine, in words.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        if !same_rate(other.tsc_khz, self.tsc_khz) {
            return Some(format!(
                "its time-stamp counter runs at {} kHz instead of {} kHz (vincs does not scale counters)",
                other.tsc_khz, self.tsc_khz
            ));
        }
        let key = |leaf: &Leaf| (leaf.function, leaf.index);
        let find = |leaves: &[Leaf], wanted| leaves.iter().find(|leaf| key(leaf) == wanted).copied();
        let mut keys: Vec<(u32, u32)> = self.cpuid.iter().chain(&other.cpuid).map(key).collect();
        keys.sort_unstable();
        for wanted in keys {
            let what = format!("CPUID leaf {:#x}, sub-leaf {:#x}", wanted.0, wanted.1);
            match (find(&self.cpuid, wanted), find(&other.cpuid, wanted)) {
                (Some(own), Some(others)) if own == others => {}
                (Some(own), Some(others)) => {
                    let words = |registers: [u32; 4]| registers.map(|register| format!("{register:#x}")).join(" ");
                    return Some(format!("{what} is {} instead of {}", words(others.registers), words(own.registers)));
                }
                (Some(_), None) => return Some(format!("it lacks {what}")),
                (None, _) => return Some(format!("only it has {what}")),
            }
        }
        let lacks = self.msrs.iter().find(|msr| !other.msrs.contains(msr));
        let has = other.msrs.iter().find(|msr| !self.msrs.contains(msr));
        match (lacks, has) {
            (Some(msr), _) => return Some(format!("its KVM lacks MSR {msr:#x}")),
            (None, Some(msr)) => return Some(format!("only its KVM has MSR {msr:#x}")),
            (None, None) => {}
        }
        (self.xsave_bytes != other.xsave_bytes).then(|| {
            format!("its extended register state has {} bytes instead of {}", other.xsave_bytes, self.xsave_bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::DEFAULT_KVM_PATH;

    fn features() -> Features {
        let leaf = |function, eax| Leaf { function, index: 0, registers: [eax, 0, 0, 0] };
        let cpuid = vec![leaf(0, 0x16), leaf(7, 1)];
        Features { cpuid, msrs: vec![0x10, 0x11], xsave_bytes: 4096, tsc_khz: 2_000_000 }
    }

    #[test]
    fn the_first_difference_is_named() {
        let own = features();
        assert_eq!(own.difference(&own), None);
        let differs = |change: &dyn Fn(&mut Features), expected: &str| {
            let mut other = features();
            change(&mut other);
            let found = own.difference(&other).unwrap();
            assert!(found.contains(expected), "{found}");
        };
        differs(&|other| other.cpuid[1].registers[2] = 8, "CPUID leaf 0x7, sub-leaf 0x0 is 0x1 0x0 0x8 0x0 instead of");
        differs(&|other| other.cpuid.truncate(1), "it lacks CPUID leaf 0x7");
        differs(&|other| other.cpuid.push(Leaf { function: 9, ..other.cpuid[0] }), "only it has CPUID leaf 0x9");
        differs(&|other| other.msrs[1] = 0x12, "its KVM lacks MSR 0x11");
        differs(&|other| other.msrs.push(0x12), "only its KVM has MSR 0x12");
        differs(&|other| other.xsave_bytes = 8192, "8192 bytes instead of 4096");
        differs(&|other| other.tsc_khz = 2_100_000, "2100000 kHz instead of 2000000 kHz");
        let near = Features { tsc_khz: 2_000_001, ..features() };
        assert_eq!(own.difference(&near), None);
    }

    #[test]
    fn a_host_is_like_itself() {
        let kvm = Path::new(DEFAULT_KVM_PATH);
        if kvm.exists() {
            let (first, second) = (Features::probe(kvm).unwrap(), Features::probe(kvm).unwrap());
            assert_eq!(first.difference(&second), None);
            assert!(first.cpuid.len() > 10 && first.tsc_khz > 0);
        }
    }
}
