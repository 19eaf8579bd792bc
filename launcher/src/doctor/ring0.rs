//! How fast KVM runs ring-0 code: a counting loop in 64-bit mode, timed.
//!
//! 64-bit mode, because KVM on older processors emulates real mode and nothing else. The guest is one processor with
//! five pages of memory and no devices; its loop ends in HLT, which leaves it as there is no interrupt controller.

use std::time::{Duration, Instant};

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

const PAGE: usize = 4096;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const CODE: u64 = 0x4000;
const PAGES: usize = 5;

/// `dec rcx; jnz (to the dec); hlt`.
const LOOP: [u8; 6] = [0x48, 0xff, 0xc9, 0x75, 0xfb, 0xf4];
const LOOP_INSTRUCTIONS: f64 = 2.0;

/// Rounds before any measurement: the first entry maps the guest's memory, which takes long on a nested host.
const WARM_UP_ROUNDS: u64 = 1_000;
/// Rounds of the first measurement: 20 ms for an emulator, too short to measure a processor by.
const FIRST_ROUNDS: u64 = 20_000;
/// Rounds of the second measurement: some milliseconds on a processor, so that entering and leaving is nothing.
const SECOND_ROUNDS: u64 = 5_000_000;
/// A first measurement that takes longer was emulated, and its rate counts.
const SLOW: Duration = Duration::from_millis(8);
/// Each measurement is the best of so many, as other programs take the processor away at times.
const TRIES: usize = 3;

/// Why the loop did not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ring0Error {
    #[error("{0}: {1}")]
    Kvm(&'static str, kvm_ioctls::Error),
    #[error("it left the guest by {0}")]
    Exit(String),
}

/// Ring-0 instructions a second on this KVM.
///
/// # Errors
/// [`Ring0Error`] when KVM cannot run the loop.
pub(super) fn instructions_per_second(kvm: &Kvm) -> Result<f64, Ring0Error> {
    let mut guest = Guest::new(kvm)?;
    guest.time_loop(WARM_UP_ROUNDS)?;
    let first = guest.best_time(FIRST_ROUNDS)?;
    let (rounds, time) =
        if first > SLOW { (FIRST_ROUNDS, first) } else { (SECOND_ROUNDS, guest.best_time(SECOND_ROUNDS)?) };
    let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
    Ok(f64::from(rounds) * LOOP_INSTRUCTIONS / time.as_secs_f64())
}

#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Fields are dropped in this order: the memory goes last.
struct Guest {
    vcpu: VcpuFd,
    _vm: VmFd,
    _memory: Box<[Page; PAGES]>,
}

impl Guest {
    fn new(kvm: &Kvm) -> Result<Self, Ring0Error> {
        let memory = memory();
        let vm = kvm.create_vm().map_err(|error| Ring0Error::Kvm("KVM_CREATE_VM", error))?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: (PAGES * PAGE) as u64,
            userspace_addr: memory.as_ptr().addr() as u64,
        };
        // SAFETY: the region is the whole of `memory`, which lives longer than the VM, and nothing else uses it.
        let mapped = unsafe { vm.set_user_memory_region(region) };
        mapped.map_err(|error| Ring0Error::Kvm("KVM_SET_USER_MEMORY_REGION", error))?;
        let vcpu = vm.create_vcpu(0).map_err(|error| Ring0Error::Kvm("KVM_CREATE_VCPU", error))?;
        let sregs = vcpu.get_sregs().map_err(|error| Ring0Error::Kvm("KVM_GET_SREGS", error))?;
        vcpu.set_sregs(&long_mode(sregs)).map_err(|error| Ring0Error::Kvm("KVM_SET_SREGS", error))?;
        Ok(Self { vcpu, _vm: vm, _memory: memory })
    }

    fn best_time(&mut self, rounds: u64) -> Result<Duration, Ring0Error> {
        let mut best = Duration::MAX;
        for _ in 0..TRIES {
            best = best.min(self.time_loop(rounds)?);
        }
        Ok(best)
    }

    fn time_loop(&mut self, rounds: u64) -> Result<Duration, Ring0Error> {
        // Bit 1 of RFLAGS is always set (SDM volume 1, section 3.4.3).
        let regs = kvm_regs { rip: CODE, rcx: rounds, rflags: 2, ..Default::default() };
        self.vcpu.set_regs(&regs).map_err(|error| Ring0Error::Kvm("KVM_SET_REGS", error))?;
        let start = Instant::now();
        match self.vcpu.run() {
            Ok(VcpuExit::Hlt) => Ok(start.elapsed()),
            Ok(exit) => Err(Ring0Error::Exit(format!("{exit:?}"))),
            Err(error) => Err(Ring0Error::Kvm("KVM_RUN", error)),
        }
    }
}

/// Page tables that map the first 2 MiB one to one, and the loop.
fn memory() -> Box<[Page; PAGES]> {
    /// Present, writable, accessed, dirty: nothing is left for the processor to write (SDM volume 3, section 4.5).
    const ENTRY: u64 = 0x63;
    /// The entry maps a 2 MiB page.
    const LARGE: u64 = 0x80;
    let mut memory = Box::new([const { Page([0; PAGE]) }; PAGES]);
    let contents: [(u64, &[u8]); 4] = [
        (PML4, &(PDPT | ENTRY).to_le_bytes()),
        (PDPT, &(PD | ENTRY).to_le_bytes()),
        (PD, &(ENTRY | LARGE).to_le_bytes()),
        (CODE, &LOOP),
    ];
    for (address, bytes) in contents {
        let page = usize::try_from(address).ok().and_then(|address| memory.get_mut(address / PAGE));
        for (to, from) in page.into_iter().flat_map(|page| &mut page.0).zip(bytes) {
            *to = *from;
        }
    }
    memory
}

/// 64-bit mode at privilege level 0 (SDM volume 3, section 9.8.5).
fn long_mode(found: kvm_sregs) -> kvm_sregs {
    const CR0_PE_ET_NE_PG: u64 = 0x8000_0031;
    const CR4_PAE: u64 = 0x20;
    const EFER_LME_LMA: u64 = 0x500;
    let data =
        kvm_segment { limit: u32::MAX, selector: 0x10, type_: 3, present: 1, db: 1, s: 1, g: 1, ..Default::default() };
    let code = kvm_segment { selector: 8, type_: 11, db: 0, l: 1, ..data };
    kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        ss: data,
        cr0: CR0_PE_ET_NE_PG,
        cr3: PML4,
        cr4: CR4_PAE,
        efer: EFER_LME_LMA,
        ..found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On whatever KVM there is, the loop runs to its end; without KVM there is nothing to test.
    #[test]
    fn the_loop_runs_on_this_hosts_kvm() {
        let Ok(kvm) = Kvm::new() else {
            eprintln!("skipped: no KVM on this host");
            return;
        };
        let rate = instructions_per_second(&kvm).unwrap();
        assert!(rate > 1e4, "{rate} instructions/s");
    }
}
