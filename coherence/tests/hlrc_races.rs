//! Races that are planted in random programs are reported, and nothing else is; and bugs in how they are looked for are found.

mod seeds;

use seeds::{Seeds, replay};
use vincs_coherence::hlrc::sim::checks::Check;
use vincs_coherence::hlrc::sim::races::NOTE_MUTANTS;
use vincs_coherence::hlrc::sim::simulate_races;

/// Simulations of each kind, unless `VINCS_SIM_RUNS` says otherwise.
const RUNS: u64 = 2000;

/// That what is reported is what was planted, if there are races.
#[expect(clippy::panic, reason = "the tests are calls of this")]
fn reported(test: &str, stream: u64, planted: bool) {
    for seed in Seeds::new(stream, RUNS) {
        if let Err(failed) = simulate_races(seed, planted, None) {
            panic!("{failed}\n{}", replay("hlrc_races", test, seed));
        }
    }
}

#[test]
fn programs_without_races_run_as_ever_and_none_is_reported() {
    reported("programs_without_races_run_as_ever_and_none_is_reported", 28, false);
}

#[test]
fn every_planted_race_is_reported_and_nothing_else() {
    reported("every_planted_race_is_reported_and_nothing_else", 29, true);
}

#[test]
fn every_planted_bug_of_the_checker_is_found() {
    let mut missed = Vec::new();
    for mutant in NOTE_MUTANTS {
        let failures = (1..).zip(Seeds::new(29, RUNS)).filter_map(|(tries, seed)| {
            let failed = simulate_races(seed, true, Some(mutant)).err()?;
            Some((tries, failed))
        });
        let Some((tries, failed)) = { failures }.next() else {
            missed.push(format!("{}: not found", mutant.name));
            continue;
        };
        println!("{}: found in simulation {tries}: {}", mutant.name, failed.violation);
        let invented = failed.violation.what.ends_with("is none");
        if failed.violation.check != Check::Races || invented != mutant.invents {
            missed.push(format!("{}: {failed}", mutant.name));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
