//! The checks of the relaxed protocol find planted bugs: what passes without a bug fails with it, and a fitting check is the first to say so.

mod seeds;

use seeds::{Seeds, replay};
use vincs_coherence::hlrc::sim::mutants::MUTANTS;
use vincs_coherence::hlrc::sim::{simulate, simulate_mutant};

/// Simulations in which every bug has to be found. The seeds are the same for all bugs.
const RUNS: u64 = 3000;

/// The seeds' stream.
const STREAM: u64 = 26;

#[test]
fn every_planted_bug_is_found_by_a_check_that_is_meant_to() {
    let mut missed = Vec::new();
    for mutant in MUTANTS {
        let failures = (1..).zip(Seeds::new(STREAM, RUNS)).filter_map(|(tries, seed)| {
            let failed = simulate_mutant(seed, mutant).err()?;
            Some((tries, failed))
        });
        let Some((tries, failed)) = { failures }.next() else {
            missed.push(format!("{}: not found", mutant.name));
            continue;
        };
        let check = failed.violation.check;
        println!("{}: found by {check:?} in simulation {tries}: {}", mutant.name, failed.violation);
        if !mutant.found_by.contains(&check) {
            missed.push(format!("{}: {failed}", mutant.name));
        }
    }
    assert!(MUTANTS.len() >= 12 && missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn without_a_bug_the_same_seeds_pass() {
    for seed in Seeds::new(STREAM, RUNS) {
        if let Err(failed) = simulate(seed, false) {
            panic!("{failed}\n{}", replay("hlrc_mutants", "without_a_bug_the_same_seeds_pass", seed));
        }
    }
}
