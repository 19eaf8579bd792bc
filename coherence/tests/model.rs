//! Every behaviour of small machines, by a model checker: the same [`Node`] and the same simulated memory as in the simulator,
//! but every order of events instead of random ones.
//!
//! What is abstracted: a rank has one processor, which uses a page in the same step in which it gets it (the simulator has
//! processors that come too late); time does not pass, but a hold time may end whenever something waits for that.

mod machine;

use machine::{Bounds, Machine, Step};
use stateright::{Checker, Model, Property};
use vincs_coherence::id::{Access, Rank};

/// Explores everything; says how much that is.
fn exhaust(name: &str, bounds: Bounds) {
    let machine = Machine { bounds };
    let started = std::time::Instant::now();
    let checker = machine.checker().threads(2).spawn_dfs().join();
    println!(
        "{name}: {} states, {} steps, depth {}, {:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed()
    );
    if let Some(path) = checker.discovery(machine::HOLDS) {
        let last = path.last_state();
        let steps: Vec<String> = path.into_actions().iter().map(|step| format!("{step:?}")).collect();
        panic!("{name}: {}\n{}", last.problem().unwrap_or_default(), steps.join("\n"));
    }
    checker.assert_properties();
    assert!(checker.is_done(), "{name}: not all states were visited");
}
