//! Litmus tests of what relaxed memory promises and what it does not: small programs, each thread on a rank of its own, at random homes and delays.

use crate::hlrc::LockId;
use crate::home::{HomeMap, HomeMapError};
use crate::id::{Page, Rank};
use crate::sim::rng::Rng;

use super::program::{Step, Variable};
use super::scenario::Scenario;

use Step::{Acquire, Barrier, Read, Release, Write};

/// A litmus test.
#[derive(Clone, Copy, Debug)]
pub struct Litmus {
    /// Its name.
    pub name: &'static str,
    /// Its threads.
    pub threads: &'static [&'static [Step]],
    /// The outcome that it is about, by what each thread has read.
    pub outcome: fn(&[Vec<u64>]) -> bool,
    /// Whether it can appear. A program with a race has such outcomes; one without has none.
    pub allowed: bool,
}

const X: Variable = Variable { page: Page(0), at: 8, len: 8 };
const Y: Variable = Variable { page: Page(1), at: 0, len: 8 };
/// Bytes of one word of one page.
const LEFT: Variable = Variable { page: Page(0), at: 3, len: 1 };
const RIGHT: Variable = Variable { page: Page(0), at: 4, len: 1 };
const A: LockId = LockId(0);
const B: LockId = LockId(1);

fn sees_y_not_x(reads: &[Vec<u64>]) -> bool {
    reads[1].ends_with(&[1, 0])
}

fn misses_x(reads: &[Vec<u64>]) -> bool {
    reads[1] == [0]
}

fn misses_a_neighbour(reads: &[Vec<u64>]) -> bool {
    reads.iter().any(|reads| *reads != [1, 2])
}

fn breaks_causality(reads: &[Vec<u64>]) -> bool {
    reads[1] == [1] && reads[2] == [1, 0]
}

fn loses_an_increment(reads: &[Vec<u64>]) -> bool {
    reads.iter().any(|reads| *reads != [3])
}

fn neither_sees_the_other(reads: &[Vec<u64>]) -> bool {
    reads[0] == [0] && reads[1] == [0]
}

const INCREMENT: &[Step] = &[Acquire(A), Step::Add(X), Release(A), Barrier, Read(X)];

/// The tests.
pub const LITMUS: &[Litmus] = &[
    Litmus {
        name: "MP by a lock",
        threads: &[
            &[Acquire(A), Write(X, 1), Write(Y, 1), Release(A)],
            &[Acquire(A), Read(X), Release(A), Acquire(A), Read(Y), Read(X), Release(A)],
        ],
        outcome: sees_y_not_x,
        allowed: false,
    },
    Litmus {
        name: "MP by a lock, what was written before it",
        threads: &[&[Write(X, 1), Acquire(A), Write(Y, 1), Release(A)], &[Acquire(A), Read(Y), Release(A), Read(X)]],
        outcome: sees_y_not_x,
        allowed: false,
    },
    Litmus {
        name: "MP by a barrier",
        threads: &[&[Write(X, 1), Barrier], &[Barrier, Read(X)]],
        outcome: misses_x,
        allowed: false,
    },
    Litmus {
        name: "false sharing: neighbouring bytes",
        threads: &[
            &[Write(LEFT, 1), Barrier, Read(LEFT), Read(RIGHT)],
            &[Write(RIGHT, 2), Barrier, Read(LEFT), Read(RIGHT)],
        ],
        outcome: misses_a_neighbour,
        allowed: false,
    },
    Litmus {
        name: "WRC by two locks: causality over three ranks",
        threads: &[
            &[Acquire(A), Write(X, 1), Release(A)],
            &[Acquire(A), Read(X), Release(A), Acquire(B), Write(Y, 1), Release(B)],
            &[Acquire(B), Read(Y), Release(B), Read(X)],
        ],
        outcome: breaks_causality,
        allowed: false,
    },
    Litmus {
        name: "increments under a lock",
        threads: &[INCREMENT, INCREMENT, INCREMENT],
        outcome: loses_an_increment,
        allowed: false,
    },
    Litmus {
        name: "MP without synchronisation of the reader",
        threads: &[
            &[Write(X, 1), Write(Y, 1), Acquire(A), Release(A)],
            &[Read(X), Acquire(B), Release(B), Acquire(B), Release(B), Acquire(B), Release(B), Read(Y), Read(X)],
        ],
        outcome: sees_y_not_x,
        allowed: true,
    },
    Litmus {
        name: "SB without synchronisation",
        threads: &[&[Write(X, 1), Read(Y)], &[Write(Y, 1), Read(X)]],
        outcome: neither_sees_the_other,
        allowed: true,
    },
    Litmus {
        name: "a race: a reader under another lock",
        threads: &[&[Acquire(A), Write(X, 1), Release(A), Barrier], &[Acquire(B), Read(X), Release(B), Barrier]],
        outcome: misses_x,
        allowed: true,
    },
];

impl Litmus {
    /// The test on a random machine.
    ///
    /// # Errors
    /// [`HomeMapError`], which none of its homes is.
    pub fn arrange(&self, rng: &mut Rng) -> Result<Scenario, HomeMapError> {
        let ranks = u16::try_from(self.threads.len()).unwrap_or(1);
        Ok(Scenario {
            homes: HomeMap::new([(1, Rank(rng.below_u16(ranks))), (1, Rank(rng.below_u16(ranks)))])?,
            team: vec![1; ranks.into()],
            programs: self.threads.iter().map(|thread| thread.to_vec()).collect(),
            locks: 2,
            log_words: rng.pick(&[1, 8]).unwrap_or(8),
            single_writer: rng.one_in(2),
            check_races: false,
            keep_after: rng.below_u32(2),
            lends: rng.one_in(2),
            planted: Vec::new(),
            cache_pages: None,
            written_pages: 64,
            delay: rng.pick(&[2, 20, 60]).unwrap_or(2),
            late_pages: rng.one_in(3),
            hints: rng.one_in(3),
            loss: None,
            // Whether a read races may depend on what another one has seen.
            check_reads: false,
        })
    }
}
