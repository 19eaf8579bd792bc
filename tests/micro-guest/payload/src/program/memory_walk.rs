//! Every processor walks memory of its own.

use core::sync::atomic::{AtomicU64, Ordering};

use vincs_micro_guest_payload::protocol::MAX_CPUS;
use vincs_micro_guest_payload::walk::walk;

use crate::cpu::Cpu;
use crate::parameters::Parameters;
use crate::{memory, report, smp};

/// Words in a mebibyte.
const MEGABYTE_WORDS: usize = (1 << 20) / 8;

static CHECKSUMS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// The walk's seed is the given one plus the processor's id, so that no two do the same.
pub(super) fn run(cpu: Cpu, parameters: &Parameters) {
    let words = parameters.megabytes.saturating_mul(MEGABYTE_WORDS);
    // SAFETY: processor n has the n-th such piece of the region.
    let memory = unsafe { memory::exclusive(words.saturating_mul(cpu.id()), words) };
    let sum = walk(memory, parameters.seed.wrapping_add(cpu.id() as u64), parameters.iterations);
    CHECKSUMS[cpu.id()].store(sum, Ordering::Release);
    smp::finish(cpu, parameters);
    if cpu.id() == 0 {
        for sum in &CHECKSUMS[..parameters.vcpus] {
            report::words(&[sum.load(Ordering::Acquire)]);
        }
    }
}
