//! Machines are ordered about while the micro-guest checks itself: vCPUs move, all stop and go on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

mod common;

use std::time::{Duration, Instant};

use common::{LIMIT, turn};
use vincs_micro_guest::{Program, Ranks, Report, Session, migrate_at_random};
use vincs_vmm::cluster::{Moved, RefusedMove};
use vincs_vmm::machine::{MigrateError, Running};

const SELF_CHECK: Program = Program::SelfCheck { rounds: 20_000, period: 5_000_000 };

#[test]
fn the_guest_does_not_notice_that_its_processors_move_at_random() {
    let Some(_turn) = turn("migrations at random") else { return };
    for (ranks, vcpus, seed) in [(2, 4, 1), (3, 3, 2)] {
        let done = migrate_at_random(vcpus, &Ranks::new(ranks), 100, seed, LIMIT).unwrap();
        let Report::SelfCheck { windows, timer_interrupts, processor_interrupts } = done.report else {
            panic!("a report of another program")
        };
        let median = done.times[done.times.len() / 2];
        println!(
            "{vcpus} vCPUs on {ranks} ranks: {} moves, median {median:?}; {windows} windows, {timer_interrupts} timer and \
             {processor_interrupts} processor interrupts",
            done.times.len()
        );
        assert!(done.times.len() >= 100 && windows > 0 && timer_interrupts > 0 && processor_interrupts > 0);
    }
}

#[test]
fn moves_that_cannot_be_are_refused_and_change_nothing() {
    let Some(_turn) = turn("refused migrations") else { return };
    let session = Session::start_gathered(SELF_CHECK, 2, &Ranks::new(2)).unwrap();
    let controller = session.controller().unwrap();
    let refused = |vcpu, rank| controller.migrate(vcpu, rank, LIMIT).unwrap_err();
    let before = controller.places();
    assert_eq!(refused(2, 1), MigrateError::Refused(RefusedMove::NoVcpu { vcpu: 2, last: 1 }));
    assert_eq!(refused(1, 2), MigrateError::Refused(RefusedMove::NoRank { rank: 2, last: 1 }));
    assert_eq!(controller.migrate(1, 0, LIMIT), Ok(Moved::WasThere));
    assert_eq!(controller.places(), before);
    assert_eq!(controller.migrate(1, 1, LIMIT), Ok(Moved::From(0)));
    // It goes on a moment after rank 0 hears that it has come.
    let arrived = |machine: &Running| machine.vcpus()[1].stats().snapshot();
    let until = Instant::now() + LIMIT;
    while session.machines().all(|machine| arrived(machine).arrivals == 0) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    let counted: Vec<_> = session.machines().map(arrived).collect();
    assert_eq!(counted.iter().map(|counted| counted.arrivals).collect::<Vec<_>>(), [0, 1]);
    let away = Duration::from_nanos(counted[1].away_nanoseconds);
    assert!(away > Duration::ZERO && away < LIMIT && counted[0].away_nanoseconds == 0, "{counted:?}");
    session.ask_to_stop();
    session.wait(LIMIT).unwrap();
    assert_eq!(controller.migrate(1, 0, LIMIT), Err(MigrateError::Ended));
    let alone = Session::start(SELF_CHECK, 2).unwrap();
    let controller = alone.controller().unwrap();
    assert_eq!(controller.migrate(1, 0, LIMIT), Ok(Moved::WasThere));
    let error = controller.migrate(1, 1, LIMIT).unwrap_err();
    assert_eq!(error, MigrateError::Refused(RefusedMove::NoRank { rank: 1, last: 0 }));
}

/// Entries of all vCPUs on all ranks.
fn entries(session: &Session) -> u64 {
    let of = |machine: &Running| -> u64 { machine.stats().vcpus.iter().map(|vcpu| vcpu.counters.entries).sum() };
    session.machines().map(of).sum()
}

#[test]
fn a_paused_machine_rests_on_all_ranks_and_its_processors_may_move_meanwhile() {
    let Some(_turn) = turn("pause and resume") else { return };
    for ranks in [1, 2] {
        let session = if ranks == 1 {
            Session::start(SELF_CHECK, 2).unwrap()
        } else {
            Session::start_on(SELF_CHECK, 2, &Ranks::new(ranks)).unwrap()
        };
        session.self_check_window(LIMIT).unwrap();
        let controller = session.controller().unwrap();
        for _ in 0..3 {
            controller.pause(LIMIT).unwrap();
            controller.pause(LIMIT).unwrap();
            assert!(controller.is_paused());
            if ranks == 2 {
                let to = 1 - controller.places()[1].rank;
                assert_eq!(controller.migrate(1, to, LIMIT), Ok(Moved::From(1 - to)));
            }
            let before = entries(&session);
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(entries(&session), before, "it runs");
            controller.resume();
            let until = Instant::now() + LIMIT;
            while entries(&session) == before {
                assert!(Instant::now() < until, "it does not go on");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        session.ask_to_stop();
        session.wait(LIMIT).unwrap();
    }
}
