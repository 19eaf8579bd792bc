//! Every behaviour of a small machine with relaxed memory, by a model checker: the same [`Node`] and the same simulated memory as in the simulator, but
//! every order of events instead of random ones.
//!
//! What is abstracted: an operation takes effect as a whole, and what it brings is known at once, but for pages, which are known later; a rank
//! looks at its own words as soon as one has changed.

mod hlrc_machine;

use std::io::Write;

use hlrc_machine::{Machine, RIGHT};
use stateright::{Checker, Model};
use vincs_coherence::hlrc::LockId;
use vincs_coherence::hlrc::sim::program::{Program, Step, Variable};
use vincs_coherence::id::Page;

const LOCK: LockId = LockId(0);
/// Neighbouring bytes of the first page, and one of the second.
const LEFT: Variable = Variable { page: Page(0), at: 7, len: 1 };
const RIGHT_BYTE: Variable = Variable { page: Page(0), at: 8, len: 1 };
const OTHER: Variable = Variable { page: Page(1), at: 0, len: 1 };

/// Explores everything; says how much that is, past the test harness, which shows what is printed only when a test fails.
#[expect(clippy::panic, reason = "the tests are calls of this")]
fn exhaust(name: &str, machine: Machine) {
    let started = std::time::Instant::now();
    let checker = machine.checker().threads(2).spawn_dfs().join();
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    let (depth, time) = (checker.max_depth(), started.elapsed());
    let explored =
        format!("Model of relaxed memory, {name}: {states} states, {steps} steps, {depth} deep, {time:.1?}\n");
    // That nobody sees it is no reason to fail.
    let _ = std::io::stderr().write_all(explored.as_bytes());
    if let Some(path) = checker.discovery(RIGHT) {
        let problem = path.last_state().problem().unwrap_or_default().to_owned();
        let steps: Vec<String> = path.into_actions().iter().map(|step| format!("{step:?}")).collect();
        panic!("{name}: {problem} after\n{}", steps.join("\n"));
    }
    assert!(checker.is_done(), "{name}: not all states were visited");
}

fn under_lock(variable: Variable) -> Program {
    vec![Step::Acquire(LOCK), Step::Add(variable), Step::Release(LOCK)]
}

/// Three ranks, a page at the home of each of two, one lock.
#[test]
fn three_ranks_increment_under_a_lock() {
    let programs = vec![under_lock(LEFT), under_lock(LEFT), under_lock(OTHER)];
    exhaust("increments under a lock", Machine::new(programs, true));
}

/// The same whose ranks keep the lock: one comes for it while another takes it again, or gives it back, or has it and none of its threads.
#[test]
fn three_ranks_increment_under_a_lock_that_each_keeps() {
    let twice = [under_lock(LEFT), under_lock(OTHER)].concat();
    let programs = vec![twice, under_lock(LEFT), under_lock(OTHER)];
    exhaust("increments under a lock that ranks keep", Machine::new(programs.clone(), true).keeping());
    exhaust("increments under a lock that ranks lend", Machine::new(programs, true).lending());
}

/// What is written under a lent lock is seen behind a barrier and by who comes for the lock then.
#[test]
fn a_lent_lock_and_a_barrier() {
    let programs = vec![
        [under_lock(OTHER), vec![Step::Barrier], under_lock(OTHER)].concat(),
        vec![Step::Write(LEFT, 1), Step::Barrier, Step::Acquire(LOCK), Step::Read(OTHER), Step::Release(LOCK)],
        [vec![Step::Barrier], under_lock(LEFT)].concat(),
    ];
    exhaust("a lent lock and a barrier", Machine::new(programs, true).lending());
}

/// The third rank, home of nothing, meets the other two.
#[test]
fn three_ranks_meet_at_a_barrier() {
    let programs = vec![
        vec![Step::Write(LEFT, 1), Step::Barrier, Step::Read(OTHER)],
        vec![Step::Write(OTHER, 2), Step::Barrier],
        vec![Step::Write(RIGHT_BYTE, 3), Step::Barrier, Step::Read(LEFT)],
    ];
    exhaust("a barrier", Machine::new(programs, true));
}

/// Two ranks write neighbouring bytes of one page, neither its home: one is alone first.
#[test]
fn two_ranks_share_a_page_of_a_third() {
    let programs = vec![
        vec![],
        vec![
            Step::Write(LEFT, 1),
            Step::Acquire(LOCK),
            Step::Release(LOCK),
            Step::Write(LEFT, 3),
            Step::Acquire(LOCK),
            Step::Release(LOCK),
        ],
        {
            let mut program = vec![Step::Write(RIGHT_BYTE, 2)];
            program.extend([Step::Acquire(LOCK), Step::Release(LOCK)]);
            program
        },
    ];
    exhaust("false sharing, with a single writer first", Machine::new(programs.clone(), true));
    exhaust("false sharing, with twins only", Machine::new(programs, false));
}

/// A lock and then a barrier.
#[test]
fn three_ranks_use_two_pages_a_lock_and_a_barrier() {
    let programs = vec![
        [under_lock(OTHER), vec![Step::Barrier]].concat(),
        [under_lock(OTHER), vec![Step::Barrier, Step::Read(LEFT)]].concat(),
        vec![Step::Write(LEFT, 1), Step::Barrier, Step::Read(OTHER)],
    ];
    exhaust("two pages, a lock and a barrier", Machine::new(programs, true));
}

/// What has been told is seen by who hears, and what that one saw and wrote by the next.
#[test]
fn three_ranks_tell_each_other_what_they_have_written() {
    let programs = vec![
        vec![Step::Write(LEFT, 1), Step::Write(OTHER, 4), Step::Tell(0)],
        vec![Step::Write(RIGHT_BYTE, 2), Step::Hear(0), Step::Add(LEFT), Step::Tell(1)],
        vec![Step::Hear(1), Step::Read(LEFT), Step::Read(RIGHT_BYTE), Step::Read(OTHER)],
    ];
    exhaust("words that are told", Machine::new(programs, true));
}

#[test]
fn a_planted_deadlock_is_found() {
    let programs =
        vec![vec![Step::Barrier], vec![Step::Acquire(LOCK), Step::Barrier], vec![Step::Acquire(LOCK), Step::Barrier]];
    let checker = Machine::new(programs, true).checker().spawn_dfs().join();
    let path = checker.discovery(RIGHT).unwrap();
    assert!(path.last_state().problem().unwrap().contains("for ever"));
}
