//! Every behaviour of small machines, by a model checker: the same [`Node`] and the same simulated memory as in the simulator,
//! but every order of events instead of random ones.
//!
//! What is abstracted: a rank has one processor, which uses a page in the same step in which it gets it (the simulator has
//! processors that come too late); time does not pass, but a hold time may end whenever something waits for that.

mod machine;

use machine::{Bounds, Machine, RIGHT};
use stateright::{Checker, Model};
use vincs_coherence::id::{Rank, Tick};

/// Three ranks, each page at another home, one rank without pages; nothing ends a hold time, as there is none.
fn bounds() -> Bounds {
    Bounds {
        pages: vec![1, 1, 0],
        accesses: vec![1, 1, 1],
        devices: Vec::new(),
        hold: Tick(0),
        cache_pages: None,
        read_ahead: 0,
        first_touch: 1,
    }
}

/// Explores everything; says how much that is.
fn exhaust(name: &str, bounds: Bounds) {
    let started = std::time::Instant::now();
    let checker = Machine::new(bounds).checker().threads(2).spawn_dfs().join();
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    println!("{name}: {states} states, {steps} steps, {} deep, {:?}", checker.max_depth(), started.elapsed());
    if let Some(path) = checker.discovery(RIGHT) {
        let problem = path.last_state().problem().unwrap_or_default().to_owned();
        let steps: Vec<String> = path.into_actions().iter().map(|step| format!("{step:?}")).collect();
        panic!("{name}: {problem} after\n{}", steps.join("\n"));
    }
    assert!(checker.is_done(), "{name}: not all states were visited");
}

#[test]
fn z1() {
    exhaust("3 2 3 accesses", Bounds { accesses: vec![3, 2, 3], ..bounds() });
}
#[test]
fn z2() {
    exhaust("2 accesses, hold times", Bounds { accesses: vec![2, 2, 2], hold: Tick(1), ..bounds() });
}
#[test]
fn z3() {
    exhaust("evictions 2 1 3", Bounds { accesses: vec![2, 1, 3], cache_pages: Some(1), ..bounds() });
}
#[test]
fn z4() {
    exhaust(
        "evictions 1 1 3 hold",
        Bounds { accesses: vec![1, 1, 3], cache_pages: Some(1), hold: Tick(1), ..bounds() },
    );
}
#[test]
fn z5() {
    exhaust(
        "devices 1 1 1 3 dev",
        Bounds { accesses: vec![1, 1, 1], devices: vec![Rank(0), Rank(1), Rank(2)], ..bounds() },
    );
}
#[test]
fn z6() {
    exhaust(
        "devices 0 0 1 hold 3",
        Bounds { accesses: vec![0, 0, 1], devices: vec![Rank(0), Rank(1), Rank(2)], hold: Tick(1), ..bounds() },
    );
}
#[test]
fn z7() {
    exhaust("ahead 2 3", Bounds { pages: vec![4, 0], accesses: vec![2, 3], read_ahead: 2, ..bounds() });
}
