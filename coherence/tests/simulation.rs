//! The protocol in simulated machines with random programs, delays and mishaps, under all checkers.

mod seeds;

use seeds::{Seeds, replay};
use serde_json::Value;
use vincs_coherence::node::Stats;
use vincs_coherence::sim::simulate;
use vincs_coherence::sim::workload::Mishaps;

/// Simulations of each kind, unless `VINCS_SIM_RUNS` says otherwise: as many as take about ten seconds in a debug build.
const RUNS: u64 = 1500;

/// Seeds that once failed.
const REGRESSIONS: &[(u64, Mishaps)] = &[];

fn run(test: &str, seed: u64, mishaps: Mishaps) -> Vec<Stats> {
    match simulate(seed, mishaps) {
        Ok(outcome) => outcome.stats,
        Err(failure) => panic!("{failure}\n{}", replay("simulation", test, seed)),
    }
}

#[test]
fn random_programs_run_on_coherent_memory() {
    let test = "random_programs_run_on_coherent_memory";
    for seed in Seeds::new(1, RUNS) {
        run(test, seed, Mishaps::None);
    }
}

#[test]
fn stalls_slow_ranks_partitions_and_crashes_do_no_harm() {
    let test = "stalls_slow_ranks_partitions_and_crashes_do_no_harm";
    for seed in Seeds::new(2, RUNS) {
        run(test, seed, Mishaps::Any);
    }
}

#[test]
fn seeds_that_once_failed_pass() {
    for (seed, mishaps) in REGRESSIONS {
        run("seeds_that_once_failed_pass", *seed, *mishaps);
    }
}

#[test]
fn equal_seeds_do_the_same() {
    for seed in Seeds::new(3, 20) {
        let [one, other] = [0, 1].map(|_| simulate(seed, Mishaps::Any).map_err(|failure| failure.to_string()));
        assert_eq!(format!("{one:?}"), format!("{other:?}"), "seed {seed:#x}");
    }
}

/// What never happens is not tested either.
#[test]
fn everything_that_a_node_counts_happens_in_simulations() {
    let test = "everything_that_a_node_counts_happens_in_simulations";
    let mut sums = serde_json::Map::new();
    for seed in Seeds::new(4, 200) {
        for stats in run(test, seed, Mishaps::Any) {
            let Value::Object(counts) = serde_json::to_value(stats).unwrap() else { panic!("statistics are an object") };
            for (name, count) in counts {
                let sum = sums.get(&name).and_then(Value::as_u64).unwrap_or_default();
                sums.insert(name, (sum + count.as_u64().unwrap()).into());
            }
        }
    }
    println!("{}", Value::Object(sums.clone()));
    let never: Vec<&String> = sums.iter().filter(|(_, sum)| sum.as_u64() == Some(0)).map(|(name, _)| name).collect();
    assert!(!sums.is_empty() && never.is_empty(), "never happened: {never:?}");
}
