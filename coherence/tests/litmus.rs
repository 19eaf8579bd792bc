//! Litmus tests of x86-TSO on simulated machines: what it forbids never appears, and what the store buffers make possible does.

mod seeds;

use seeds::{Seeds, replay};
use vincs_coherence::sim::litmus::{LITMUS, ROUNDS};
use vincs_coherence::sim::simulate_litmus;

/// Simulations of each test, unless `VINCS_SIM_RUNS` says otherwise.
const RUNS: u64 = 60;

#[test]
fn no_outcome_that_tso_forbids_appears_and_those_it_allows_do() {
    let test = "no_outcome_that_tso_forbids_appears_and_those_it_allows_do";
    for litmus in LITMUS {
        let mut appeared = 0;
        let mut rounds = 0;
        for seed in Seeds::new(5, RUNS) {
            rounds += ROUNDS;
            match simulate_litmus(seed, litmus) {
                Ok(times) => appeared += times,
                Err(failure) => panic!("{}: {failure}\n{}", litmus.name, replay("litmus", test, seed)),
            }
        }
        println!("{:40} {appeared:>6} of {rounds} rounds", litmus.name);
        // A single seed that is replayed need not show it.
        assert!(rounds <= ROUNDS || litmus.allowed == (appeared > 0), "{}: appeared {appeared} times", litmus.name);
    }
}
