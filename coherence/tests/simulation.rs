//! The protocol in simulated machines with random programs, delays and mishaps, under all checkers.

mod seeds;

use seeds::{Seeds, replay};
use serde_json::Value;
use vincs_coherence::home::HomeMap;
use vincs_coherence::id::{Page, Rank, Tick};
use vincs_coherence::node::Stats;
use vincs_coherence::sim::guest::{Instruction, Op, Touch};
use vincs_coherence::sim::network::Delays;
use vincs_coherence::sim::rng::Rng;
use vincs_coherence::sim::scenario::{Program, Scenario};
use vincs_coherence::sim::workload::{Mishaps, random, readers};
use vincs_coherence::sim::{
    run_scenario, simulate, simulate_hand_overs, simulate_leavers, simulate_readers, simulate_without_windows,
};

/// Simulations of each kind, unless `VINCS_SIM_RUNS` says otherwise: as many as take about ten seconds in a debug build.
const RUNS: u64 = 3000;

/// Seeds that once failed, with what was wrong. A change of the random scenarios makes other ones of them.
const REGRESSIONS: &[(u64, Mishaps)] = &[
    // A home gave away within its hold time what had come back for another rank, and then for itself.
    (0x6045_62e4_32cd_3d86, Mishaps::None),
    (0xe742_b521_5636_fd3a, Mishaps::Any),
    // Pages that several instructions needed together went round for ever.
    (0xee10_c18b_3bed_ece1, Mishaps::None),
    (0xbafd_4a66_14ec_6f20, Mishaps::None),
    (0x3ac3_413d_0977_e9d2, Mishaps::None),
    (0x3f1e_7846_ac48_2b01, Mishaps::Any),
];

#[expect(clippy::panic, reason = "the tests are calls of this")]
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
fn random_programs_run_without_windows() {
    let test = "random_programs_run_without_windows";
    for seed in Seeds::new(11, RUNS / 4) {
        without_windows(test, seed, Mishaps::Any);
    }
}

#[expect(clippy::panic, reason = "the tests are calls of this")]
fn without_windows(test: &str, seed: u64, mishaps: Mishaps) {
    if let Err(failure) = simulate_without_windows(seed, mishaps) {
        panic!("{failure}\n{}", replay("simulation", test, seed));
    }
}

/// They come upon pages that are shown, hidden and replaced while they read them.
#[test]
fn readers_and_writers_meet_in_windows() {
    let test = "readers_and_writers_meet_in_windows";
    let (mut hits, mut misses, mut seeds) = (0, 0, 0);
    for seed in Seeds::new(12, RUNS / 5) {
        seeds += 1;
        match simulate_readers(seed) {
            Ok(outcome) => {
                hits += outcome.stats.iter().map(|stats| stats.guarded_hits).sum::<u64>();
                misses += outcome.stats.iter().map(|stats| stats.guarded_misses).sum::<u64>();
            }
            Err(failure) => panic!("{failure}\n{}", replay("simulation", test, seed)),
        }
    }
    println!("{hits} hits, {misses} misses");
    assert!(seeds == 1 || (hits > seeds && misses > seeds), "{hits} hits and {misses} misses in {seeds} simulations");
}

/// Ranks without homes come and leave under load, while processors move.
#[test]
fn ranks_leave_while_others_work() {
    for (stream, mishaps) in [(14, Mishaps::None), (15, Mishaps::Any)] {
        for seed in Seeds::new(stream, RUNS) {
            if let Err(failure) = simulate_leavers(seed, mishaps) {
                panic!("{failure}\n{}", replay("simulation", "ranks_leave_while_others_work", seed));
            }
        }
    }
}

/// With several nodes at each rank, each with a window of its own.
#[test]
fn windows_of_several_nodes_are_apart() {
    for seed in Seeds::new(13, RUNS / 30) {
        let scenario = readers(&mut Rng::new(seed)).unwrap();
        run_given("windows_of_several_nodes_are_apart", seed, &scenario.split(2));
    }
}

/// They are of a time before there were windows.
#[test]
fn seeds_that_once_failed_pass() {
    for (seed, mishaps) in REGRESSIONS {
        without_windows("seeds_that_once_failed_pass", *seed, *mishaps);
    }
}

/// Every rank's instructions need the same pages to write at the same time, which the minimum hold time alone does not give them.
#[test]
fn instructions_that_need_the_same_pages_at_once_all_end() {
    let test = "instructions_that_need_the_same_pages_at_once_all_end";
    for seed in Seeds::new(7, 60) {
        run_given(test, seed, &contended(&mut Rng::new(seed)));
    }
}

/// The pages belong to different nodes of each rank: none of them sees by itself that others are waited for.
#[test]
fn instructions_that_need_pages_of_several_nodes_at_once_all_end() {
    let test = "instructions_that_need_pages_of_several_nodes_at_once_all_end";
    for seed in Seeds::new(8, 60) {
        let nodes = if seed.is_multiple_of(2) { 2 } else { 4 };
        run_given(test, seed, &contended(&mut Rng::new(seed)).split(nodes));
    }
}

#[test]
fn ranks_may_have_several_nodes() {
    for seed in Seeds::new(9, RUNS / 10) {
        let mut rng = Rng::new(seed);
        let scenario = random(&mut rng, Mishaps::Any).unwrap();
        run_given("ranks_may_have_several_nodes", seed, &scenario.split(2));
    }
}

#[expect(clippy::panic, reason = "the tests are calls of this")]
fn run_given(test: &str, seed: u64, scenario: &Scenario) {
    if let Err(failure) = run_scenario(seed, scenario) {
        panic!("{failure}\n{}", replay("simulation", test, seed));
    }
}

#[expect(clippy::unwrap_used, reason = "a scenario without memory is to end the test")]
fn contended(rng: &mut Rng) -> Scenario {
    let ranks = 2 + rng.below_u16(7);
    let pages = 4;
    let instruction = |rng: &mut Rng| {
        let first = rng.below_u32(pages);
        let touch = |index| Touch { page: Page((first + index) % pages), word: 0, op: Op::Add(1) };
        Instruction::Touch((0..3).map(touch).collect())
    };
    let mut program = |rank| Program { rank, instructions: (0..10).map(|_| instruction(rng)).collect(), buffer: 0 };
    let homes = HomeMap::new([(2, Rank(0)), (2, Rank(1))]).unwrap();
    let delays = Delays { shortest: 1, longest: 10, slow: 20 };
    let programs = (0..ranks).map(|rank| program(Rank(rank))).collect();
    Scenario { hold: Tick(100), companions: 8, ..Scenario::calm(ranks, homes, delays, programs) }
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
        let moving = simulate_hand_overs(seed, Mishaps::Any).map(|outcome| outcome.stats);
        let moving = moving.unwrap_or_else(|failure| panic!("{failure}\n{}", replay("simulation", test, seed)));
        for stats in run(test, seed, Mishaps::Any).into_iter().chain(moving) {
            let Value::Object(counts) = serde_json::to_value(stats).unwrap() else {
                panic!("statistics are an object")
            };
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
