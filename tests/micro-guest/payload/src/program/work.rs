//! Every processor walks memory of its own again and again, and counts its rounds in memory that all share, until the host says stop.

use core::sync::atomic::{AtomicU64, Ordering};

use vincs_micro_guest_payload::protocol::MAX_CPUS;
use vincs_micro_guest_payload::walk::walk;

use crate::cpu::Cpu;
use crate::parameters::Parameters;
use crate::{memory, report, smp};

/// Words in a mebibyte.
const MEGABYTE_WORDS: usize = (1 << 20) / 8;
/// Additions to the shared sum after each round, one by one.
const ADDITIONS: u64 = 16;

/// Not zero once the host has asked us to stop.
static STOP: AtomicU64 = AtomicU64::new(0);
/// All processors' additions.
static SUM: AtomicU64 = AtomicU64::new(0);
static ROUNDS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static CHECKSUMS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// A walk's seed is the given one plus the processor's id, the same in each round: so each has to come to the same checksum.
pub(super) fn run(cpu: Cpu, parameters: &Parameters) {
    let id = cpu.id();
    let words = parameters.megabytes.saturating_mul(MEGABYTE_WORDS);
    // SAFETY: processor n has the n-th such piece of the region.
    let memory = unsafe { memory::exclusive(words.saturating_mul(id), words) };
    let mut rounds = 0;
    let mut first = None;
    while STOP.load(Ordering::Acquire) == 0 || rounds == 0 {
        let sum = walk(memory, parameters.seed.wrapping_add(id as u64), parameters.iterations);
        let expected = *first.get_or_insert(sum);
        if sum != expected {
            report::fail(format_args!("processor {id}: round {rounds} came to {sum:#x} instead of {expected:#x}"));
        }
        for _ in 0..ADDITIONS {
            SUM.fetch_add(1, Ordering::AcqRel);
        }
        rounds += 1;
        report::round(id);
        if id == 0 && report::is_asked_to_stop() {
            STOP.store(1, Ordering::Release);
        }
    }
    ROUNDS[id].store(rounds, Ordering::Release);
    CHECKSUMS[id].store(first.unwrap_or_default(), Ordering::Release);
    smp::finish(cpu, parameters);
    if id != 0 {
        return;
    }
    let all: u64 = ROUNDS.iter().map(|rounds| rounds.load(Ordering::Acquire)).sum();
    let sum = SUM.load(Ordering::Acquire);
    if sum != all * ADDITIONS {
        report::fail(format_args!("{sum} additions were kept of {all} times {ADDITIONS}"));
    }
    for (rounds, checksum) in ROUNDS.iter().zip(&CHECKSUMS).take(parameters.vcpus) {
        report::words(&[rounds.load(Ordering::Acquire), checksum.load(Ordering::Acquire)]);
    }
}
