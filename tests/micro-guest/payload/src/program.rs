//! The programs. Each runs on every processor at the same time; the first one reports.

mod exit_latency;
mod ipi_ping_pong;
mod litmus;
mod memory_walk;
mod self_check;
mod timer;
mod work;

use core::ptr;

use vincs_micro_guest_payload::protocol::ProgramName;
use vincs_micro_guest_payload::statistics::Summary;

use crate::cpu::Cpu;
use crate::parameters::Parameters;
use crate::{memory, report};

/// Most latencies that a program can keep, over all processors.
const MAX_SAMPLES: usize = 1 << 20;

/// Runs this processor's part of the program.
pub(crate) fn run(cpu: Cpu, parameters: &Parameters) {
    match parameters.program {
        ProgramName::IpiPingPong => ipi_ping_pong::run(cpu, parameters),
        ProgramName::Timer => timer::run(cpu, parameters),
        ProgramName::MemoryWalk => memory_walk::run(cpu, parameters),
        ProgramName::SelfCheck => self_check::run(cpu, parameters),
        ProgramName::ExitLatency => exit_latency::run(cpu, parameters),
        ProgramName::Litmus => litmus::run(cpu, parameters),
        ProgramName::Work => work::run(cpu, parameters),
        ProgramName::Fault => {
            // Volatile: the compiler must not see that this cannot be meant.
            // SAFETY: none; it faults, which is the point.
            unsafe { ptr::without_provenance::<u64>(memory::UNMAPPED).read_volatile() };
        }
    }
}

/// Words of memory for `sets` times one latency per iteration and processor.
fn sample_words(parameters: &Parameters, sets: usize) -> usize {
    let per_set = usize::try_from(parameters.iterations).ok().and_then(|count| count.checked_mul(parameters.vcpus));
    match per_set.filter(|words| *words <= MAX_SAMPLES) {
        Some(words) => words * sets,
        None => report::fail(format_args!(
            "{} iterations on {} processors are more than {MAX_SAMPLES}; ask for fewer",
            parameters.iterations, parameters.vcpus
        )),
    }
}

/// Reports the summary of these sample words, which no processor writes any more.
fn report_samples(first: usize, words: usize) {
    // SAFETY: `smp::finish` has been passed, so the other processors write no samples any more.
    let samples = unsafe { memory::exclusive(first, words) };
    report::words(&Summary::of(samples).to_words());
}
