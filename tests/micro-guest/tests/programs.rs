//! Every program of the micro-guest on one, two and four vCPUs, on this machine's own KVM.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

mod common;

use std::time::{Duration, Instant};

use common::{LIMIT, turn};
use vincs_micro_guest::{Program, Report, RunError, Session, TimerReport, run};

const VCPUS: [u32; 3] = [1, 2, 4];

#[test]
fn an_interrupt_goes_round_and_every_hop_is_timed() {
    let Some(_turn) = turn("IPI ping-pong") else { return };
    for vcpus in VCPUS {
        let Report::IpiPingPong(hops) = run(Program::IpiPingPong { rounds: 100 }, vcpus, LIMIT).unwrap() else {
            panic!("a report of another program")
        };
        assert_eq!(hops.count, 100 * u64::from(vcpus));
        assert_eq!(hops.histogram.iter().sum::<u64>(), hops.count);
        assert!(0 < hops.min && hops.min <= hops.median && hops.median <= hops.max, "{hops:?}");
        println!("{vcpus} vCPUs: {} to {} ticks a hop, median {}", hops.min, hops.max, hops.median);
    }
}

#[test]
fn sixty_four_processors_start_and_pass_an_interrupt_round() {
    let Some(_turn) = turn("IPI ping-pong on 64 vCPUs") else { return };
    let report = run(Program::IpiPingPong { rounds: 5 }, 64, LIMIT).unwrap();
    let Report::IpiPingPong(hops) = report else { panic!("a report of another program") };
    assert_eq!(hops.count, 5 * 64);
}

#[test]
fn the_timer_fires_in_each_mode_and_never_early() {
    let Some(_turn) = turn("timer") else { return };
    for vcpus in VCPUS {
        // The guest itself checks that no interrupt comes early and that there are not more than periods.
        let program = Program::Timer { interrupts: 20, period: 5_000_000 };
        let Report::Timer(report) = run(program, vcpus, LIMIT).unwrap() else { panic!("a report of another program") };
        let TimerReport { one_shot, periodic, deadline } = *report;
        for (mode, lateness) in [("one-shot", one_shot), ("periodic", periodic), ("deadline", deadline)] {
            assert_eq!(lateness.count, 20 * u64::from(vcpus), "{mode}");
            println!("{vcpus} vCPUs, {mode}: {} to {} ticks late", lateness.min, lateness.max);
        }
        assert!(periodic.max < 5_000_000, "lateness within a period is less than one: {periodic:?}");
    }
}

#[test]
fn memory_holds_what_was_written() {
    let Some(_turn) = turn("memory walk") else { return };
    for vcpus in VCPUS {
        let program = Program::MemoryWalk { megabytes: 2, steps: 200_000, seed: 42 };
        let Report::MemoryWalk { mut checksums } = run(program, vcpus, LIMIT).unwrap() else {
            panic!("a report of another program")
        };
        assert_eq!(checksums.len(), vcpus as usize);
        checksums.dedup();
        assert_eq!(checksums.len(), vcpus as usize, "no two vCPUs walk the same way");
    }
}

#[test]
fn work_goes_on_until_it_is_told_to_stop() {
    let Some(_turn) = turn("work") else { return };
    for vcpus in VCPUS {
        let session = Session::start(Program::Work { megabytes: 1, steps: 50_000, seed: 7 }, vcpus).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(!session.has_ended());
        session.ask_to_stop();
        let ended = session.wait_here(LIMIT).unwrap();
        let Report::Work { rounds } = ended else { panic!("a report of another program") };
        assert_eq!(session.device().rounds()[..vcpus as usize], rounds, "each round was told");
        assert!(rounds.len() == vcpus as usize && rounds.iter().all(|rounds| *rounds > 0), "{rounds:?}");
    }
}

#[test]
fn the_self_check_runs_until_it_is_told_to_stop() {
    let Some(_turn) = turn("self-check") else { return };
    for vcpus in VCPUS {
        let session = Session::start(Program::SelfCheck { rounds: 20_000, period: 5_000_000 }, vcpus).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        assert!(!session.has_ended());
        session.ask_to_stop();
        let Report::SelfCheck { windows, timer_interrupts, processor_interrupts } = session.wait(LIMIT).unwrap() else {
            panic!("a report of another program")
        };
        assert!(windows >= 16 && timer_interrupts > 0 && processor_interrupts > 0, "{windows} windows");
    }
}

#[test]
fn exits_are_counted_and_timed() {
    let Some(_turn) = turn("exit latency") else { return };
    for vcpus in VCPUS {
        let Report::ExitLatency { each, total } = run(Program::ExitLatency { exits: 500 }, vcpus, LIMIT).unwrap()
        else {
            panic!("a report of another program")
        };
        assert_eq!(each.count, 500);
        assert!(total >= each.median * 250 && total >= each.max, "{total} ticks for {each:?}");
    }
}

#[test]
fn a_fault_is_told_with_where_and_what() {
    let Some(_turn) = turn("fault") else { return };
    for vcpus in VCPUS {
        let error = run(Program::Fault, vcpus, LIMIT).unwrap_err();
        let RunError::Guest(text) = &error else { panic!("{error}") };
        assert!(text.starts_with("page fault on processor"), "{text}");
        assert!(text.contains("rip 0x2") && text.contains("in ring 3") && text.contains("cr2 0x100000000"), "{text}");
    }
}

#[test]
fn a_run_that_does_not_end_is_stopped_and_says_where_it_was() {
    let Some(_turn) = turn("time-out") else { return };
    let start = Instant::now();
    let limit = Duration::from_millis(300);
    let error = run(Program::SelfCheck { rounds: 1_000_000, period: 5_000_000 }, 2, limit).unwrap_err();
    assert!(matches!(error, RunError::Timeout { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("vCPU 0 ") && text.contains("vCPU 1 ") && text.contains(" at 0x"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn what_the_guest_cannot_do_is_said() {
    assert!(matches!(run(Program::Fault, 0, LIMIT), Err(RunError::Vcpus(0))));
    assert!(matches!(run(Program::Fault, 65, LIMIT), Err(RunError::Vcpus(65))));
    let Some(_turn) = turn("bad parameters") else { return };
    let error = run(Program::ExitLatency { exits: 2_000_000 }, 1, LIMIT).unwrap_err();
    assert!(error.to_string().contains("ask for fewer"), "{error}");
    let error = run(Program::Timer { interrupts: 1, period: 1 << 32 }, 1, LIMIT).unwrap_err();
    assert!(error.to_string().contains("32-bit count"), "{error}");
}
