//! An interrupt goes round all processors: the first sends to the second, that to the third, the last to the first. With two
//! it is a ping-pong; with one, an interrupt to itself.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::{self, Cpu, Line};
use crate::parameters::Parameters;
use crate::program::{report_samples, sample_words};
use crate::{memory, smp};

/// When the interrupt that is on its way was sent. There is never more than one.
static SENT: AtomicU64 = AtomicU64::new(0);

/// One sample per processor and iteration: ticks from the ICR write to the handler.
pub(super) fn run(cpu: Cpu, parameters: &Parameters) {
    let words = sample_words(parameters, 1);
    let samples = memory::shared(0, words);
    let next = (cpu.id() + 1) % parameters.vcpus;
    for (round, samples) in (1..=parameters.iterations).zip(samples.chunks(parameters.vcpus)) {
        if cpu.id() == 0 {
            send(next);
        }
        cpu.wait(Line::Ipi, round);
        let latency = cpu.time(Line::Ipi).saturating_sub(SENT.load(Ordering::Acquire));
        samples[cpu.id()].store(latency, Ordering::Relaxed);
        if cpu.id() != 0 {
            send(next);
        }
    }
    smp::finish(cpu, parameters);
    if cpu.id() == 0 {
        report_samples(0, words);
    }
}

fn send(to: usize) {
    SENT.store(cpu::tsc(), Ordering::Release);
    smp::send(to, Line::Ipi);
}
