//! Litmus tests of x86-TSO: small programs on a few variables, each variable on a page of its own, at whatever home. The
//! processors have store buffers ([`super::guest`]); so below them memory has to be sequentially consistent for no
//! forbidden outcome to appear.
//!
//! Programs and verdicts: Intel SDM volume 3A section 10.2.3 ("Examples Illustrating the Memory-Ordering Principles"),
//! and Owens, Sarkar and Sewell, "A Better x86 Memory Model: x86-TSO" (2009).

use crate::home::{HomeMap, HomeMapError};
use crate::id::{Page, Rank, Tick};
use crate::node::WindowConfig;

use super::checkers::{Checker, Violation};
use super::guest::{Instruction, Op, Touch};
use super::machine::Outcome;
use super::network::Delays;
use super::rng::Rng;
use super::scenario::{Program, Scenario};

/// What a thread does with a variable, named by its index.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Stores a value.
    Store(usize, u64),
    /// Loads into the next register.
    Load(usize),
    /// Exchanges, as `xchg` does, which is locked; the old value goes into the next register.
    Exchange(usize, u64),
    /// `mfence`.
    Fence,
}

/// What one round of a test has come to.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// The registers of each thread.
    pub registers: &'a [Vec<u64>],
    /// The last values of the variables.
    pub last: &'a [u64],
}

/// A litmus test.
#[derive(Clone, Copy, Debug)]
pub struct Litmus {
    /// Its usual name.
    pub name: &'static str,
    /// Its threads.
    pub threads: &'static [&'static [Step]],
    /// Number of variables.
    pub variables: usize,
    /// The outcome that it is about.
    pub outcome: fn(Round<'_>) -> bool,
    /// Whether x86-TSO allows it.
    pub allowed: bool,
}

use Step::{Exchange, Fence, Load, Store};

fn sb(round: Round<'_>) -> bool {
    round.registers.iter().all(|registers| registers.last() == Some(&0))
}

fn mp(round: Round<'_>) -> bool {
    round.registers[1] == [1, 0]
}

fn lb(round: Round<'_>) -> bool {
    round.registers[0][0] == 1 && round.registers[1][0] == 1
}

fn iriw(round: Round<'_>) -> bool {
    round.registers[2] == [1, 0] && round.registers[3] == [1, 0]
}

fn two_plus_two_w(round: Round<'_>) -> bool {
    round.last == [1, 1]
}

fn wrc(round: Round<'_>) -> bool {
    round.registers[1][0] == 1 && round.registers[2] == [1, 0]
}

fn own_stores_first(round: Round<'_>) -> bool {
    round.registers[0] == [1, 0] && round.registers[1] == [1, 0]
}

/// The tests.
pub const LITMUS: &[Litmus] = &[
    Litmus {
        name: "SB",
        threads: &[&[Store(0, 1), Load(1)], &[Store(1, 1), Load(0)]],
        variables: 2,
        outcome: sb,
        allowed: true,
    },
    Litmus {
        name: "SB+mfences",
        threads: &[&[Store(0, 1), Fence, Load(1)], &[Store(1, 1), Fence, Load(0)]],
        variables: 2,
        outcome: sb,
        allowed: false,
    },
    Litmus {
        name: "SB+xchgs",
        threads: &[&[Exchange(0, 1), Load(1)], &[Exchange(1, 1), Load(0)]],
        variables: 2,
        outcome: sb,
        allowed: false,
    },
    Litmus {
        name: "SB+one mfence",
        threads: &[&[Store(0, 1), Fence, Load(1)], &[Store(1, 1), Load(0)]],
        variables: 2,
        outcome: sb,
        allowed: true,
    },
    Litmus {
        name: "n5 of SB: own stores are seen first",
        threads: &[&[Store(0, 1), Load(0), Load(1)], &[Store(1, 1), Load(1), Load(0)]],
        variables: 2,
        outcome: own_stores_first,
        allowed: true,
    },
    Litmus {
        name: "MP",
        threads: &[&[Store(0, 1), Store(1, 1)], &[Load(1), Load(0)]],
        variables: 2,
        outcome: mp,
        allowed: false,
    },
    Litmus {
        name: "MP+mfences",
        threads: &[&[Store(0, 1), Fence, Store(1, 1)], &[Load(1), Fence, Load(0)]],
        variables: 2,
        outcome: mp,
        allowed: false,
    },
    Litmus {
        name: "MP+xchg",
        threads: &[&[Store(0, 1), Exchange(1, 1)], &[Load(1), Load(0)]],
        variables: 2,
        outcome: mp,
        allowed: false,
    },
    Litmus {
        name: "LB",
        threads: &[&[Load(0), Store(1, 1)], &[Load(1), Store(0, 1)]],
        variables: 2,
        outcome: lb,
        allowed: false,
    },
    Litmus {
        name: "LB+xchgs",
        threads: &[&[Load(0), Exchange(1, 1)], &[Load(1), Exchange(0, 1)]],
        variables: 2,
        outcome: lb,
        allowed: false,
    },
    Litmus {
        name: "IRIW",
        threads: &[&[Store(0, 1)], &[Store(1, 1)], &[Load(0), Load(1)], &[Load(1), Load(0)]],
        variables: 2,
        outcome: iriw,
        allowed: false,
    },
    Litmus {
        name: "IRIW+mfences",
        threads: &[&[Store(0, 1)], &[Store(1, 1)], &[Load(0), Fence, Load(1)], &[Load(1), Fence, Load(0)]],
        variables: 2,
        outcome: iriw,
        allowed: false,
    },
    Litmus {
        name: "IRIW+xchgs",
        threads: &[&[Exchange(0, 1)], &[Exchange(1, 1)], &[Load(0), Load(1)], &[Load(1), Load(0)]],
        variables: 2,
        outcome: iriw,
        allowed: false,
    },
    Litmus {
        name: "2+2W",
        threads: &[&[Store(0, 1), Store(1, 2)], &[Store(1, 1), Store(0, 2)]],
        variables: 2,
        outcome: two_plus_two_w,
        allowed: false,
    },
    Litmus {
        name: "2+2W+mfences",
        threads: &[&[Store(0, 1), Fence, Store(1, 2)], &[Store(1, 1), Fence, Store(0, 2)]],
        variables: 2,
        outcome: two_plus_two_w,
        allowed: false,
    },
    Litmus {
        name: "2+2W+xchgs",
        threads: &[&[Exchange(0, 1), Exchange(1, 2)], &[Exchange(1, 1), Exchange(0, 2)]],
        variables: 2,
        outcome: two_plus_two_w,
        allowed: false,
    },
    Litmus {
        name: "WRC",
        threads: &[&[Store(0, 1)], &[Load(0), Store(1, 1)], &[Load(1), Load(0)]],
        variables: 2,
        outcome: wrc,
        allowed: false,
    },
];

/// Rounds of a test in one simulation.
pub const ROUNDS: usize = 12;

/// Windows of a simulation: none, or such that pages are shown early and looked for often.
const WINDOWS: [Option<WindowConfig>; 3] = [
    None,
    Some(WindowConfig { slots: 3, readers: 1, near: 4, wait: 0 }),
    Some(WindowConfig { slots: 64, readers: 1, near: 1, wait: 0 }),
];

/// The word of a variable's page that the test uses; the other one serves to bring the page into some state before.
const WORD: usize = 0;
const OTHER_WORD: usize = 1;

/// A test made into a scenario: each round on pages of its own.
#[derive(Clone, Debug)]
pub struct Arranged {
    /// The scenario.
    pub scenario: Scenario,
    /// The pages of the variables in each round.
    pages: Vec<Vec<Page>>,
}

impl Litmus {
    /// Spreads the threads over ranks and the variables over homes.
    ///
    /// # Errors
    /// [`HomeMapError`] never, as there are pages; it is passed on rather than ignored.
    pub fn arrange(&self, rng: &mut Rng) -> Result<Arranged, HomeMapError> {
        let threads = self.threads.len();
        let ranks = 2 + rng.below_u16(4);
        let needed = u32::try_from(ROUNDS * self.variables).unwrap_or(u32::MAX);
        let per_rank = needed.div_ceil(ranks.into());
        let homes = HomeMap::new((0..ranks).map(|rank| (per_rank, Rank(rank))))?;
        let mut free: Vec<Page> = (0..homes.pages()).map(Page).collect();
        let mut take = |rng: &mut Rng| free.swap_remove(rng.index(free.len()));
        let pages: Vec<Vec<Page>> =
            (0..ROUNDS).map(|_| (0..self.variables).map(|_| take(rng)).collect::<Vec<_>>()).collect();
        let programs = (0..threads)
            .map(|thread| Program {
                rank: Rank(rng.below_u16(ranks)),
                instructions: self.program(thread, &pages, rng),
                buffer: 4,
            })
            .collect();
        let longest = rng.pick(&[3, 20]).unwrap_or(3);
        let delays = Delays { shortest: 1, longest, slow: 3 * longest };
        let scenario = Scenario {
            hold: Tick(rng.pick(&[0, 20]).unwrap_or(0)),
            cache_pages: rng.pick(&[None, Some(2)]).flatten(),
            read_ahead: rng.pick(&[0, 8]).unwrap_or(0),
            migratory: rng.clone().next_u64() >> 63 == 0,
            first_touch: rng.pick(&[1, 4]).unwrap_or(1),
            companions: rng.clone().pick(&[0, 8]).unwrap_or(0),
            window: WINDOWS[rng.clone().index(WINDOWS.len())],
            nic_pause: longest,
            zeros_left_out_one_in: 2,
            ..Scenario::calm(ranks, homes, delays, programs)
        };
        Ok(Arranged { scenario, pages })
    }

    fn program(&self, thread: usize, pages: &[Vec<Page>], rng: &mut Rng) -> Vec<Instruction> {
        let mut program = Vec::new();
        for pages in pages {
            for page in pages {
                // A load of the other word would be taken for one of the test's, so a page is written or left alone.
                if rng.one_in(2) {
                    program.push(one(*page, OTHER_WORD, Op::Write(1)));
                }
            }
            program.push(Instruction::Meet);
            if rng.one_in(2) {
                program.push(Instruction::Pause(rng.below(60)));
            }
            program.extend(self.threads[thread].iter().map(|step| match *step {
                Store(variable, value) => one(pages[variable], WORD, Op::Write(value)),
                Load(variable) => one(pages[variable], WORD, Op::Read),
                Exchange(variable, value) => one(pages[variable], WORD, Op::Exchange(value)),
                Fence => Instruction::Fence,
            }));
        }
        program
    }

    /// How often the outcome that the test is about appeared.
    ///
    /// # Errors
    /// [`Violation`] when it is forbidden and did.
    pub fn judge(&self, arranged: &Arranged, outcome: &Outcome) -> Result<usize, Violation> {
        let mut appeared = 0;
        for (round, pages) in arranged.pages.iter().enumerate() {
            let registers: Vec<Vec<u64>> =
                (0..self.threads.len()).map(|thread| self.registers(thread, round, outcome)).collect();
            let last: Vec<u64> = pages.iter().map(|page| outcome.last[page.0 as usize][WORD]).collect();
            if !(self.outcome)(Round { registers: &registers, last: &last }) {
                continue;
            }
            appeared += 1;
            if !self.allowed {
                let what = format!("{}: registers {registers:?}, last values {last:?} in round {round}", self.name);
                return Err(Violation { checker: Checker::Litmus, page: pages.first().copied(), what });
            }
        }
        Ok(appeared)
    }

    fn registers(&self, thread: usize, round: usize, outcome: &Outcome) -> Vec<u64> {
        let looks = |step: &&Step| matches!(step, Load(_) | Exchange(..));
        let per_round = self.threads[thread].iter().filter(looks).count();
        outcome.registers[thread].iter().skip(round * per_round).take(per_round).copied().collect()
    }
}

fn one(page: Page, word: usize, op: Op) -> Instruction {
    Instruction::Touch(vec![Touch { page, word, op }])
}
