//! The micro-guest on machines of two and four ranks, on this machine's own KVM.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

mod common;

use std::time::Duration;

use common::{LIMIT, turn};
use vincs_micro_guest::{Program, Ranks, Report, Session};
use vincs_vmm::machine::StopReason;

const RANKS: [u16; 2] = [2, 4];

/// A vCPU on each rank.
fn start(program: Program, ranks: u16) -> Session {
    Session::start_on(program, ranks.into(), &Ranks::new(ranks)).unwrap()
}

#[test]
fn an_interrupt_goes_round_all_ranks() {
    let Some(_turn) = turn("IPI ping-pong over ranks") else { return };
    for ranks in RANKS {
        let session = start(Program::IpiPingPong { rounds: 100 }, ranks);
        let Report::IpiPingPong(hops) = session.wait(LIMIT).unwrap() else { panic!("a report of another program") };
        assert_eq!(hops.count, 100 * u64::from(ranks));
        println!("{ranks} ranks: {} to {} ticks a hop, median {}", hops.min, hops.max, hops.median);
    }
}

#[test]
fn memory_that_is_spread_holds_what_was_written() {
    let Some(_turn) = turn("memory walk over ranks") else { return };
    for ranks in RANKS {
        let session = start(Program::MemoryWalk { megabytes: 2, steps: 200_000, seed: 42 }, ranks);
        let Report::MemoryWalk { mut checksums } = session.wait(LIMIT).unwrap() else {
            panic!("a report of another program")
        };
        checksums.dedup();
        assert_eq!(checksums.len(), usize::from(ranks), "no two vCPUs walk the same way");
    }
}

#[test]
fn processors_of_all_ranks_keep_their_state() {
    let Some(_turn) = turn("self-check over ranks") else { return };
    for ranks in RANKS {
        let session = start(Program::SelfCheck { rounds: 20_000, period: 5_000_000 }, ranks);
        std::thread::sleep(Duration::from_millis(500));
        assert!(!session.has_ended());
        session.ask_to_stop();
        let Report::SelfCheck { windows, timer_interrupts, processor_interrupts } = session.wait(LIMIT).unwrap() else {
            panic!("a report of another program")
        };
        assert!(windows >= 16 && timer_interrupts > 0 && processor_interrupts > 0, "{windows} windows");
    }
}

#[test]
fn the_end_reaches_every_rank_with_its_status() {
    let Some(_turn) = turn("the end over ranks") else { return };
    let session = start(Program::SelfCheck { rounds: 20_000, period: 5_000_000 }, 4);
    let mut machines = session.machines();
    assert!(machines.next().unwrap().end_cluster(77), "all know");
    for machine in machines {
        assert_eq!(machine.wait(Some(LIMIT)), Some(StopReason::Ended { status: 77 }));
    }
}
