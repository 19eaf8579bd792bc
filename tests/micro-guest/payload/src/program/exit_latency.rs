//! Exits to the host and back, by writes to a port that does nothing.

use vincs_micro_guest_payload::protocol::PORT_NOTHING;

use crate::cpu::{self, Cpu};
use crate::parameters::Parameters;
use crate::program::{report_samples, sample_words};
use crate::{memory, port, report};

/// The first processor exits; the others are halted.
pub(super) fn run(cpu: Cpu, parameters: &Parameters) {
    if cpu.id() != 0 {
        return;
    }
    let words = sample_words(&Parameters { vcpus: 1, ..*parameters }, 1);
    // SAFETY: the other processors do not take part.
    let samples = unsafe { memory::exclusive(0, words) };
    let start = cpu::tsc();
    let mut before = start;
    for sample in samples {
        port::write(PORT_NOTHING, 0);
        let now = cpu::tsc();
        *sample = now - before;
        before = now;
    }
    report_samples(0, words);
    report::words(&[before - start]);
}
