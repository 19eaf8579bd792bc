//! Homes that move at random moments, in every kind of simulated machine, under all checkers.

mod seeds;

use seeds::{Seeds, replay};
use vincs_coherence::home::HomeMap;
use vincs_coherence::id::{Page, Rank, Tick};
use vincs_coherence::sim::guest::{Instruction, Op, Touch};
use vincs_coherence::sim::litmus::LITMUS;
use vincs_coherence::sim::machine::Outcome;
use vincs_coherence::sim::network::Delays;
use vincs_coherence::sim::rng::Rng;
use vincs_coherence::sim::scenario::{Program, Scenario};
use vincs_coherence::sim::workload::{Mishaps, random, readers, with_hand_overs};
use vincs_coherence::sim::{
    Failure, run_scenario, simulate_hand_overs, simulate_homes_that_leave, simulate_leavers_with_hand_overs,
    simulate_leaving_readers_with_hand_overs, simulate_litmus_with_hand_overs, simulate_readers_with_hand_overs,
};

/// Simulations of each kind, unless `VINCS_SIM_RUNS` says otherwise.
const RUNS: u64 = 2500;

#[expect(clippy::panic, reason = "the tests are calls of this")]
fn passed<T>(test: &str, seed: u64, outcome: Result<T, Box<Failure>>) -> T {
    outcome.unwrap_or_else(|failure| panic!("{failure}\n{}", replay("hand_overs", test, seed)))
}

/// Pages that have got another home and those that have been given away, over all ranks.
fn moved(outcome: &Outcome) -> [u64; 2] {
    let sum = |of: fn(&vincs_coherence::node::Stats) -> u64| outcome.stats.iter().map(of).sum();
    [sum(|stats| stats.homes_taken), sum(|stats| stats.homes_given)]
}

#[test]
fn random_programs_run_while_homes_move() {
    let test = "random_programs_run_while_homes_move";
    let (mut seeds, mut hand_overs) = (0, 0);
    for seed in Seeds::new(21, RUNS) {
        let outcome = passed(test, seed, simulate_hand_overs(seed, Mishaps::None));
        let [taken, given] = moved(&outcome);
        assert!(taken == given && taken >= outcome.hand_overs, "{taken} taken, {given} given, seed {seed:#x}");
        (seeds, hand_overs) = (seeds + 1, hand_overs + outcome.hand_overs);
    }
    println!("{hand_overs} hand-overs");
    assert!(seeds == 1 || hand_overs > 5 * seeds, "{hand_overs} hand-overs in {seeds} simulations");
}

#[test]
fn stalls_slow_ranks_partitions_and_crashes_do_no_harm_while_homes_move() {
    let test = "stalls_slow_ranks_partitions_and_crashes_do_no_harm_while_homes_move";
    for seed in Seeds::new(22, RUNS) {
        passed(test, seed, simulate_hand_overs(seed, Mishaps::Any));
    }
}

/// A rank crashes while pages move from it, to it, or past it: nobody sees anything wrong, and whoever goes on does.
#[test]
fn ranks_crash_in_the_middle_of_hand_overs() {
    let test = "ranks_crash_in_the_middle_of_hand_overs";
    let (mut seeds, mut cut_off) = (0, 0);
    for seed in Seeds::new(23, RUNS / 2) {
        let mut rng = Rng::new(seed);
        let scenario = random(&mut rng, Mishaps::None).unwrap();
        let scenario = with_hand_overs(&mut rng, scenario);
        let crash = Some((Rank(rng.below_u16(scenario.ranks)), rng.between(1, 300)));
        let outcome = passed(test, seed, run_scenario(seed, &Scenario { crash, ..scenario }));
        let [taken, given] = moved(&outcome);
        (seeds, cut_off) = (seeds + 1, cut_off + u64::from(taken < given));
    }
    println!("{cut_off} crashes between two homes");
    assert!(seeds == 1 || cut_off > 0, "no crash has met pages between two homes");
}

#[test]
fn readers_and_writers_meet_in_windows_that_pages_leave_for_other_homes() {
    let test = "readers_and_writers_meet_in_windows_that_pages_leave_for_other_homes";
    for seed in Seeds::new(24, RUNS / 3) {
        passed(test, seed, simulate_readers_with_hand_overs(seed));
    }
}

/// Simulations without mishaps and with any pass, each of a stream of seeds; homes move often in them.
#[expect(clippy::print_stdout, reason = "the tests are calls of this")]
fn homes_move(test: &str, streams: [u64; 2], simulate: impl Fn(u64, Mishaps) -> Result<Outcome, Box<Failure>>) {
    let (mut seeds, mut hand_overs) = (0, 0);
    for (stream, mishaps) in streams.into_iter().zip([Mishaps::None, Mishaps::Any]) {
        for seed in Seeds::new(stream, RUNS / 2) {
            let outcome = passed(test, seed, simulate(seed, mishaps));
            (seeds, hand_overs) = (seeds + 1, hand_overs + outcome.hand_overs);
        }
    }
    println!("{hand_overs} hand-overs");
    assert!(seeds <= 2 || hand_overs > 3 * seeds, "{hand_overs} hand-overs in {seeds} simulations");
}

/// Ranks without homes leave when no home moves, and homes move when no rank leaves.
#[test]
fn ranks_leave_between_hand_overs() {
    let test = "ranks_leave_between_hand_overs";
    homes_move(test, [28, 29], simulate_leavers_with_hand_overs);
    for seed in Seeds::new(30, RUNS / 5) {
        passed(test, seed, simulate_leaving_readers_with_hand_overs(seed));
    }
}

/// Ranks that are homes hand over what they have, among other hand-overs, and leave.
#[test]
fn homes_leave_when_they_have_handed_all_over() {
    let test = "homes_leave_when_they_have_handed_all_over";
    homes_move(test, [31, 32], simulate_homes_that_leave);
}

#[test]
fn litmus_tests_hold_while_homes_move() {
    for litmus in LITMUS {
        for seed in Seeds::new(25, 60) {
            passed("litmus_tests_hold_while_homes_move", seed, simulate_litmus_with_hand_overs(seed, litmus));
        }
    }
}

#[test]
fn ranks_with_several_nodes_hand_homes_over() {
    let test = "ranks_with_several_nodes_hand_homes_over";
    for seed in Seeds::new(26, RUNS / 8) {
        let mut rng = Rng::new(seed);
        let scenario = random(&mut rng, Mishaps::Any).unwrap();
        passed(test, seed, run_scenario(seed, &with_hand_overs(&mut rng, scenario).split(2)));
        let scenario = readers(&mut rng).unwrap();
        passed(test, seed, run_scenario(seed, &with_hand_overs(&mut rng, scenario).split(2)));
    }
}

/// All ranks need the same pages at once, and these move all the while.
#[test]
fn instructions_that_need_the_same_pages_at_once_end_while_these_move() {
    let test = "instructions_that_need_the_same_pages_at_once_end_while_these_move";
    for seed in Seeds::new(27, 60) {
        let mut rng = Rng::new(seed);
        let (ranks, pages) = (2 + rng.below_u16(7), 4);
        let instruction = |rng: &mut Rng| {
            let first = rng.below_u32(pages);
            let touch = |index| Touch { page: Page((first + index) % pages), word: 0, op: Op::Add(1) };
            Instruction::Touch((0..3).map(touch).collect())
        };
        let mut program = |rank| {
            let instructions = (0..10).map(|_| instruction(&mut rng)).collect();
            Program { rank: Rank(rank), instructions, buffer: 0 }
        };
        let programs = (0..ranks).map(&mut program).collect();
        let homes = HomeMap::new([(2, Rank(0)), (2, Rank(1))]).unwrap();
        let delays = Delays { shortest: 1, longest: 10, slow: 20 };
        let scenario = Scenario { hold: Tick(100), companions: 8, ..Scenario::calm(ranks, homes, delays, programs) };
        passed(test, seed, run_scenario(seed, &with_hand_overs(&mut rng, scenario)));
    }
}
