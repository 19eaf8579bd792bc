//! The checkers find planted bugs: what passes without a bug fails with it, and a fitting checker is the first to say so.

mod seeds;

use seeds::{Seeds, replay};
use vincs_coherence::sim::mutants::MUTANTS;
use vincs_coherence::sim::simulate;
use vincs_coherence::sim::simulate_leavers;
use vincs_coherence::sim::simulate_mutant;
use vincs_coherence::sim::simulate_readers;
use vincs_coherence::sim::workload::Mishaps;

/// Simulations in which every bug has to be found: those of windows take the right moment. The seeds are the same for all bugs.
const RUNS: u64 = 1200;

/// The seeds' stream.
const STREAM: u64 = 6;

#[test]
fn every_planted_bug_is_found_by_a_checker_that_is_meant_to() {
    let mut missed = Vec::new();
    for mutant in MUTANTS {
        let failures = (1..).zip(Seeds::new(STREAM, RUNS)).filter_map(|(tries, seed)| {
            let failure = simulate_mutant(seed, mutant).err()?;
            Some((tries, failure))
        });
        let Some((tries, failure)) = { failures }.next() else {
            missed.push(format!("{}: not found", mutant.name));
            continue;
        };
        let checker = failure.violation.checker;
        println!("{}: found by {checker:?} in simulation {tries}: {}", mutant.name, failure.violation);
        if !mutant.found_by.contains(&checker) {
            missed.push(format!("{}: {failure}", mutant.name));
        }
    }
    assert!(MUTANTS.len() >= 10 && missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn without_a_bug_the_same_seeds_pass() {
    for seed in Seeds::new(STREAM, RUNS) {
        if let Err(failure) = simulate(seed, Mishaps::None)
            .and_then(|_| simulate_readers(seed))
            .and_then(|_| simulate_leavers(seed, Mishaps::None))
        {
            panic!("{failure}\n{}", replay("mutants", "without_a_bug_the_same_seeds_pass", seed));
        }
    }
}
