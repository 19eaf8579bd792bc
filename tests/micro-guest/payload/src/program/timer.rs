//! The local timer in its three modes. Its input clock is the time-stamp counter's (CPUID leaf 15H says so), divided by one.

use core::sync::atomic::Ordering;

use crate::cpu::{self, Cpu, Line};
use crate::parameters::Parameters;
use crate::program::{report_samples, sample_words};
use crate::{memory, report, smp};

/// Local vector table entry of the timer.
const MSR_LVT_TIMER: u32 = 0x832;
/// Initial count; zero stops the timer.
const MSR_INITIAL_COUNT: u32 = 0x838;
/// Divide configuration.
const MSR_DIVIDE: u32 = 0x83e;
/// Deadline in ticks of the time-stamp counter.
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// Divide configuration: by one.
const DIVIDE_BY_ONE: u64 = 0xb;
/// LVT: masked.
const LVT_MASKED: u64 = 1 << 16;
/// LVT: periodic.
const LVT_PERIODIC: u64 = 1 << 17;
/// LVT: TSC-deadline.
const LVT_DEADLINE: u64 = 2 << 17;

/// Starts the timer of this processor, periodically on [`Line::Timer`].
pub(super) fn start_periodic(period: u64) {
    cpu::write_msr(MSR_DIVIDE, DIVIDE_BY_ONE);
    cpu::write_msr(MSR_LVT_TIMER, LVT_PERIODIC | Line::Timer.vector());
    cpu::write_msr(MSR_INITIAL_COUNT, period);
}

/// Stops the timer of this processor.
pub(super) fn stop() {
    cpu::write_msr(MSR_LVT_TIMER, LVT_MASKED | Line::Timer.vector());
    cpu::write_msr(MSR_INITIAL_COUNT, 0);
}

/// Three sets of samples, one per mode, each with one lateness per processor and interrupt.
pub(super) fn run(cpu: Cpu, parameters: &Parameters) {
    let Parameters { period, vcpus, .. } = *parameters;
    if !(1..=u64::from(u32::MAX)).contains(&period) {
        report::fail(format_args!("the period of {period} ticks does not fit into the timer's 32-bit count"));
    }
    let words = sample_words(parameters, 3);
    let per_set = words / 3;
    let samples = memory::shared(0, words);
    let keep = |set: usize, index: usize, lateness: u64| {
        samples[set * per_set + index * vcpus + cpu.id()].store(lateness, Ordering::Relaxed);
    };

    cpu::write_msr(MSR_DIVIDE, DIVIDE_BY_ONE);
    cpu::write_msr(MSR_LVT_TIMER, Line::Timer.vector());
    for index in 0..per_set / vcpus {
        let due = cpu::tsc() + period;
        keep(0, index, lateness(cpu, "one-shot", due, || cpu::write_msr(MSR_INITIAL_COUNT, period)));
    }

    let before = cpu.count(Line::Timer);
    let start = cpu::tsc();
    start_periodic(period);
    for index in 0..per_set / vcpus {
        cpu.wait(Line::Timer, before + index as u64 + 1);
        let elapsed = cpu.time(Line::Timer) - start;
        // Periods that the host could not keep up with are left out, so there may be fewer interrupts, never more.
        let taken = cpu.count(Line::Timer) - before;
        if taken > (cpu::tsc() - start) / period {
            report::fail(format_args!(
                "processor {}: {taken} periodic interrupts of {period} ticks in {elapsed}",
                cpu.id()
            ));
        }
        keep(1, index, elapsed % period);
    }
    stop();

    cpu::write_msr(MSR_LVT_TIMER, LVT_DEADLINE | Line::Timer.vector());
    for index in 0..per_set / vcpus {
        let due = cpu::tsc() + period;
        keep(2, index, lateness(cpu, "deadline", due, || cpu::write_msr(MSR_TSC_DEADLINE, due)));
    }
    stop();

    smp::finish(cpu, parameters);
    if cpu.id() == 0 {
        for set in 0..3 {
            report_samples(set * per_set, per_set);
        }
    }
}

/// Arms the timer for `due`, waits for one interrupt and says how late it came; early is a failure.
fn lateness(cpu: Cpu, mode: &str, due: u64, arm: impl Fn()) -> u64 {
    let before = cpu.count(Line::Timer);
    arm();
    cpu.wait(Line::Timer, before + 1);
    let time = cpu.time(Line::Timer);
    match time.checked_sub(due) {
        Some(late) => late,
        None => report::fail(format_args!("processor {}: {mode} timer came {} ticks early", cpu.id(), due - time)),
    }
}
