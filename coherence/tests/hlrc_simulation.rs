//! The relaxed protocol under random programs without data races, against a sequential run of them.

mod seeds;

use seeds::{Seeds, replay};
use serde_json::Value;
use vincs_coherence::hlrc::LockId;
use vincs_coherence::hlrc::sim::program::{Step, Variable};
use vincs_coherence::hlrc::sim::scenario::{Outcomes, Scenario};
use vincs_coherence::hlrc::sim::{run_scenario, simulate};
use vincs_coherence::home::HomeMap;
use vincs_coherence::id::{Page, Rank};

/// Simulations of each kind, unless `VINCS_SIM_RUNS` says otherwise.
const RUNS: u64 = 3000;

#[expect(clippy::panic, reason = "the tests are calls of this")]
fn run(test: &str, seed: u64, loss: bool) -> Outcomes {
    match simulate(seed, loss) {
        Ok(outcomes) => outcomes,
        Err(failed) => panic!("{failed}\n{}", replay("hlrc_simulation", test, seed)),
    }
}

#[test]
fn programs_without_races_see_what_a_sequential_run_shows() {
    for seed in Seeds::new(21, RUNS) {
        run("programs_without_races_see_what_a_sequential_run_shows", seed, false);
    }
}

#[test]
fn when_a_rank_is_lost_nobody_waits_for_ever_and_nobody_sees_wrong_values() {
    for seed in Seeds::new(22, RUNS) {
        run("when_a_rank_is_lost_nobody_waits_for_ever_and_nobody_sees_wrong_values", seed, true);
    }
}

/// Two ranks, each alone with a page of a third, then write each other's page too: neither may keep its turn for its own page while it waits for the
/// other one's.
#[test]
fn ranks_that_wait_for_turns_do_not_wait_in_a_circle() {
    let [one, other] = [0, 1].map(|page| Variable { page: Page(page), at: 8 * page as usize, len: 8 });
    let free = |lock| [Step::Acquire(LockId(lock)), Step::Release(LockId(lock))];
    let program = |lock, first, second| {
        let mut steps = vec![Step::Write(first, 1)];
        steps.extend(free(lock));
        for _ in 0..6 {
            steps.extend([Step::Add(first), Step::Add(second)]);
            steps.extend(free(lock));
        }
        steps
    };
    let test = "ranks_that_wait_for_turns_do_not_wait_in_a_circle";
    for seed in Seeds::new(27, 300) {
        let scenario = Scenario {
            homes: HomeMap::new([(2, Rank(0))]).unwrap(),
            team: vec![1; 3],
            programs: vec![Vec::new(), program(0, one, other), program(1, other, one)],
            locks: 2,
            log_words: 8,
            single_writer: true,
            check_races: false,
            keep_after: 0,
            lends: true,
            planted: Vec::new(),
            cache_pages: None,
            written_pages: 64,
            delay: 20,
            late_pages: false,
            hints: false,
            loss: None,
            // The programs race; it is about whether they end.
            check_reads: false,
        };
        if let Err(failed) = run_scenario(seed, &scenario) {
            panic!("{failed}\n{}", replay("hlrc_simulation", test, seed));
        }
    }
}

#[test]
fn equal_seeds_do_the_same() {
    for seed in Seeds::new(23, 20) {
        let [one, other] = [0, 1].map(|_| format!("{:?}", simulate(seed, false).map_err(|failed| failed.to_string())));
        assert_eq!(one, other, "seed {seed:#x}");
    }
}

/// What never happens is not tested either.
#[test]
fn everything_that_a_node_counts_happens_in_simulations() {
    let test = "everything_that_a_node_counts_happens_in_simulations";
    let mut sums = serde_json::Map::new();
    let mut told = 0;
    for seed in Seeds::new(24, 300) {
        let outcomes = run(test, seed, false);
        told += outcomes.told_abandoned;
        for stats in outcomes.stats {
            let Value::Object(counts) = serde_json::to_value(stats).unwrap() else {
                panic!("statistics are an object")
            };
            for (name, count) in counts {
                let sum = sums.get(&name).and_then(Value::as_u64).unwrap_or_default();
                sums.insert(name, (sum + count.as_u64().unwrap()).into());
            }
        }
    }
    println!("{} {told}", Value::Object(sums.clone()));
    let never: Vec<&String> = sums.iter().filter(|(_, sum)| sum.as_u64() == Some(0)).map(|(name, _)| name).collect();
    assert!(!sums.is_empty() && never.is_empty() && told > 0, "never happened: {never:?}, told {told}");
}
