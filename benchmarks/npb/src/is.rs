//! IS: the rank of each of many small integers (RNR-94-007, section 2.2.5), ten times.
//!
//! Keys go into buckets by their upper bits first, so that a member then counts the keys of adjacent buckets, alone and within
//! its cache. What moves between members is each one's piece of each bucket.

pub mod buckets;

use std::ops::Range;

use crate::class::Class;
use crate::kernel::{Outcome, Size, timed};
use crate::random::{Random, SEED};
use crate::team::shared::Shared;
use crate::team::{NoMemory, Team};
use buckets::Buckets;

const ITERATIONS: usize = 10;

/// Keys whose rank is looked at in each iteration.
const TESTS: usize = 5;

/// A class: how many keys, below which value, and what is published of them.
#[derive(Clone, Copy, Debug)]
struct Problem {
    log_keys: u32,
    log_values: u32,
    /// Where the keys are whose ranks are published.
    indices: [usize; TESTS],
    /// Their ranks, which change with each iteration as keys do.
    ranks: [usize; TESTS],
    /// Whether each goes up by one with each iteration, else down.
    rises: [bool; TESTS],
    /// In which iteration those that go up are as they are here, and those that go down.
    origins: [usize; 2],
}

impl Problem {
    fn of(class: Class) -> Self {
        class.pick([
            Self {
                log_keys: 16,
                log_values: 11,
                indices: [48427, 17148, 23627, 62548, 4431],
                ranks: [0, 18, 346, 64917, 65463],
                rises: [true, true, true, false, false],
                origins: [0, 0],
            },
            Self {
                log_keys: 20,
                log_values: 16,
                indices: [357_773, 934_767, 875_723, 898_999, 404_505],
                ranks: [1249, 11698, 1_039_987, 1_043_896, 1_048_018],
                rises: [true, true, false, false, false],
                origins: [2, 0],
            },
            Self {
                log_keys: 23,
                log_values: 19,
                indices: [2_112_377, 662_041, 5_336_171, 3_642_833, 4_250_760],
                ranks: [104, 17523, 123_928, 8_288_932, 8_388_264],
                rises: [true, true, true, false, false],
                origins: [1, 1],
            },
            Self {
                log_keys: 25,
                log_values: 21,
                indices: [41869, 812_306, 5_102_857, 18_232_239, 26_860_214],
                ranks: [33_422_937, 10244, 59149, 33_135_281, 99],
                rises: [false, true, true, false, true],
                origins: [0, 0],
            },
        ])
    }

    fn keys(&self) -> usize {
        1 << self.log_keys
    }

    fn values(&self) -> usize {
        1 << self.log_values
    }

    /// The published rank of a test key in an iteration; none when it would be below zero.
    fn rank(&self, test: usize, iteration: usize) -> Option<usize> {
        let [rise, fall] = self.origins;
        let rank = self.ranks[test];
        if self.rises[test] { (rank + iteration).checked_sub(rise) } else { (rank + fall).checked_sub(iteration) }
    }
}

/// Runs it.
///
/// # Errors
///
/// No memory for its arrays.
pub fn run(team: &dyn Team, class: Class) -> Result<Outcome, NoMemory> {
    let problem = Problem::of(class);
    let keys = team.array::<u32>(problem.keys())?;
    make_keys(&problem, &mut keys.write(team.share(keys.len())), team.share(keys.len()));
    team.barrier();
    let mut buckets = Buckets::new(team, problem.keys(), problem.log_values)?;
    // Once for nothing, so that all memory is there.
    iteration(team, &problem, &keys, &mut buckets, 1);
    let (passed, seconds) =
        timed(team, || (1..=ITERATIONS).map(|at| iteration(team, &problem, &keys, &mut buckets, at)).sum::<usize>());
    let sorted = buckets.sorted(team)?;
    let wanted = ITERATIONS * TESTS;
    Ok(Outcome {
        size: Size::Count(problem.keys()),
        iterations: ITERATIONS,
        seconds,
        million_operations: (problem.keys() * ITERATIONS) as f64 / 1e6,
        operation: "keys ranked",
        verified: passed == wanted && sorted,
        results: vec![
            format!("{passed} of {wanted} ranks are the published ones"),
            format!("The keys in the order of their ranks are {}", if sorted { "sorted" } else { "not sorted" }),
        ],
    })
}

/// Makes the keys of these places: each the mean of four uniform numbers.
fn make_keys(problem: &Problem, keys: &mut [u32], places: Range<usize>) {
    let mut random = Random::at(SEED, 4 * places.start as u64);
    let quarter = (problem.values() / 4) as f64;
    for key in keys {
        let sum = (0..4).fold(0.0, |sum, _| sum + random.uniform());
        *key = integer(quarter * sum);
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the integer part of a number below 2^21")]
fn integer(number: f64) -> u32 {
    number as u32
}

/// Changes two keys, ranks all, and gives how many of the tests pass.
fn iteration(team: &dyn Team, problem: &Problem, keys: &Shared<u32>, buckets: &mut Buckets, iteration: usize) -> usize {
    let mine = team.share(keys.len());
    for (place, value) in [(iteration, iteration), (iteration + ITERATIONS, problem.values() - iteration)] {
        if mine.contains(&place) {
            keys.write(place..place + 1)[0] = buckets::key(value);
        }
    }
    buckets.rank(team, &keys.read(mine));
    let passed = |test: &usize| {
        let place = problem.indices[*test];
        let rank = buckets.rank_of(keys.read(place..place + 1)[0]);
        problem.rank(*test, iteration) == Some(rank)
    };
    (0..TESTS).filter(passed).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_change_as_published() {
        let problem = Problem::of(Class::S);
        assert_eq!((problem.rank(0, 1), problem.rank(4, 10)), (Some(1), Some(65453)));
        let problem = Problem::of(Class::W);
        assert_eq!((problem.rank(0, 1), problem.rank(4, 1)), (Some(1248), Some(1_048_017)));
    }

    #[test]
    fn members_make_the_keys_of_one() {
        let problem = Problem::of(Class::S);
        let (mut all, mut part) = ([0; 100], [0; 30]);
        make_keys(&problem, &mut all, 0..100);
        make_keys(&problem, &mut part, 50..80);
        assert_eq!(part[..], all[50..80]);
        assert!(all.iter().all(|key| *key < 2048));
    }
}
