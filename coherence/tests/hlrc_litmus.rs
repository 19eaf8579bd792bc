//! Litmus tests of relaxed memory: what is promised never to appear does not, and what a race may show does.

mod seeds;

use seeds::{Seeds, replay};
use vincs_coherence::hlrc::sim::litmus::LITMUS;
use vincs_coherence::hlrc::sim::simulate_litmus;

/// Simulations of each test, unless `VINCS_SIM_RUNS` says otherwise.
const RUNS: u64 = 600;

#[test]
fn promises_are_kept_and_races_show() {
    let test = "promises_are_kept_and_races_show";
    for litmus in LITMUS {
        let (mut appeared, mut rounds) = (0, 0);
        for seed in Seeds::new(25, RUNS) {
            rounds += 1;
            match simulate_litmus(seed, litmus) {
                Ok(seen) => appeared += u64::from(seen),
                Err(failed) => panic!("{}: {failed}\n{}", litmus.name, replay("hlrc_litmus", test, seed)),
            }
        }
        println!("{:50} {appeared:>6} of {rounds} rounds", litmus.name);
        // A single seed that is replayed need not show it.
        assert!(rounds <= 1 || litmus.allowed == (appeared > 0), "{}: appeared {appeared} times", litmus.name);
    }
}
