//! Every processor watches its own state while the host saves and restores it: all registers, flags, segment bases, the
//! floating-point controls, the time-stamp counter's direction, the timer and interrupts to its neighbour.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use vincs_micro_guest_payload::protocol::MAX_CPUS;
use vincs_micro_guest_payload::walk::mix;

use crate::cpu::{self, Cpu, Line};
use crate::parameters::Parameters;
use crate::program::timer;
use crate::{memory, report, smp};

/// `IA32_FS_BASE`.
const MSR_FS_BASE: u32 = 0xc000_0100;
/// `IA32_GS_BASE`.
const MSR_GS_BASE: u32 = 0xc000_0101;
/// Carry, parity, adjust, zero, sign, direction, overflow.
const FLAGS_MASK: u64 = 0xcd5;
/// All exceptions masked, round to nearest: MXCSR and the x87 control word after a reset.
const DEFAULT_MXCSR: u64 = 0x1f80;
const DEFAULT_FCW: u64 = 0x37f;
/// Windows between two looks at whether the host wants us to stop: a look is an exit, and most time belongs into the windows.
const WINDOWS_PER_LOOK: u64 = 16;
/// How long an interrupt may be on its way at the end, in ticks (some seconds).
const PATIENCE: u64 = 20_000_000_000;

/// General registers in the order of window.s.
const REGISTERS: [&str; 15] =
    ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// What a window starts with and what it ends with.
#[repr(C)]
struct Window {
    saved_rsp: u64,
    rsp_after: u64,
    avx: u64,
    default_mxcsr: u64,
    default_fcw: u64,
    before: State,
    after: State,
    /// What fs points at.
    magic: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct State {
    registers: [u64; 15],
    flags: u64,
    mxcsr: u64,
    fcw: u64,
    vectors: [[u64; 4]; 16],
}

global_asm!(
    include_str!("window.s"),
    SAVED_RSP = const offset_of!(Window, saved_rsp),
    RSP_AFTER = const offset_of!(Window, rsp_after),
    AVX = const offset_of!(Window, avx),
    DEFAULT_MXCSR = const offset_of!(Window, default_mxcsr),
    DEFAULT_FCW = const offset_of!(Window, default_fcw),
    REGISTERS = const offset_of!(Window, before.registers),
    FLAGS = const offset_of!(Window, before.flags),
    MXCSR = const offset_of!(Window, before.mxcsr),
    FCW = const offset_of!(Window, before.fcw),
    VECTORS = const offset_of!(Window, before.vectors),
    REGISTERS_AFTER = const offset_of!(Window, after.registers),
    FLAGS_AFTER = const offset_of!(Window, after.flags),
    MXCSR_AFTER = const offset_of!(Window, after.mxcsr),
    FCW_AFTER = const offset_of!(Window, after.fcw),
    VECTORS_AFTER = const offset_of!(Window, after.vectors),
);

unsafe extern "C" {
    fn self_check_window();
    fn self_check_window_start();
    fn self_check_window_end();
}

/// Not zero once the host has asked us to stop.
static STOP: AtomicU64 = AtomicU64::new(0);
/// Interrupts sent to each processor.
static SENT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// Windows, timer interrupts and interrupts from the neighbour, over all processors.
static TOTALS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// Checks windows of `iterations` rounds each until the host says stop.
pub(super) fn run(cpu: Cpu, parameters: &Parameters) {
    if cpu.id() == 0 {
        let window = [self_check_window_start as *const (), self_check_window_end as *const ()];
        report::words(&window.map(|address| address as u64));
    }
    let words = size_of::<Window>() / 8;
    // SAFETY: each processor has words of its own.
    let memory = unsafe { memory::exclusive(words * cpu.id(), words) };
    memory.fill(0);
    // SAFETY: the words are zero, which is a valid window, as large, aligned and ours alone.
    let window = unsafe { &mut *memory.as_mut_ptr().cast::<Window>() };
    window.avx = u64::from(cpu.has_avx());
    window.default_mxcsr = DEFAULT_MXCSR;
    window.default_fcw = DEFAULT_FCW;
    cpu::write_msr(MSR_GS_BASE, (&raw const *window).addr() as u64);
    cpu::write_msr(MSR_FS_BASE, (&raw const window.magic).addr() as u64);
    timer::start_periodic(parameters.period);

    let next = Cpu::new((cpu.id() + 1) % parameters.vcpus);
    let mut windows = 0;
    let mut seed = parameters.seed.wrapping_add(cpu.id() as u64);
    let mut last_time = 0;
    while STOP.load(Ordering::Acquire) == 0 {
        seed = mix(seed);
        prepare(window, seed, parameters.iterations.max(1));
        // SAFETY: gs and fs point into the window; the function keeps what the C calling convention says.
        unsafe { self_check_window() };
        check(cpu, window, parameters.iterations.max(1));
        windows += 1;

        let time = cpu::tsc();
        if time < last_time {
            report::fail(format_args!(
                "processor {}: the time-stamp counter went from {last_time} back to {time}",
                cpu.id()
            ));
        }
        last_time = time;
        if next.count(Line::Ipi) == SENT[next.id()].load(Ordering::Relaxed) {
            SENT[next.id()].fetch_add(1, Ordering::Relaxed);
            smp::send(next.id(), Line::Ipi);
        }
        if cpu.id() == 0 && windows % WINDOWS_PER_LOOK == 0 && report::is_asked_to_stop() {
            STOP.store(1, Ordering::Release);
        }
    }
    timer::stop();
    finish(cpu, parameters, windows);
}

/// Collects totals; every interrupt that was sent must have arrived.
fn finish(cpu: Cpu, parameters: &Parameters, windows: u64) {
    TOTALS[0].fetch_add(windows, Ordering::AcqRel);
    smp::finish(cpu, parameters);
    if cpu.id() != 0 {
        return;
    }
    for other in (0..parameters.vcpus).map(Cpu::new) {
        let sent = SENT[other.id()].load(Ordering::Acquire);
        let start = cpu::tsc();
        while other.count(Line::Ipi) != sent {
            if cpu::tsc() - start > PATIENCE {
                let count = other.count(Line::Ipi);
                report::fail(format_args!(
                    "processor {}: {count} interrupts came of {sent} that were sent",
                    other.id()
                ));
            }
        }
        TOTALS[1].fetch_add(other.count(Line::Timer), Ordering::AcqRel);
        TOTALS[2].fetch_add(sent, Ordering::AcqRel);
    }
    report::words(&TOTALS.each_ref().map(|total| total.load(Ordering::Acquire)));
}

fn prepare(window: &mut Window, seed: u64, rounds: u64) {
    let mut word = seed;
    let mut next = || {
        word = mix(word);
        word
    };
    let state = &mut window.before;
    state.registers = [(); 15].map(|()| next());
    state.registers[2] = rounds;
    state.vectors = [(); 16].map(|()| [(); 4].map(|()| next()));
    state.flags = next() & FLAGS_MASK;
    // The rounding modes: bits 13 and 14 of MXCSR, 10 and 11 of the x87 control word.
    state.mxcsr = DEFAULT_MXCSR | next() & 3 << 13;
    state.fcw = DEFAULT_FCW & !(3 << 10) | next() & 3 << 10;
    window.magic = next();
    window.after = State { registers: [0; 15], flags: 0, mxcsr: 0, fcw: 0, vectors: [[0; 4]; 16] };
}

fn check(cpu: Cpu, window: &Window, rounds: u64) {
    let Window { before, after, magic, .. } = window;
    let mut expected = before.registers;
    expected[0] = expected[0].wrapping_add(magic.wrapping_add(expected[1]).wrapping_mul(rounds));
    expected[2] = 0;
    expected[3] = *magic;
    for ((name, expected), found) in REGISTERS.iter().zip(expected).zip(after.registers) {
        compare(cpu, name, 0, expected, found);
    }
    compare(cpu, "rsp", 0, window.saved_rsp, window.rsp_after);
    compare(cpu, "flags", 0, before.flags, after.flags & FLAGS_MASK);
    compare(cpu, "mxcsr", 0, before.mxcsr, after.mxcsr);
    compare(cpu, "fcw", 0, before.fcw, after.fcw);
    let lanes = if window.avx == 0 { 2 } else { 4 };
    for (register, (expected, found)) in before.vectors.iter().zip(&after.vectors).enumerate() {
        for lane in 0..lanes {
            compare(cpu, "vector register", register, expected[lane], found[lane]);
        }
    }
}

fn compare(cpu: Cpu, name: &str, number: usize, expected: u64, found: u64) {
    if expected != found {
        let cpu = cpu.id();
        report::fail(format_args!("processor {cpu}: corrupted {name} {number}: {found:#x} instead of {expected:#x}"));
    }
}
