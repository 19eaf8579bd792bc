//! A vCPU's saved state is all of it: the guest checks its own registers while the host saves and restores them, or takes them away for a
//! while.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

mod common;

use std::time::{Duration, Instant};

use common::{LIMIT, turn};
use vincs_micro_guest::{Program, Report, RunError, Session};
use vincs_vmm::machine::StopReason;
use vincs_vmm::vcpu::{VcpuHandle, VcpuState};

/// Saves and restores in the test under load.
const CYCLES: usize = 1000;
/// Time for the guest between two cycles.
const BETWEEN: Duration = Duration::from_micros(100);
/// A window of some hundred microseconds, so that most saves fall into one.
const SELF_CHECK: Program = Program::SelfCheck { rounds: 100_000, period: 5_000_000 };

/// Stops a vCPU, takes its state out, lets `change` look at it, puts it in again and lets the vCPU go on.
fn cycle<T>(vcpu: &VcpuHandle, change: impl FnOnce(&mut VcpuState) -> T) -> T {
    vcpu.pause().unwrap();
    let mut state = vcpu.save().unwrap();
    let result = change(&mut state);
    vcpu.restore(state).unwrap();
    vcpu.resume().unwrap();
    result
}

#[test]
fn a_thousand_saves_and_restores_under_load_change_nothing() {
    let Some(_turn) = turn("save and restore under load") else { return };
    for vcpus in [1, 2, 4] {
        let session = Session::start(SELF_CHECK, vcpus).unwrap();
        let window = session.self_check_window(LIMIT).unwrap();
        let mut within = 0;
        for vcpu in session.vcpus().iter().cycle().take(CYCLES) {
            if cycle(vcpu, |state| window.contains(&state.registers.rip)) {
                within += 1;
            }
            if session.has_ended() {
                break;
            }
            std::thread::sleep(BETWEEN);
        }
        session.ask_to_stop();
        let Report::SelfCheck { windows, timer_interrupts, processor_interrupts } = session.wait(LIMIT).unwrap() else {
            panic!("a report of another program")
        };
        println!(
            "{vcpus} vCPUs: {CYCLES} cycles, {within} within a window; {windows} windows, {timer_interrupts} timer and \
             {processor_interrupts} processor interrupts"
        );
        assert!(within >= CYCLES / 20, "only {within} of {CYCLES} saves met a vCPU with all registers in use");
        assert!(timer_interrupts > 0 && processor_interrupts > 0);
    }
}

#[test]
fn the_state_that_was_restored_is_the_one_that_is_saved() {
    let Some(_turn) = turn("save after restore") else { return };
    let session = Session::start(SELF_CHECK, 1).unwrap();
    session.self_check_window(LIMIT).unwrap();
    let vcpu = &session.vcpus()[0];
    // The first restore tells KVM, too, that the local APIC is in x2APIC mode; KVM itself does not need to know.
    cycle(vcpu, |_| ());
    for _ in 0..200 {
        vcpu.pause().unwrap();
        let before = vcpu.save().unwrap();
        vcpu.restore(before.clone()).unwrap();
        let after = vcpu.save().unwrap();
        assert_eq!(after.registers, before.registers);
        assert_eq!(after.special, before.special);
        assert_eq!(after.control.xcrs[0], before.control.xcrs[0]);
        // An exception that is on its way is saved as pending and injected, and restored as injected (Linux's
        // Documentation/virt/kvm/api.rst, KVM_GET_VCPU_EVENTS, without KVM_CAP_EXCEPTION_PAYLOAD).
        let mut events = before.events;
        events.exception.pending = 0;
        assert_eq!((after.debug, after.events), (before.debug, events));
        assert_eq!((&after.apic, after.activity), (&before.apic, before.activity));
        assert_eq!(after.msrs, before.msrs);
        let differs = |index: &usize| after.extended[*index] != before.extended[*index];
        let extended: Vec<usize> = (0..before.extended.len()).filter(differs).collect();
        assert!(extended.is_empty(), "bytes {extended:?} of the extended state have changed");
        vcpu.resume().unwrap();
    }
}

/// Its entries into the guest, when it had none for a while.
fn entries_at_rest(vcpu: &VcpuHandle) -> u64 {
    let before = vcpu.stats().snapshot().entries;
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(vcpu.stats().snapshot().entries, before, "it runs");
    before
}

#[test]
fn a_vcpu_that_is_elsewhere_rests_whoever_resumes_it() {
    let Some(_turn) = turn("depart and arrive") else { return };
    let session = Session::start(SELF_CHECK, 2).unwrap();
    session.self_check_window(LIMIT).unwrap();
    let vcpu = &session.vcpus()[1];
    let state = vcpu.depart().unwrap();
    let entries = entries_at_rest(vcpu);
    vcpu.resume().unwrap();
    assert_eq!(entries_at_rest(vcpu), entries);
    vcpu.arrive(state);
    let until = Instant::now() + LIMIT;
    while vcpu.stats().snapshot().entries == entries {
        assert!(Instant::now() < until, "it does not go on");
        std::thread::sleep(Duration::from_millis(1));
    }
    session.ask_to_stop();
    session.wait(LIMIT).unwrap();
}

#[test]
fn a_state_that_does_not_fit_ends_the_machine_and_says_why() {
    let Some(_turn) = turn("arrival of a state of another version") else { return };
    let session = Session::start(SELF_CHECK, 1).unwrap();
    session.self_check_window(LIMIT).unwrap();
    let vcpu = &session.vcpus()[0];
    let mut state = vcpu.depart().unwrap();
    state.version += 1;
    vcpu.arrive(state);
    match session.wait(LIMIT) {
        Err(RunError::Stopped(StopReason::Failed { vcpu: 0, message })) => {
            assert!(message.contains("version 2"), "{message}")
        }
        other => panic!("the state was taken: {other:?}"),
    }
}

/// Changes the state of a vCPU within a window, lets it go on and returns what the guest says.
fn corrupt(name: &str, change: impl Fn(&mut VcpuState)) -> String {
    let session = Session::start(SELF_CHECK, 2).unwrap();
    let window = session.self_check_window(LIMIT).unwrap();
    let until = Instant::now() + LIMIT;
    let vcpu = &session.vcpus()[1];
    let change_within = |state: &mut VcpuState| {
        let within = window.contains(&state.registers.rip);
        if within {
            change(state);
        }
        within
    };
    while !cycle(vcpu, change_within) {
        assert!(Instant::now() < until, "the vCPU is never within a window");
        std::thread::sleep(Duration::from_micros(100));
    }
    match session.wait(Duration::from_secs(10)) {
        Err(RunError::Guest(text)) => text,
        other => panic!("the guest did not notice that {name} was changed: {other:?}"),
    }
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    let Some(_turn) = turn("corrupted restore") else { return };
    // Offsets into the state: SDM volume 1, section 13.4 "XSAVE Area" (legacy region, then AVX at the offset that CPUID says: 576).
    const XMM5: usize = 160 + 5 * 16;
    const YMM5_HIGH: usize = 576 + 5 * 16;
    const FCW: usize = 0;
    const MXCSR: usize = 24;
    const XSTATE_BV: usize = 512;
    type Change = fn(&mut VcpuState);
    let changes: [(&str, Change); 9] = [
        ("r12", |state| state.registers.r12 ^= 1 << 40),
        ("rsi", |state| state.registers.rsi ^= 1),
        ("rax", |state| state.registers.rax ^= 1 << 63),
        ("flags", |state| state.registers.rflags ^= 1),
        ("fcw", |state| {
            state.extended[FCW + 1] ^= 4;
            // Without this bit the x87 unit is reset instead.
            state.extended[XSTATE_BV] |= 1;
        }),
        ("mxcsr", |state| state.extended[MXCSR + 1] ^= 0x20),
        ("vector register 5", |state| state.extended[XMM5] ^= 1),
        ("vector register 5", |state| state.extended[YMM5_HIGH + 15] ^= 0x80),
        ("rax", |state| state.special.fs.base += 8),
    ];
    for (name, change) in changes {
        let text = corrupt(name, change);
        assert!(text.contains(&format!("processor 1: corrupted {name}")), "{name}: {text}");
    }
}
